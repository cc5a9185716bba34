"""Reading of image files: checked, scaled, cropped and kept in memory if they fit.

>>> form = delivered(224, photographs=True)
>>> form
Form(shorter=256, square=224, decoding=Decoding(as_shown=True, background=(255, 255, 255)))
>>> form.scaled(640, 480), form.cut(341, 256)
((341, 256), (58, 16, 282, 240))
"""

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
from attention_transfer.data.names import listed, shown
from attention_transfer.data.pipeline.decoding import AS_SHOWN, AS_STORED, Decoding
from attention_transfer.data.pipeline.formats import IncompleteImageError
from attention_transfer.errors import InputError

MEMORY_BUDGET = 2 << 30  # bytes of decoded images that a split may take; larger ones are decoded anew in every epoch
UNREADABLE_SHARE = 0.01  # of the files of a split that may be skipped
_LONGEST = 2  # sides: what is longer than twice its breadth is cut at both ends
_SCALED_WHOLE = 8  # canvases: of what is longer, only the part is scaled that is kept, or it might fill the memory
_ROOM = 256 / 224  # photographs are stored with so much more than is delivered, as ImageNet's evaluation has it


@dataclass(frozen=True)
class Form:
    """Resizing and cropping of files: the shorter side scaled to `shorter`, then a central crop of side `square`.

    Args:
        shorter: pixels.
        square: pixels, at most `shorter`; None keeps the whole image, apart from the ends of very long ones.
        decoding: how a file is decoded.
    """

    shorter: int
    square: int | None
    decoding: Decoding = AS_SHOWN

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
            ValueError: the file is not a complete image, or none of which 8-bit values follow.
        """
        image = self.decoding.read(path)
        size = self.scaled(*image.size)
        cut = self.cut(*size)
        if max(size) > _SCALED_WHOLE * self.canvas:
            return np.asarray(_scaled_part(image, size, cut))
        if size != image.size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image.crop(cut))


def _scaled_part(image: Image.Image, size: tuple[int, int], part: tuple[int, int, int, int]) -> Image.Image:
    """What cutting a part out of the whole image scaled to a size gives, but for rounding."""
    across, down = image.width / size[0], image.height / size[1]
    left, top, right, bottom = part
    box = (left * across, top * down, right * across, bottom * down)
    return image.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box)


def delivered(image_size: int, *, photographs: bool, decoding: Decoding = AS_SHOWN) -> Form:
    """Form for evaluation: a square, for photographs the central 87.5 %."""
    shorter = round(image_size * _ROOM) if photographs else image_size
    return Form(shorter, image_size, decoding)


def stored(image_size: int, *, photographs: bool, decoding: Decoding = AS_SHOWN) -> Form:
    """Form for training, from which crops are taken.

    Photographs are not kept at their own size: with so few pixels they fit memory, where they are decoded but once. A
    small crop is therefore a little softer than one that is cut from the file.
    """
    return Form(round(image_size * _ROOM), None, decoding) if photographs else Form(image_size, image_size, decoding)


@dataclass(frozen=True)
class Listing:
    """Files of a split, before any is opened.

    Args:
        paths: paths of the images.
        labels: class indices.
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
    name: str,
    classes: tuple[str, ...],
    train: Listing,
    test: Listing,
    image_size: int,
    root: Path,
    *,
    test_is: str = "test",
) -> DataSet:
    """A published data set of photographs, both of its parts read and normalised as for ImageNet.

    Files are decoded as the loaders of the papers do it: as they are stored, without turning them upright.

    Args:
        name: as a user writes it.
        classes: their names.
        train: files of the training split.
        test: files of the test split.
        image_size: side of the images, in pixels.
        root: folder of the files, for messages.
        test_is: the owners' name of the test split.

    Raises:
        ValueError: as `read` says.
    """

    def part(listing: Listing, form: Form, words: str) -> Split:
        what = f"{words} images in {root}"
        return read(listing, form, image_size=image_size, photographs=True, what=what, classes=classes)

    return DataSet(
        name=name,
        classes=classes,
        train=part(train, stored(image_size, photographs=True, decoding=AS_STORED), "training"),
        validation=None,
        test=part(test, delivered(image_size, photographs=True, decoding=AS_STORED), "test"),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=image_size,
        photographs=True,
        decoding=AS_STORED,
        test_is=test_is,
    )


