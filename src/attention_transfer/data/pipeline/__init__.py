"""From files to batches: decoding, order, augmentation, mixing and the loader."""
