"""Errors, removal of secrets, atomic writes, metrics, provenance and formatting."""
