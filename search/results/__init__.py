"""What a search came to, as plain values, and the folder of its run."""
