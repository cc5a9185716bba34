"""Which images, and how they are prepared."""

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
from attention_transfer.experiment.optimisation import require

_FEW = 16  # images, of a tiny experiment


@dataclass(frozen=True)
class Data:
    """Which images, and how they are prepared.

    Args:
        name: `cluttered-digits`, `cifar10`, `cifar100`, `npz:PATH`, `folder:PATH`, `tiny-imagenet`, `cub200`,
            `flowers102`, `stl10`, `scenes`, `inaturalist-2017`, `inaturalist-2018` or `inaturalist-2019`.
        root: folder that holds (or receives) all but `cluttered-digits`, `npz:PATH` and `folder:PATH`.
        image_size: side in pixels that images are brought to; None keeps the data set's own (224 for photographs).
        augment: what happens to training images; `auto` is `crop-flip` for small images, `random-resized-crop` for
            photographs and `crop` for digits, which must not be mirrored. Crops of small images are shifted by up to an
            eighth of the side and filled with black, by `reflect-crop-flip` with the image's reflection.
            `trivial-augment` changes each image further after `crop-flip`.
        auto_augment: what timm further does to training images after cropping and mirroring, in its words:
            `rand-m9-mstd0.5-inc1` is RandAugment as transformers are fine-tuned with it; `augmix-…`, `original`, `v0`
            and `3a` are others. Images are changed one by one on the host: for image files by `num_workers` processes.
        colour_jitter: strength of a random change of brightness, contrast and saturation, where no `auto_augment` is.
        random_erasing: probability that a rectangle of a training image is replaced by noise.
        mixup: α of Beta(α, α), from which the proportion is drawn in which images of a batch are blended, and their
            labels with them.
        cutmix: α likewise, where a rectangle is taken from the other image; with both, batches get one or the other.
        label_smoothing: probability that is spread evenly over all classes, in training only.
        validation_fraction: share of the training images, 0 ≤ f < 1, set aside by (seed, index) for validation.
        train_classes: learn only from images of the first so many classes, in the data set's order; networks keep all
            classes, and the test images of the others are also measured apart, as `unseen`. None learns from all.
        train_fraction: of every class learn only from this share of its images, 0 < f ≤ 1, the first in the data set's
            order; the number is rounded, at least one. None uses all.
        train_limit: learn only from the first so many images of those that `train_classes` and `train_fraction` leave;
            None uses all. What is set aside for validation is taken from what these three leave.
        train_sample: learn only from about so many images of all classes alike, at least one of each, taken from what
            `train_classes` and `train_fraction` leave; None uses all.
        test_limit: measure on only so many test images, spread evenly; None uses all.
        split_seed: of the choice of test images where a class folder sets none aside; None is 0.
        decoding: what is seen of image files in a class folder: `as-shown` turns them upright and puts transparent ones
            on the background, `as-stored` does neither, as torchvision's loader. None is as-shown for class folders;
            named data sets are read as their papers' loaders do, which is as-stored.
        background: colour behind transparent images of a class folder, by name or as #rrggbb; None is white.
        num_workers: processes that decode photographs; small sets live on the device and need none.
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
        # The data room says what it cannot deliver; settings are refused before it is asked.
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
        """Side of the images of this data set where nobody asks for another; None where only its files say."""
        return OWN_SIDES.get(self.name.partition(":")[0])

    def few(self, side: int) -> "Data":
        """A few images of the same data set, of each class at least one.

        Args:
            side: in pixels, of what is delivered.
        """
        return replace(
            self, image_size=side, validation_fraction=0.0, train_sample=_FEW, test_limit=_FEW, num_workers=0
        )

    def few_digits(self, side: int) -> "Data":
        """As many digits, which are there on every machine, prepared in the same way; arguments as for `few`."""
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
        """What happens to each training image beyond `augment`."""
        return Changes(self.auto_augment, self.colour_jitter, self.random_erasing)

    @property
    def mixing(self) -> Mixing:
        """What happens to each training batch."""
        return Mixing(self.mixup, self.cutmix, self.label_smoothing)
