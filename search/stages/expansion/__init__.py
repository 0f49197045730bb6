"""What several kinds of stage share when an entry of an experiment becomes stages."""
