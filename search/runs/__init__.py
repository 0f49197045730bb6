"""Earlier runs: their folder read, their outcome found, their best configurations as files."""
