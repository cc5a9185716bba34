"""Cluttered digits, the built-in data set: one handwritten digit among fragments of others on a textured canvas.

>>> split = draw("train", torch.tensor([0, 1, 2]))
>>> split
Split(3 images of 32×32×3, 3 classes, with boxes)
>>> left, top, right, bottom = split.boxes[0]
>>> bool(0 <= left < right <= 32 and 0 <= top < bottom <= 32)
True
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64, UInt8
from torch import Tensor

from attention_transfer.counter_rng import hashed, integers
from attention_transfer.data.dataset import DataSet, Split, scaled_boxes
from attention_transfer.data.request import Request
from attention_transfer.errors import needing

# Fixed after short runs without teachers (6 epochs, batches of 64, two seeds: ResNet-8 65 and 66 % of the test
# images, ResNet-20 89 and 90 %), then frozen by a test. Never to be tuned to make a method win.
SIDE = 32
NUM_IMAGES = {"train": 6000, "test": 2000}
TEST_SHARE = 0.3  # of the scanned digits of each class
GLYPH_SIDES = (14, 20)  # an 8×8 scan is enlarged to a side of this range, in pixels
NUM_FRAGMENTS = 5
NUM_FRAGMENTS_ABOVE = 1  # fragments that lie over the digit, the others under it
FRAGMENT_SIDES = (6, 10)  # range of the rows and columns of an enlarged glyph that a fragment shows, in pixels
GROUND = (92, 164)  # range of the background's colours, in levels of 255
CONTRAST = (60, 127)  # distance of an ink from the middle level 128, above or below, in levels
NOISE = 16  # largest deviation of a single pixel, in levels

_CHUNK = 500
_KNOTS = 5  # the texture is interpolated between 5×5 colours
# Streams of the hash: what is drawn for one thing never depends on what is drawn for another.
_DIVISION, _GLYPH, _SIZE, _POSITION, _WINDOW, _INK, _TEXTURE, _NOISE = range(8)


def cluttered_digits(request: Request) -> DataSet:
    """32×32 colour images of the digits 0…9 in clutter, with the digit's bounding box.

    The 1,797 digits are scikit-learn's `load_digits`. They are divided first: no test image shows a digit, not even
    as a fragment, that a training image shows. Digit and fragments have the same strokes and inks; only a complete
    shape tells the digit from its surroundings.
    """
    size = request.image_size or SIDE
    chosen = request.selection.positions(_labels("train", torch.arange(NUM_IMAGES["train"])).numpy(), 10)
    return DataSet(
        name="cluttered-digits",
        classes=tuple("0123456789"),
        numerals=True,
        train=scaled_boxes(draw("train", torch.from_numpy(chosen)), size / SIDE),
        validation=None,
        test=scaled_boxes(draw("test", torch.arange(NUM_IMAGES["test"])), size / SIDE),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        image_size=size,
        photographs=False,
        mirrored=False,
    )


def draw(split: Literal["train", "test"], index: Int64[Tensor, " n"], seed: int = 0) -> Split:
    """Images of a split: each is a pure function of the split, the seed and its index."""
    glyphs, counts = _scans(split)
    parts = [_draw(glyphs, counts, chunk, _stream(split, seed)) for chunk in index.split(_CHUNK)]
    images, labels, boxes = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return Split(images, labels, boxes)


def _labels(split: Literal["train", "test"], index: Int64[Tensor, " n"], seed: int = 0) -> Int64[Tensor, " n"]:
    """Classes of images that need not be drawn for it."""
    return _choose(_scans(split)[1], index[:, None], _stream(split, seed))[1]


def _stream(split: Literal["train", "test"], seed: int) -> int:
    return 2 * seed + (split == "test")


def _scans(split: Literal["train", "test"]) -> tuple[Float32[Tensor, "g 8 8"], Int64[Tensor, "10"]]:
    """The scans of one side of the division, sorted by class (ink 0…16), and how many there are of each class."""
    with needing("cluttered-digits", "sklearn"):
        from sklearn.datasets import load_digits
    scans, classes = load_digits(return_X_y=True)
    order = np.argsort(hashed(0, _DIVISION, torch.arange(len(classes))).numpy(), kind="stable")
    chosen: list[np.ndarray] = []
    for digit in range(10):
        members = order[classes[order] == digit]
        cut = round(TEST_SHARE * len(members))
        chosen.append(members[:cut] if split == "test" else members[cut:])
    glyphs = scans[np.concatenate(chosen)].astype(np.float32).reshape(-1, 8, 8)
    return torch.from_numpy(glyphs), torch.tensor([len(members) for members in chosen])


def _draw(
    glyphs: Float32[Tensor, "g 8 8"], counts: Int64[Tensor, "10"], index: Int64[Tensor, " n"], stream: int
) -> tuple[UInt8[Tensor, "n 32 32 3"], Int64[Tensor, " n"], Float32[Tensor, "n 4"]]:
    """Everything is computed in integers, some held by float32 for fast products, hence equal on all machines."""
    image = index[:, None]
    part = torch.arange(NUM_FRAGMENTS + 1)  # 0 is the digit, the others are fragments
    which, label = _choose(counts, image, stream)

    low, high = GLYPH_SIDES
    size = low + integers(high - low + 1, stream, _SIZE, image, part)
    axes = torch.arange(2)  # vertical, horizontal
    position = (stream, _POSITION, image[:, :, None], part[:, None], axes)
    # The digit lies within the canvas; glyphs of fragments may reach beyond it.
    reach = torch.where(part > 0, size // 2, 0)
    corner = integers((SIDE - size + 2 * reach + 1)[..., None], *position) - reach[..., None]

    low, high = FRAGMENT_SIDES
    window = (stream, _WINDOW, image[:, :, None], part[:, None])
    shown = low + integers(high - low + 1, *window, axes)
    start = integers((size[..., None] - shown + 1), *window, axes + 2)
    whole = (part == 0)[:, None]
    first = corner + torch.where(whole, 0, start)
    last = corner + torch.where(whole, size[..., None], start + shown)

    rows, columns = (_enlargement(size, corner[..., a], first[..., a], last[..., a]) for a in range(2))
    # At most 16·16·16·(overlap of weights): far below 2²⁴, so every sum is exact in any order.
    cover = (rows @ glyphs[which] @ columns.mT).to(torch.int32).clamp_(max=4096) >> 4

    canvas = _ground(index, stream)
    low, high = CONTRAST
    ink = (stream, _INK, image[:, :, None], part[:, None])
    channels = torch.arange(3)
    distance = low + integers(high - low + 1, *ink, channels)
    side = integers(2, *ink, torch.tensor(3)) * 2 - 1
    colour = (128 + side * distance).to(torch.int32)
    for p in (*range(1 + NUM_FRAGMENTS_ABOVE, NUM_FRAGMENTS + 1), *range(NUM_FRAGMENTS_ABOVE + 1)):
        alpha = cover[:, p, :, :, None]
        canvas += ((colour[:, p, None, None, :] - canvas) * alpha) >> 8
    pixel = torch.arange(SIDE * SIDE * 3).reshape(SIDE, SIDE, 3)
    noise = integers(2 * NOISE + 1, stream, _NOISE, index[:, None, None, None], pixel) - NOISE
    canvas += noise.to(torch.int32)
    return canvas.clamp_(0, 255).to(torch.uint8), label, _extent(cover[:, 0])


def _choose(
    counts: Int64[Tensor, "10"], image: Int64[Tensor, "n 1"], stream: int
) -> tuple[Int64[Tensor, "n p"], Int64[Tensor, " n"]]:
    """Which scan each part shows, the digit first, and the digit's class; fragments are of other classes."""
    ends = counts.cumsum(0)
    total = int(ends[-1])
    digit = integers(total, stream, _GLYPH, image, torch.zeros(1, dtype=torch.int64))
    label = torch.searchsorted(ends, digit[:, 0], right=True)
    own = counts[label][:, None]
    fragments = integers(total - own, stream, _GLYPH, image, torch.arange(1, NUM_FRAGMENTS + 1))
    fragments = torch.where(fragments >= ends[label][:, None] - own, fragments + own, fragments)
    return torch.cat([digit, fragments], dim=1), label


