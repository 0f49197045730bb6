"""Training loops: a network, its teachers, heads, neighbourhoods, and their evaluation."""
