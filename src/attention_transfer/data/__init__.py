"""Data sets by name, and loaders that yield batches of images, labels and dataset indices.

>>> import numpy as np
>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     for split, count in (("train", 40), ("test", 10)):
...         images = np.full((count, 32, 32, 3), 128, dtype=np.uint8)
...         np.savez(f"{folder}/{split}.npz", images=images, labels=np.arange(count) % 5)
...     dataset = load(f"npz:{folder}", validation_fraction=0.2)
>>> isinstance(dataset, DataSet), dataset.num_classes, dataset.image_size, dataset.splits
(True, 5, 32, {'train': Split(33 images of 32×32×3, 5 classes), 'validation': ..., 'test': ...})
>>> batches = loader(dataset.train, dataset, batch_size=8, train=True, augment="crop", seed=0)
>>> isinstance(batches, Loader), batches.num_batches
(True, 4)
>>> batch = next(batches.epoch(0))
>>> batch.image.shape, batch.image.dtype, batch.label.shape, batch.index.shape
(torch.Size([8, 3, 32, 32]), torch.float32, torch.Size([8]), torch.Size([8]))

Order and augmentation are functions of seed, epoch and dataset index, so an epoch can be entered anywhere:

>>> again = next(batches.epoch(0, start=1))
>>> _, second, *_ = batches.epoch(0)
>>> bool((again.image == second.image).all())
True

`DATA` has the names, `OWN_SIDES` the sides in pixels of their images (None if only the files say):

>>> sorted(DATA)[:4], OWN_SIDES["tiny-imagenet"]
(['cifar10', 'cifar100', 'cluttered-digits', 'cub200'], 64)
"""

from attention_transfer.batch import Batch
from attention_transfer.errors import needing

with needing("reading data sets"):
    from attention_transfer.data.dataset import DataSet, Split
    from attention_transfer.data.pipeline.loader import Loader, loader
    from attention_transfer.data.registry import DATA, OWN_SIDES, load

__all__ = ["DATA", "OWN_SIDES", "Batch", "DataSet", "Loader", "Split", "load", "loader"]
