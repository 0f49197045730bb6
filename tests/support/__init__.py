"""Helpers that tests of several areas build."""
