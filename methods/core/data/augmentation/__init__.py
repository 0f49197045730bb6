"""Augmentation of images, noise and mixing."""

MAX_MAGNITUDE = 30
"""Of RandAugment. It is here since its own module loads torchvision, which takes a second."""
