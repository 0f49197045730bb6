"""Errors, addresses without their secrets, whole files, and how figures are written."""
