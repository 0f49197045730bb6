"""Samplers: every file here is one, under its name in ``run.sampler``."""
