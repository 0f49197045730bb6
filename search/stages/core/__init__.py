"""The base of all kinds of stage: stage, key, operation and configuration."""
