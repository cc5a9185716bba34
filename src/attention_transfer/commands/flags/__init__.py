"""Flags as data: what there are, how words become their values, and how they are shown. Standard library only."""
