"""Objectives: methods, their weights, and the features that they read."""
