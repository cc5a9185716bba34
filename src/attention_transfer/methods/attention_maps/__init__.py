"""Parts of methods: losses between attention maps, matching of heads, other grids of tokens."""
