"""Build each stage once, on one machine or on a cluster."""
