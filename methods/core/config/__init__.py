"""Settings of training; no module here imports torch."""
