"""Networks put together from blocks: loaded, pooled, costed and planned."""
