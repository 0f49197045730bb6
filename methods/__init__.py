"""How a student learns: objectives, data and the training loop. Every file here is a method."""
