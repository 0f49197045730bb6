"""Assembled networks: loading, the block pool, the cost model and the planner."""
