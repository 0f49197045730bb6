"""Who hears of a search while it runs: events, its status, MLflow."""