def _enlargement(
    size: Int64[Tensor, "n p"], corner: Int64[Tensor, "n p"], first: Int64[Tensor, "n p"], last: Int64[Tensor, "n p"]
) -> Float32[Tensor, "n p 32 8"]:
    """Weights 0…16 with which the 8 rows of a scan make the 32 of the canvas: bilinear, zero outside [first, last)."""
    pixel = torch.arange(SIDE)
    size, corner, first, last = (value[..., None] for value in (size, corner, first, last))
    # Centre of each pixel in the scan, in 256ths of its pixels.
    centre = ((2 * (pixel - corner) + 1) * 8 * 256) // (2 * size) - 128
    centre = centre.clamp(0, 7 * 256)
    weight = (256 - (centre[..., None] - 256 * torch.arange(8)).abs()).clamp(min=0) >> 4
    visible = (pixel >= first) & (pixel < last)
    return (weight * visible[..., None]).to(torch.float32)


def _ground(index: Int64[Tensor, " n"], stream: int) -> Int32[Tensor, "n 32 32 3"]:
    """A smooth texture between random colours."""
    low, high = GROUND
    knots = low + integers(
        high - low + 1, stream, _TEXTURE, index[:, None, None], torch.arange(_KNOTS**2), torch.arange(3)[:, None]
    )
    position = torch.arange(SIDE) * (_KNOTS - 1) * 16 // (SIDE - 1)  # in 16ths of the distance between two knots
    weight = (16 - (position[:, None] - 16 * torch.arange(_KNOTS)).abs()).clamp(min=0).to(torch.float32)
    field = weight @ knots.to(torch.float32).reshape(-1, 3, _KNOTS, _KNOTS) @ weight.mT
    return (field.to(torch.int32) >> 8).permute(0, 2, 3, 1).contiguous()


def _extent(cover: Int32[Tensor, "n 32 32"]) -> Float32[Tensor, "n 4"]:
    """The smallest box around what is visibly inked."""
    inked = cover >= 64
    sides: list[Tensor] = []
    for line in (inked.any(dim=1), inked.any(dim=2)):  # columns, rows
        first = line.to(torch.int32).argmax(dim=1)
        last = SIDE - line.flip(1).to(torch.int32).argmax(dim=1)
        sides += [first, last]
    left, right, top, bottom = sides
    return torch.stack([left, top, right, bottom], dim=1).to(torch.float32)
