"""What a network learns before there is a teacher or a label: it becomes the teacher, or the student's start.

A room of its own between the distiller and the experiment: its modules give what a `Distiller` gives and have the same
interface, so that the one training loop drives both, and its settings are a part of an experiment.
"""

from attention_transfer.pretraining.masked_autoencoder import MaskedAutoencoder
from attention_transfer.pretraining.settings import MaskedAutoencoding

__all__ = ["MaskedAutoencoder", "MaskedAutoencoding"]
