"""What may vary: domains, configurations, networks and their costs."""
