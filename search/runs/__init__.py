"""Earlier runs: reads their folders and outcomes, and writes their best configurations."""
