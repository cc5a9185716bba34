"""Adaptive attention links: from attention maps of a transformer to channels of a CNN."""
