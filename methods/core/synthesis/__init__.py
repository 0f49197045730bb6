"""Inputs that are made: inversion of a teacher, distilled data."""
