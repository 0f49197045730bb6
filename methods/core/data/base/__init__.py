"""The base of all data sources: sources, splits, batches and stores."""
