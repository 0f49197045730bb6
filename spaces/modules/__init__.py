"""Networks, layers, cuts and heads, of which families and blocks are made."""
