"""Networks, layers, cuts, heads: the modules that families and blocks are made of."""
