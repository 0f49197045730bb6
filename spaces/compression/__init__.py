"""Pruning and quantisation of networks."""
