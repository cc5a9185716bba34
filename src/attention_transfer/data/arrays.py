"""A user's own images as NumPy arrays: a folder with `train.npz` and `test.npz` or `val.npz`."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from attention_transfer.data.dataset import PHOTOGRAPH_SIDE, DataSet, Split, scaled_boxes
from attention_transfer.data.request import Request
from attention_transfer.errors import InputError

_SMALLEST = 8


def npz(request: Request) -> DataSet:
    """Reads `images` (uint8, N×H×W×3 or N×H×W grey, square), `labels` (integers), and optional `classes` and `boxes`.

    Other keys are ignored. `classes` are names, read from `train.npz`; without them classes are numbered up to the
    largest training label. `boxes` are left, top, right, bottom in pixels, the last two exclusive. Images are
    normalised by mean and standard deviation of all training images.

    Raises:
        ValueError: a file or key is missing, or does not hold what it should.
    """
    folder = request.place
    train_file = folder / "train.npz"
    test_file = next((path for path in (folder / "test.npz", folder / "val.npz") if path.is_file()), None)
    if test_file is None or not train_file.is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise InputError(f"{folder} must hold train.npz and test.npz or val.npz, but holds {found[:300]}")
    train, names = _split(train_file)
    test, _ = _split(test_file)
    classes = names or tuple(str(label) for label in range(int(train.labels.max()) + 1))
    for path, split in ((train_file, train), (test_file, test)):
        _check_labels(path, split.labels, len(classes), named=bool(names))
    side = _images(train).shape[1]
    if _images(test).shape[1] != side:
        raise InputError(
            f"{test_file} holds images of side {_images(test).shape[1]}, but {train_file.name} of {side}: resize one"
        )
    size = request.image_size or side
    mean, std = _statistics(_images(train))
    return DataSet(
        name=f"npz:{request.path}",
        classes=classes,
        train=scaled_boxes(request.selection.of(train, len(classes)), size / side),
        validation=None,
        test=scaled_boxes(test, size / side),
        mean=mean,
        std=std,
        image_size=size,
        photographs=side > PHOTOGRAPH_SIDE,
    )


def _split(path: Path) -> tuple[Split, tuple[str, ...]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("images", "labels", "classes", "boxes") if key in file}
    except Exception as error:  # numpy passes on whatever zip, zlib and its own parser raise
        raise InputError(f"{path} is not a readable npz file without pickled objects: {error}") from error
    for key in ("images", "labels"):
        if key not in arrays:
            raise InputError(f"{path} has no array '{key}': save one with numpy.savez(path, images=..., labels=...)")
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise InputError(
            f"'images' of {path} must be uint8, N×H×W×3 or N×H×W, but are {images.dtype}, {_times(images.shape)}"
        )
    if images.shape[1] != images.shape[2] or images.shape[1] < _SMALLEST:
        raise InputError(
            f"'images' of {path} must be square, at least {_SMALLEST} pixels a side, "
            f"but are {_times(images.shape[1:3])}"
        )
    if not len(images):
        raise InputError(f"{path} holds no images")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise InputError(
            f"'labels' of {path} must be one integer for each of {len(images)} images, but are {labels.dtype}, "
            f"{_times(labels.shape)}"
        )
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    boxes = _boxes(path, arrays["boxes"], len(images)) if "boxes" in arrays else None
    names = tuple(str(name) for name in arrays.get("classes", np.array([])))
    return Split(np.ascontiguousarray(images), labels.astype(np.int64), boxes), names


def _boxes(path: Path, boxes: np.ndarray, num_images: int) -> Float32[np.ndarray, "n 4"]:
    if boxes.shape != (num_images, 4) or boxes.dtype.kind not in "iuf":
        raise InputError(
            f"'boxes' of {path} must be four numbers for each of {num_images} images, but are {boxes.dtype}, "
            f"{_times(boxes.shape)}"
        )
    return boxes.astype(np.float32)


def _check_labels(path: Path, labels: Int64[np.ndarray, " n"], num_classes: int, *, named: bool) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        what = "'classes' names" if named else "the training labels use"
        raise InputError(
            f"label {labels[wrong[0]]} of image {wrong[0]} in {path} is outside 0…{num_classes - 1}: "
            f"{what} {num_classes} classes, numbered from 0; {len(wrong)} labels do not fit"
        )


def _statistics(
    images: UInt8[np.ndarray, "n h w 3"],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel in 0…1, from exact integer sums; a constant deviates by 1."""
    means: list[float] = []
    deviations: list[float] = []
    for channel in range(3):
        counts = np.bincount(images[..., channel].reshape(-1), minlength=256)
        levels = np.arange(256)
        num, total, squares = (int((counts * levels**power).sum()) for power in range(3))
        means.append(total / num / 255)
        variance = (num * squares - total * total) / num**2
        deviations.append(variance**0.5 / 255 or 1.0)
    return (means[0], means[1], means[2]), (deviations[0], deviations[1], deviations[2])


def _images(split: Split) -> UInt8[np.ndarray, "n h w 3"]:
    assert isinstance(split.images, np.ndarray)
    return split.images


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(str(length) for length in shape) or "a single number"
