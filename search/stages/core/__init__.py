"""What every kind of stage rests on: the stage, its key and the configuration of a kind."""
