"""The settings of a training run; nothing here loads torch."""
