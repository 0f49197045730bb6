"""Proposing trials, running them and recording what came of them."""
