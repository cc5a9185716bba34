"""Image files: read once, checked, and brought to one of two forms."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL import Image

from attention_transfer.data.dataset import IMAGENET_MEAN, IMAGENET_STD, DataSet, Split
from attention_transfer.errors import InputError

MEMORY_BUDGET = 2 << 30  # bytes of decoded images that a split may take; larger ones are decoded anew in every epoch
UNREADABLE_SHARE = 0.01  # of the files of a split that may be skipped
_NAMED = 10  # so many unreadable files are named in a message
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)  # how PIL reports broken files
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
_LONGEST = 2  # sides: what is longer than twice its breadth is cut at both ends
_ROOM = 256 / 224  # photographs are stored with so much more than is delivered, as ImageNet's evaluation has it


@dataclass(frozen=True)
class Form:
    """How files become arrays: the shorter side scaled to `shorter`, then the central square of side `square` cut out.

    Args:
        shorter: pixels.
        square: pixels, at most `shorter`; None keeps the whole image, apart from the ends of very long ones.
    """

    shorter: int
    square: int | None

    @property
    def canvas(self) -> int:
        """Largest possible side of a result."""
        return self.square or _LONGEST * self.shorter

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after scaling, before cutting."""
        short = min(width, height)
        return max(round(width * self.shorter / short), 1), max(round(height * self.shorter / short), 1)

    def cut(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of what is kept of a scaled image."""
        wide, high = (self.square or min(side, self.canvas) for side in (width, height))
        left, top = (width - wide) // 2, (height - high) // 2
        return left, top, left + wide, top + high

    def read(self, path: Path) -> UInt8[np.ndarray, "h w 3"]:
        """The image of a file in this form.

        Raises:
            ValueError: the file is not a complete image.
        """
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except _BROKEN as error:
            raise InputError(f"{path} is not a complete image: {error}") from error
        size = self.scaled(*image.size)
        if size != image.size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image.crop(self.cut(*size)))


def delivered(image_size: int, *, photographs: bool) -> Form:
    """The form in which evaluation sees a file: a square, for photographs the central 87.5 %."""
    return Form(round(image_size * _ROOM) if photographs else image_size, image_size)


def stored(image_size: int, *, photographs: bool) -> Form:
    """The form from which training crops are taken.

    Photographs are not kept at their own size: with so few pixels they fit memory, where they are decoded but once. A
    small crop is therefore a little softer than one that is cut from the file.
    """
    return Form(round(image_size * _ROOM), None) if photographs else Form(image_size, image_size)


@dataclass(frozen=True)
class Listing:
    """Files of a split, before any is opened.

    Args:
        paths: of the images.
        labels: class numbers.
        boxes: left, top, right, bottom (exclusive) in pixels of the files; NaN where unknown; None without any.
    """

    paths: Sequence[Path]
    labels: Int64[np.ndarray, " n"]
    boxes: Float32[np.ndarray, "n 4"] | None = None

    def subset(self, index: Int64[np.ndarray, " m"]) -> "Listing":
        """The files at these positions, in this order."""
        boxes = None if self.boxes is None else self.boxes[index]
        return Listing([self.paths[i] for i in index.tolist()], self.labels[index], boxes)


def photographs(
    name: str, classes: tuple[str, ...], train: Listing, test: Listing, image_size: int, place: Path
) -> DataSet:
    """A data set of photographs, both of its parts read and normalised as for ImageNet.

    Args:
        name: as a user writes it.
        classes: their names.
        train: files to learn from.
        test: files to measure on.
        image_size: side in pixels of what is delivered.
        place: where they lie, for messages.

    Raises:
        ValueError: as `read` says.
    """

    def part(listing: Listing, form: Form, words: str) -> Split:
        return read(listing, form, image_size=image_size, photographs=True, what=f"{words} images in {place}")

    return DataSet(
        name=name,
        classes=classes,
        train=part(train, stored(image_size, photographs=True), "training"),
        validation=None,
        test=part(test, delivered(image_size, photographs=True), "test"),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=image_size,
        photographs=True,
    )


def read(listing: Listing, form: Form, *, image_size: int, photographs: bool, what: str) -> Split:
    """Decodes every file of a listing once; keeps the images in memory if they fit `MEMORY_BUDGET`, else as files.

    Files that cannot be decoded are left out and named on standard error.

    Args:
        listing: what to read.
        form: of images in memory.
        image_size: side of the squares that evaluation sees; boxes refer to these.
        photographs: whether evaluation sees the central part only.
        what: these files, in words, for messages.

    Raises:
        ValueError: more than `UNREADABLE_SHARE` of the files cannot be decoded, or there are none.
    """
    if not listing.paths:
        raise InputError(f"there are no {what}")
    with ThreadPoolExecutor() as pool:
        shapes = np.array(list(pool.map(_shape, listing.paths)))
        known = shapes[:, 0] > 0
        scaled = np.array([form.scaled(width, height) for width, height in shapes[known].tolist()] or [(1, 1)])
        width, height = np.minimum(scaled.max(axis=0), form.canvas).tolist()
        if len(shapes) * width * height * 3 <= MEMORY_BUDGET:
            canvas = np.zeros((len(shapes), height, width, 3), dtype=np.uint8)
            sizes = np.array(list(pool.map(partial(_fill, form), listing.paths, canvas)), dtype=np.int32)
            readable = sizes[:, 0] > 0
        else:
            canvas = sizes = None
            readable = np.array(list(pool.map(_decodes, listing.paths)))
    _report(listing, readable, what)
    index = np.flatnonzero(readable)
    kept = listing.subset(index)
    boxes = kept.boxes
    if boxes is not None:
        boxes = _delivered_boxes(boxes, shapes[index], image_size, photographs=photographs)
    if canvas is None or sizes is None:
        return Split(tuple(kept.paths), kept.labels, boxes)
    images = canvas if len(index) == len(canvas) else canvas[index]
    return Split(images, kept.labels, boxes, sizes[index] if form.square is None else None)


def _shape(path: Path) -> tuple[int, int]:
    """Width and height, without decoding; zeros where even that cannot be read."""
    try:
        with Image.open(path) as file:
            return file.size
    except _BROKEN:
        return 0, 0


def _fill(form: Form, path: Path, canvas: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int]:
    """Decodes into the upper left corner of a canvas; height and width, zeros where the file cannot be decoded."""
    try:
        image = form.read(path)
    except ValueError:
        return 0, 0
    height, width = image.shape[:2]
    canvas[:height, :width] = image
    return height, width


def _decodes(path: Path) -> bool:
    try:
        with Image.open(path) as file:
            file.draft("RGB", (1, 1))  # JPEG reads all bytes at an eighth of the size: much faster, as strict
            file.load()
    except _BROKEN:
        return False
    return True


def _report(listing: Listing, readable: Bool[np.ndarray, " n"], what: str) -> None:
    broken = [str(listing.paths[i]) for i in np.flatnonzero(~readable).tolist()]
    if not broken:
        return
    names = ", ".join(broken[:_NAMED]) + (f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else "")
    count = f"{len(broken)} of {len(readable)} {what} cannot be decoded"
    if len(broken) > UNREADABLE_SHARE * len(readable):
        raise InputError(f"{count}, more than {UNREADABLE_SHARE:.0%}: replace or remove {names}")
    print(f"{count} and are left out: {names}", file=sys.stderr)


def _delivered_boxes(
    boxes: Float32[np.ndarray, "n 4"], shapes: Int64[np.ndarray, "n 2"], image_size: int, *, photographs: bool
) -> Float32[np.ndarray, "n 4"]:
    """Boxes of files in pixels of what evaluation sees of them; NaN where that is nothing."""
    form = delivered(image_size, photographs=photographs)
    scaled = np.array([form.scaled(width, height) for width, height in shapes.tolist()])
    corner = np.array([form.cut(width, height)[:2] for width, height in scaled.tolist()])
    moved = boxes * np.tile(scaled / shapes, 2) - np.tile(corner, 2)
    moved = moved.clip(0, image_size)
    moved[~((moved[:, 0] < moved[:, 2]) & (moved[:, 1] < moved[:, 3]))] = np.nan
    return moved.astype(np.float32)
