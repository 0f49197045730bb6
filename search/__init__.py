"""Which stages run, where, and only once."""
