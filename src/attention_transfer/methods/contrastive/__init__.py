"""Contrastive transfer and its memory bank."""
