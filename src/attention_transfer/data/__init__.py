"""Data sets by name, and loaders of their batches."""

from attention_transfer.batch import Batch
from attention_transfer.errors import needing

with needing("reading data sets"):
    from attention_transfer.data.dataset import DataSet, Split
    from attention_transfer.data.pipeline.loader import Loader, loader
    from attention_transfer.data.registry import DATA, OWN_SIDES, load

__all__ = ["DATA", "OWN_SIDES", "Batch", "DataSet", "Loader", "Split", "load", "loader"]
