"""Formats of stored data: encoded images, shards, folders, tables."""
