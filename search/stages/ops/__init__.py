"""What runs when a stage is built: one operation a file."""
