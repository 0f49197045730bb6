"""The search: what is asked, what is built once, how trials run and what came of them."""
