"""Augmentation of images, noise and mixing."""
