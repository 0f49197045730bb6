"""What runs beneath a training step: precision, seeds, caches, several processes."""
