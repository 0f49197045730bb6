"""Monitoring of a running search: events, status, needed keys, teachers and MLflow."""
