"""What can be read of a network: stages, heads, pooling, attention layers and grids of tokens."""
