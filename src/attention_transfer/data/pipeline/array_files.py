"""NumPy archives (.npz) of images, labels, class names and boxes, read and checked.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     path = Path(folder) / "train.npz"
...     np.savez(path, images=np.zeros((4, 16, 16, 3), np.uint8), labels=np.array([0, 1, 1, 0]))
...     arrays = read_arrays(path)
>>> arrays.side, arrays.split(first=0)
(16, Split(4 images of 16×16×3, 2 classes))
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from attention_transfer.data.dataset import Split
from attention_transfer.data.names import is_text, listed, shown
from attention_transfer.errors import InputError
from attention_transfer.files.untrusted import unpacks_to

_SMALLEST = 8  # pixels a side
# A zip bomb unpacks to a thousand times its size; images compress to a hundredth at best, and 2 GiB fit in memory.
_UNPACKED_TIMES, _UNPACKED_BYTES = 100, 2**31
_KEYS = ("images", "labels", "classes", "boxes")


@dataclass(frozen=True)
class ArrayFile:
    """Arrays of one file.

    Args:
        path: path of the file.
        images: as they were saved, but in three channels.
        labels: as they were saved.
        names: of the classes; empty where the file says none.
        boxes: left, top, right, bottom in pixels; None without any.
    """

    path: Path
    images: UInt8[np.ndarray, "n s s 3"]
    labels: Int64[np.ndarray, " n"]
    names: tuple[str, ...]
    boxes: Float32[np.ndarray, "n 4"] | None

    @property
    def side(self) -> int:
        """Side of the images, in pixels."""
        return self.images.shape[1]

    def split(self, first: int) -> Split:
        """The images with class indices, where labels count from `first`."""
        return Split(self.images, self.labels - first, self.boxes)


def read_arrays(path: Path) -> ArrayFile:
    """Reads and checks a file.

    Raises:
        ValueError: it is no such file, lacks images or labels, or holds others than it should.
    """
    try:
        _refuse_bomb(path)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays: dict[str, np.ndarray] = {key: file[key] for key in _KEYS if key in file}
            found = tuple(file)
    except InputError:
        raise
    except Exception as error:  # numpy passes on whatever zip, zlib and its own parser raise
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{shown(path)} cannot be read: {error.strerror}") from error
        if "allow_pickle" in str(error):
            raise InputError(
                f"{shown(path)} holds pickled objects, which could run code, and is not read: give arrays of numbers "
                "and texts; images of several sizes belong into a folder:PATH"
            ) from error
        raise InputError(f"{shown(path)} is not a readable npz file without pickled objects: {shown(error)}") from error
    for key in ("images", "labels"):
        if key not in arrays:
            raise InputError(
                f"{shown(path)} has no array '{key}' but {listed(found, len(found)) or 'nothing'}: save one with "
                "numpy.savez(path, images=..., labels=...)"
            )
    images = _checked_images(path, arrays["images"])
    labels = _checked_labels(path, arrays["labels"], len(images))
    boxes = _checked_boxes(path, arrays["boxes"], len(images)) if "boxes" in arrays else None
    return ArrayFile(path, images, labels, _names(path, arrays.get("classes")), boxes)


def _refuse_bomb(path: Path) -> None:
    """Refuse an archive that unpacks to so many bytes that it cannot hold images (a zip bomb)."""
    unpacked = unpacks_to(path, times=_UNPACKED_TIMES, least=_UNPACKED_BYTES)
    if unpacked is not None:
        raise InputError(
            f"{shown(path)} unpacks to {unpacked:,} bytes from {path.stat().st_size:,}: it holds no pictures"
        )


def _checked_images(path: Path, images: np.ndarray) -> UInt8[np.ndarray, "n s s 3"]:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise InputError(
            f"'images' of {shown(path)} must be uint8, N×H×W×3 or N×H×W, but are {images.dtype}, "
            f"{times(images.shape)}{_way_to_images(images)}"
        )
    if images.shape[1] != images.shape[2] or images.shape[1] < _SMALLEST:
        raise InputError(
            f"'images' of {shown(path)} must be square, at least {_SMALLEST} pixels a side, "
            f"but are {times(images.shape[1:3])}"
        )
    if not len(images):
        raise InputError(f"{shown(path)} holds no images")
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    return np.ascontiguousarray(images)


def _way_to_images(images: np.ndarray) -> str:
    """How such arrays become images, as the end of a message."""
    if images.ndim == 4 and images.shape[1] in (1, 3, 4) and images.shape[3] not in (1, 3, 4):
        return ": give images.transpose(0, 2, 3, 1)"
    if images.ndim == 4 and images.shape[3] == 1:
        return ": give images[..., 0]"
    if images.ndim == 4 and images.shape[3] == 4:
        return ": lay them on a background, and give three channels"
    if images.ndim not in (3, 4) or not images.size or images.dtype == np.uint8:
        return ""
    if images.dtype == np.bool_:
        return ": give 255 * images.astype('uint8')"
    if images.dtype.kind not in "iuf":
        return ""
    low, high = images.min(), images.max()
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        return ", some of them not finite (NaN or infinite): replace those"
    if images.dtype.kind == "f" and 0 <= low <= high <= 1:
        return ": give (255 * images).round().astype('uint8')"
    if 0 <= low <= high <= 255:
        return ": give images.round().astype('uint8')"
    if images.dtype == np.uint16:
        return ": give (images / 257).round().astype('uint8')"
    return f" from {low:g} to {high:g}: scale them to 0…255, and give them as uint8"


def _checked_labels(path: Path, labels: np.ndarray, num_images: int) -> Int64[np.ndarray, " n"]:
    if labels.shape == (num_images, 1) and labels.dtype.kind in "iu":
        labels = labels[:, 0]
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        way = ""
        if labels.dtype.kind in "US":
            way = ": give numpy.unique(labels, return_inverse=True), the first as 'classes' and the second as 'labels'"
        elif labels.ndim == 2 and len(labels) == num_images and num_images and labels.shape[1] > 1:
            way = ": give labels.argmax(1), if each row is of one class"
        elif labels.shape == (num_images,) and labels.dtype.kind in "fb":
            way = ": give labels.astype('int64'), if they are whole numbers"
        raise InputError(
            f"'labels' of {shown(path)} must be one integer for each of {num_images} images, but are {labels.dtype}, "
            f"{times(labels.shape)}{way}"
        )
    if labels.dtype.kind == "u" and labels.size and labels.max() > np.iinfo(np.int64).max:
        raise InputError(f"'labels' of {shown(path)} go up to {labels.max()}, which is no class index")
    return labels.astype(np.int64)


def _checked_boxes(path: Path, boxes: np.ndarray, num_images: int) -> Float32[np.ndarray, "n 4"]:
    if boxes.shape != (num_images, 4) or boxes.dtype.kind not in "iuf":
        raise InputError(
            f"'boxes' of {shown(path)} must be four numbers for each of {num_images} images, but are {boxes.dtype}, "
            f"{times(boxes.shape)}"
        )
    left, top, right, bottom = boxes.T
    # Comparisons with NaN, which stands for an unknown box, are false.
    turned = np.flatnonzero((right <= left) | (bottom <= top))
    if len(turned):
        raise InputError(
            f"'boxes' of {shown(path)} must be left, top, right, bottom, but of image {turned[0]} are "
            f"{', '.join(f'{value:g}' for value in boxes[turned[0]])}: if the last two are width and height, add "
            "the first two to them"
        )
    return boxes.astype(np.float32)


def _names(path: Path, names: np.ndarray | None) -> tuple[str, ...]:
    if names is None:
        return ()
    if names.ndim != 1:
        raise InputError(f"'classes' of {shown(path)} must be a list of names, but are {times(names.shape)}")
    try:
        found = [name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"'classes' of {shown(path)} are no text in UTF-8: {error}") from error
    strange = next((name for name in found if not is_text(name)), None)
    if strange is not None:
        raise InputError(f"the class name {shown(strange)} in {shown(path)} is no text in UTF-8: write it otherwise")
    return tuple(shown(name) for name in found)


def times(shape: tuple[int, ...]) -> str:
    """A shape in words: `12×16×16×3`."""
    return "×".join(str(length) for length in shape) or "a single number"
