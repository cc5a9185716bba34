"""Class activation maps (CAM) of a network for some images, with the class probabilities.

>>> found = Evidence("resnet8", torch.tensor([[0.2, 0.7, 0.1]]), torch.arange(12.0).reshape(1, 3, 2, 2))
>>> found.ranked(2).tolist()
[[1, 0]]
>>> found.of(found.ranked(1), resolution=1).tolist()
[[[[5.5]]]]
>>> split = Split(np.zeros((9, 8, 8, 3), np.uint8), np.zeros(9, np.int64))
>>> chosen_images(split, count=3, index=None).tolist()
[0, 4, 8]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from attention_transfer.analysis.subject import Subject
from attention_transfer.capture import Capture, undisturbed
from attention_transfer.data import DataSet, Split, loader
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import binarised, class_maps
from attention_transfer.models.introspection.class_maps import class_map_tap, prove_class_maps

_IMAGES_AT_A_TIME = 16  # maps of all classes are large: 1,000 of ImageNet take 196 kB an image


@dataclass(frozen=True)
class Evidence:
    """Class probabilities and class activation maps of a network for a few images.

    Args:
        name: name of the network, as its user wrote it.
        probabilities: softmax of its logits.
        maps: of every class, without the head's bias: their mean over positions is the logit without it.
    """

    name: str
    probabilities: Float[Tensor, "n k"]
    maps: Float[Tensor, "n k h w"]

    def ranked(self, count: int) -> Int64[np.ndarray, "n m"]:
        """The classes with the highest scores of each image, best first.

        Args:
            count: number of classes, from 1 to all.

        Raises:
            ValueError: for any other number.
        """
        num_classes = self.probabilities.shape[1]
        if not 1 <= count <= num_classes:
            raise InputError(f"top must be between 1 and the {num_classes} classes of {self.name}, not {count}")
        return self.probabilities.topk(count, dim=1).indices.numpy()

    def of(
        self,
        classes: Int64[np.ndarray, "n m"],
        resolution: int | None = None,
        binarise: Literal["none", "mean", "median"] = "none",
    ) -> Float[np.ndarray, "n m i j"]:
        """Maps of some classes for each image.

        Args:
            classes: class indices.
            resolution: rows and columns that the maps are averaged to; None keeps their own.
            binarise: 1 above the `mean` of a map's magnitudes, or its `median`, and 0 below, before averaging.

        Raises:
            ValueError: the resolution is below 1 or above that of the maps.
        """
        chosen = torch.from_numpy(classes)[:, :, None, None].expand(-1, -1, *self.maps.shape[2:])
        maps = self.maps.gather(1, chosen)
        if binarise != "none":
            maps = binarised(maps, binarise)
        if resolution is not None:
            rows, columns = maps.shape[2:]
            if not 1 <= resolution <= min(rows, columns):
                raise InputError(
                    f"resolution must be between 1 and {min(rows, columns)}, as the maps of {self.name} are "
                    f"{rows}×{columns}, not {resolution}"
                )
            maps = functional.adaptive_avg_pool2d(maps, resolution)
        return maps.numpy()

    def scores(self, classes: Int64[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
        """Probabilities of some classes for each image."""
        return self.probabilities.gather(1, torch.from_numpy(classes)).numpy()


@torch.no_grad()
def evidence(subject: Subject, split: Split, network_layer: str | None = None, num_workers: int = 0) -> Evidence:
    """Class activation maps of a network on a few images, every class of every image.

    Eq. 2 of Guo et al. (CVPR 2023, arXiv:2304.12777), after Zhou et al. (CVPR 2016, arXiv:1512.04150). The network is
    left as it was.

    Args:
        subject: a network whose logits are a linear layer of globally averaged features, which is proved first.
        split: a few images: all maps are kept in memory.
        network_layer: module whose globally averaged output the head takes, where it could not be determined.
        num_workers: processes that decode photographs.

    Raises:
        ValueError: the network is not of this form; the reason is said.
    """
    try:
        return _evidence(subject, split, network_layer, num_workers)
    except InputError as error:
        # Several networks are compared at once: the message must name the one.
        raise InputError(f"{subject.name}: {error}") from error


def pictures(dataset: DataSet, split: Split, num_workers: int = 0) -> UInt8[np.ndarray, "n h w 3"]:
    """Images of a split as networks see them, before any normalisation.

    Args:
        dataset: data set of the split.
        split: a few images.
        num_workers: processes that decode photographs.
    """
    mean, std = (torch.tensor(values)[:, None, None] for values in (dataset.mean, dataset.std))
    images = loader(split, dataset, batch_size=_IMAGES_AT_A_TIME, train=False, num_workers=num_workers)
    pixels = torch.cat([batch.image * std + mean for batch in images.epoch(0)])
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def chosen_images(split: Split, count: int | None, index: Sequence[int] | None) -> Int64[np.ndarray, " n"]:
    """Dataset indices of the images to draw: `index`, or `count` images spread evenly over the split.

    Args:
        split: images, perhaps sorted by class.
        count: number of images, at least 1; None takes 6. The whole split where it has fewer.
        index: dataset indices, from 0.

    Raises:
        ValueError: both are given, the count is below 1, or a dataset index does not exist.
    """
    size = len(split)
    if index is None:
        wanted = 6 if count is None else count
        if wanted < 1:
            raise InputError(f"images must be at least 1, not {wanted}")
        return np.linspace(0, size - 1, min(wanted, size)).round().astype(np.int64)
    if count is not None:
        raise InputError("give --images or --index, not both")
    wrong = [each for each in index if not 0 <= each < size]
    if wrong or not index:
        raise InputError(f"index must name images from 0 to {size - 1}, not {', '.join(map(str, wrong)) or 'none'}")
    return np.array(index, dtype=np.int64)


def _evidence(subject: Subject, split: Split, network_layer: str | None, num_workers: int) -> Evidence:
    description, network, role = subject.opened.description, subject.module, "network"
    tap = class_map_tap(description, role, network_layer)
    assert description.head is not None
    capture = Capture(network, [tap], role)
    probabilities: list[Tensor] = []
    maps: list[Tensor] = []
    try:
        with undisturbed(network):
            network.eval()
            for image, _ in subject.batches(split, _IMAGES_AT_A_TIME, num_workers):
                if not maps:
                    prove_class_maps(network, tap, description.head, image[:1], role)
                reading = capture.run(image)
                assert reading.logits is not None
                weight = network.get_submodule(description.head).get_parameter("weight")
                probabilities.append(reading.logits.float().softmax(1).cpu())
                maps.append(class_maps(reading.spatial(tap), weight).float().cpu())
    finally:
        capture.close()
    return Evidence(subject.name, torch.cat(probabilities), torch.cat(maps))
