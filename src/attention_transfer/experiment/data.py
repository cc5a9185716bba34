"""Data section of an experiment: data set, augmentation, mixing and subsets.

>>> data = Data(name="cifar100", augment="trivial-augment", mixup=0.2, train_fraction=0.1)
>>> data.own_side
32
>>> data.mixing.mixup
0.2
>>> Data(validation_fraction=1.5)
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: validation_fraction must be 0 ≤ f < 1, a share of the training images, not 1.5
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from attention_transfer.data import OWN_SIDES
from attention_transfer.data.dataset import check_validation_fraction
from attention_transfer.data.pipeline.decoding import colour
from attention_transfer.data.pipeline.mixing import Mixing
from attention_transfer.data.pipeline.timm_augment import Changes
from attention_transfer.data.request import Request
from attention_transfer.data.selection import Selection
from attention_transfer.settings import require

_FEW = 16  # images, of a tiny experiment


@dataclass(frozen=True)
class Data:
    """Data set, augmentation, mixing and subsets.

    Args:
        name: data set: `cluttered-digits`, `cifar10`, `cifar100`, `npz:PATH`, `folder:PATH`, `tiny-imagenet`, `cub200`,
            `flowers102`, `stl10`, `scenes`, `inaturalist-2017`, `inaturalist-2018` or `inaturalist-2019`.
        root: folder of the data set, or where it is downloaded to; not for `cluttered-digits`, `npz:PATH` and
            `folder:PATH`.
        image_size: side in pixels that images are resized to; None keeps the data set's own (224 for photographs).
        augment: augmentation of training images; `auto` is `crop-flip` for small images, `random-resized-crop` for
            photographs and `crop` for digits, which must not be mirrored. Crops of small images are shifted by up to an
            eighth of the side and padded with black, by `reflect-crop-flip` with the image's reflection.
            `trivial-augment` is TrivialAugment after `crop-flip`.
        auto_augment: a policy of timm, applied after cropping and mirroring, in timm's notation:
            `rand-m9-mstd0.5-inc1` is RandAugment as transformers are fine-tuned with it; `augmix-…`, `original`, `v0`
            and `3a` are others. Runs on the CPU, image by image; for image files in the `num_workers` processes.
        colour_jitter: strength of random changes of brightness, contrast and saturation; not with `auto_augment`.
        random_erasing: probability that a rectangle of a training image is replaced by noise.
        mixup: mixup: α of Beta(α, α), from which the blending proportion of images and labels is drawn.
        cutmix: CutMix: α of Beta(α, α), from which the pasted share of the area is drawn; with `mixup` too, each batch
            gets one of the two.
        label_smoothing: label smoothing of the cross-entropy: probability that is spread evenly over all classes, in
            training only.
        validation_fraction: share of the training images, 0 ≤ f < 1, held out for validation by (seed, dataset index).
        train_classes: train only on images of the first N classes, in the data set's order; networks keep all classes,
            and test images of the other classes are also measured apart, as `unseen`. None trains on all.
        train_fraction: train on this share of each class's images, 0 < f ≤ 1, the first in the data set's order; the
            number is rounded, at least one. None uses all.
        train_limit: train on the first N images of those that `train_classes` and `train_fraction` leave; None uses
            all. Validation images are taken from what these three leave.
        train_sample: train on about N images, the same number of every class and at least one of each, of those that
            `train_classes` and `train_fraction` leave; None uses all.
        test_limit: measure on N test images only, spread evenly; None uses all.
        split_seed: seed of the choice of test images, for class folders without a test split; None is 0.
        decoding: how image files of a class folder are decoded: `as-shown` applies the EXIF orientation and puts
            transparent images on the background, `as-stored` does neither, as torchvision's loader. None is as-shown
            for class folders; named data sets are always read as-stored, as their papers' loaders do.
        background: colour behind transparent images of a class folder, by name or as #rrggbb; None is white.
        num_workers: worker processes that decode photographs; small data sets are kept on the device and need none.
    """

    name: str = "cluttered-digits"
    root: Path | None = None
    image_size: int | None = None
    augment: Literal[
        "auto", "none", "crop", "crop-flip", "reflect-crop-flip", "trivial-augment", "random-resized-crop"
    ] = "auto"
    auto_augment: str | None = None
    colour_jitter: float | None = None
    random_erasing: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    label_smoothing: float | None = None
    validation_fraction: float = 0.0
    train_classes: int | None = None
    train_fraction: float | None = None
    train_limit: int | None = None
    train_sample: int | None = None
    test_limit: int | None = None
    split_seed: int | None = None
    decoding: Literal["as-shown", "as-stored"] | None = None
    background: str | None = None
    num_workers: int = 0

    def __post_init__(self) -> None:
        # Built for their checks alone: a wrong setting is refused here, before any data set is opened.
        _ = self.changes, self.mixing
        check_validation_fraction(self.validation_fraction)
        selection = Selection(None, self.train_fraction, self.train_limit, self.train_sample)
        Request(image_size=self.image_size, selection=selection)
        if self.background is not None:
            colour(self.background)
        require(
            self.train_classes is None or self.train_classes >= 1, "train_classes", "at least 1", self.train_classes
        )
        require(self.test_limit is None or self.test_limit >= 1, "test_limit", "at least 1", self.test_limit)
        require(self.num_workers >= 0, "num_workers", "at least 0", self.num_workers)

    @property
    def own_side(self) -> int | None:
        """Side of this data set's images in pixels where `image_size` is None; None if only its files say."""
        return OWN_SIDES.get(self.name.partition(":")[0])

    def few(self, side: int) -> "Data":
        """A few images of the same data set, at least one of each class.

        Args:
            side: of the images, in pixels.
        """
        # Nothing is held out: of so few images a share could be none.
        return replace(
            self, image_size=side, validation_fraction=0.0, train_sample=_FEW, test_limit=_FEW, num_workers=0
        )

    def few_digits(self, side: int) -> "Data":
        """As many cluttered digits, which need no download, prepared in the same way.

        Args:
            side: of the images, in pixels.
        """
        return replace(
            self.few(side),
            name=Data().name,
            root=None,
            # Of the ten digits; a hundredth of one class is still a batch.
            train_classes=None if self.train_classes is None else min(self.train_classes, 5),
            train_fraction=None if self.train_fraction is None else max(self.train_fraction, 0.01),
            train_sample=None,
            train_limit=_FEW,
            split_seed=None,
            decoding=None,
            background=None,
        )

    @property
    def changes(self) -> Changes:
        """Augmentation of each training image beyond `augment`."""
        return Changes(self.auto_augment, self.colour_jitter, self.random_erasing)

    @property
    def mixing(self) -> Mixing:
        """Mixup, CutMix and label smoothing of the training batches."""
        return Mixing(self.mixup, self.cutmix, self.label_smoothing)


@dataclass(frozen=True)
class Downloads:
    """What a command may download.

    Args:
        data: whether the data set that the user names, where it is not on this machine.
        recorded: whether what only a run folder names.
    """

    data: bool = True
    recorded: bool = False
