"""Kinds of stages, one a file: what may stand under ``stages:`` in an experiment."""