def read(
    listing: Listing, form: Form, *, image_size: int, photographs: bool, what: str, classes: Sequence[str] = ()
) -> Split:
    """Decodes every file of a listing once; keeps the images in memory if they fit `MEMORY_BUDGET`, else as files.

    Files that cannot be decoded are left out and named on standard error.

    Args:
        listing: what to read.
        form: of images in memory.
        image_size: side of the squares that evaluation sees; boxes refer to these.
        photographs: whether evaluation sees the central part only.
        what: these files, in words, for messages.
        classes: their names; a class without any readable file is refused. None are needed where none may be missed.

    Raises:
        ValueError: more than `UNREADABLE_SHARE` of the files cannot be decoded, or none of a class, or there are none;
            or an image has more pixels than Pillow decodes, or values of which no 8-bit ones follow.
    """
    if not listing.paths:
        raise InputError(f"there are no {what}")
    with ThreadPoolExecutor() as pool:
        shapes = np.array(list(pool.map(partial(_shape, form.decoding), listing.paths)))
        known = shapes[:, 0] > 0
        scaled = np.array([form.scaled(width, height) for width, height in shapes[known].tolist()] or [(1, 1)])
        width, height = np.minimum(scaled.max(axis=0), form.canvas).tolist()
        # Sizes are read from the headers first: whether all fit is known before any is decoded.
        if len(shapes) * width * height * 3 <= MEMORY_BUDGET:
            canvas = np.zeros((len(shapes), height, width, 3), dtype=np.uint8)
            sizes = np.array(list(pool.map(partial(_fill, form), listing.paths, canvas)), dtype=np.int32)
            readable = sizes[:, 0] > 0
        else:
            canvas = sizes = None
            readable = np.array(list(pool.map(partial(_decodes, form.decoding), listing.paths)))
    _report(listing, readable, what, form.decoding)
    _refuse_lost_classes(listing, readable, classes, what)
    index = np.flatnonzero(readable)
    kept = listing.subset(index)
    boxes = kept.boxes
    if boxes is not None:
        boxes = _delivered_boxes(boxes, shapes[index], image_size, photographs=photographs)
    if canvas is None or sizes is None:
        return Split(tuple(kept.paths), kept.labels, boxes)
    images = canvas if len(index) == len(canvas) else canvas[index]
    return Split(images, kept.labels, boxes, sizes[index] if form.square is None else None)


def _shape(decoding: Decoding, path: Path) -> tuple[int, int]:
    """Width and height, without decoding; zeros where even that cannot be read."""
    try:
        return decoding.size(path)
    except IncompleteImageError:
        return 0, 0


def _fill(form: Form, path: Path, canvas: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int]:
    """Decodes into the upper left corner of a canvas; height and width, zeros where the file cannot be decoded."""
    try:
        image = form.read(path)
    except IncompleteImageError:
        return 0, 0
    height, width = image.shape[:2]
    canvas[:height, :width] = image
    return height, width


def _decodes(decoding: Decoding, path: Path) -> bool:
    try:
        decoding.check(path)
    except IncompleteImageError:
        return False
    return True


def _report(listing: Listing, readable: Bool[np.ndarray, " n"], what: str, decoding: Decoding) -> None:
    broken = [listing.paths[i] for i in np.flatnonzero(~readable).tolist()]
    if not broken:
        return
    names = listed(broken, len(broken))
    count = f"{len(broken)} of {len(readable)} {shown(what)} cannot be decoded"
    if len(broken) > UNREADABLE_SHARE * len(readable):
        reason = _reason(decoding, broken[0])
        raise InputError(f"{count}, more than {UNREADABLE_SHARE:.0%}{reason}: replace or remove {names}")
    print(f"{count} and are left out: {names}", file=sys.stderr)


def _reason(decoding: Decoding, path: Path) -> str:
    """Why a file cannot be decoded, in brackets."""
    try:
        decoding.check(path)
    except IncompleteImageError as error:
        return f" (of the first: {str(error).removeprefix(f'{shown(path)} is not a complete image: ')})"
    return ""


def _refuse_lost_classes(listing: Listing, readable: Bool[np.ndarray, " n"], classes: Sequence[str], what: str) -> None:
    lost = np.setdiff1d(listing.labels, listing.labels[readable]).tolist() if classes else []
    if lost:
        broken = next(path for path, label in zip(listing.paths, listing.labels, strict=True) if label == lost[0])
        raise InputError(
            f"none of the {shown(what)} of class {listed([classes[label] for label in lost], len(lost))} can be "
            f"decoded: replace {shown(broken)}, or remove the class"
        )


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
