"""An objective: methods, their weights, and what they look at."""
