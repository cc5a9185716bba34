"""The training loop, optimisers, checkpoints, teacher cache and evaluation."""
