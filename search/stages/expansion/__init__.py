"""Expansion of entries to stages, as far as several kinds share it."""
