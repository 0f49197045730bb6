"""Exporting a student: formats, the check of its files and the model card."""
