"""Sources of a loader's pixels: images in memory, or files decoded in every epoch.

>>> import numpy as np
>>> split = Split(np.arange(12, dtype=np.uint8).reshape(4, 1, 1, 3), np.zeros(4, np.int64))
>>> memory = Memory(split, torch.device("cpu"))
>>> [pixels.flatten().tolist() for pixels, _ in memory.batches([torch.tensor([3, 0])])]
[[9, 10, 11, 0, 1, 2]]
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from attention_transfer.data.dataset import Split
from attention_transfer.data.pipeline.image_files import Form
from attention_transfer.errors import InputError

Finish = Callable[[UInt8[Tensor, "b h w 3"], Int64[Tensor, "b 2"] | None, Int64[Tensor, " b"]], Tensor]
Pixels = tuple[UInt8[Tensor, "_ _ _ 3"], Int64[Tensor, "_ 2"] | None]


class Memory:
    """Decoded images, moved to the device once, as bytes."""

    def __init__(self, split: Split, device: torch.device) -> None:
        if isinstance(split.images, tuple):
            raise InputError("these images are files: read them with Files")
        self._images = torch.from_numpy(split.images).to(device)
        self._sizes = None if split.sizes is None else torch.from_numpy(split.sizes).to(device, torch.int64)

    def batches(self, batches: Sequence[Int64[Tensor, " _"]]) -> Iterator[Pixels]:
        """Pixels, and sizes where images do not fill their canvas, of each batch of positions (on the device)."""
        for index in batches:
            yield self._images[index], None if self._sizes is None else self._sizes[index]


class Files:
    """Image files, decoded anew in every epoch, in worker processes if there are any."""

    def __init__(self, paths: Sequence[Path], form: Form, num_workers: int, device: torch.device) -> None:
        self._decoder = _Decoder(paths, form)
        self._num_workers = num_workers
        self._device = device

    def batches(self, batches: Sequence[Int64[Tensor, " _"]]) -> Iterator[Pixels]:
        """Pixels, and sizes where images do not fill their canvas, of each batch of positions."""
        square = self._decoder.form.square is not None
        for images, sizes in self._decoded(batches, _stacked):
            yield images, None if square else sizes

    def finished_batches(self, batches: Sequence[Int64[Tensor, " _"]], finish: Finish) -> Iterator[Tensor]:
        """Each batch, finished in the process that decoded it.

        Args:
            batches: positions.
            finish: makes squares of pixels, their sizes and positions, on a CPU.
        """
        square = self._decoder.form.square is not None
        return self._decoded(batches, partial(_finished, finish, square))

    def _decoded(self, batches: Sequence[Int64[Tensor, " _"]], collate: Callable[..., Any]) -> Iterator[Any]:
        on_accelerator = self._device.type != "cpu"
        decoded = DataLoader(
            self._decoder,
            batch_sampler=[index.tolist() for index in batches],
            num_workers=self._num_workers,
            collate_fn=collate,
            pin_memory=self._device.type == "cuda",
            # A loader draws a number for its workers; torch's own generator is the model's and must not notice.
            generator=torch.Generator(),
        )
        for batch in decoded:
            if isinstance(batch, Tensor):
                yield batch.to(self._device, non_blocking=on_accelerator)
            else:
                yield tuple(part.to(self._device, non_blocking=on_accelerator) for part in batch)


class _Decoder(Dataset[tuple[Tensor, int]]):
    def __init__(self, paths: Sequence[Path], form: Form) -> None:
        self.paths = paths
        self.form = form

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.form.read(self.paths[index]).copy()), index

    def __len__(self) -> int:
        return len(self.paths)


def _stacked(
    decoded: list[tuple[UInt8[Tensor, "_ _ 3"], int]],
) -> tuple[UInt8[Tensor, "b h w 3"], Int64[Tensor, "b 2"]]:
    """Images in the upper left corners of canvases that are as large as the batch needs."""
    images = [image for image, _ in decoded]
    sizes = torch.tensor([image.shape[:2] for image in images])
    height, width = sizes.amax(dim=0).tolist()
    canvas = torch.zeros(len(images), height, width, 3, dtype=torch.uint8)
    for target, image in zip(canvas, images, strict=True):
        target[: image.shape[0], : image.shape[1]] = image
    return canvas, sizes


def _finished(finish: Finish, square: bool, decoded: list[tuple[UInt8[Tensor, "_ _ 3"], int]]) -> Tensor:
    canvas, sizes = _stacked(decoded)
    return finish(canvas, None if square else sizes, torch.tensor([index for _, index in decoded])).contiguous()
