"""Data sets: sources, splits, augmentation, and batches on the device."""
