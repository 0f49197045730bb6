"""What is asked: the experiment file, its checks and the stages it describes."""
