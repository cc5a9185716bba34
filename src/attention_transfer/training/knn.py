"""k-nearest-neighbour evaluation of features learned without labels."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

from attention_transfer.data import Split
from attention_transfer.training.prepare import Prepared, evenly

TRAIN_IMAGES, TEST_IMAGES = 5_000, 1_000
NEIGHBOURS = 20
_TEMPERATURE = 0.07  # of Wu et al. (CVPR 2018, arXiv:1805.01978), section 3.4
_BATCH = 250


def measure_neighbours(prepared: Prepared, encoder: VisionTransformer) -> dict[str, Any]:
    """Top-1 of test images by their nearest training images, as a row of the metrics file has it.

    The features are the patch tokens of whole images after the last block and its norm, averaged. At most
    `TRAIN_IMAGES` and `TEST_IMAGES` are looked at, spread evenly over their splits.

    Args:
        prepared: data set and device.
        encoder: in any mode, which it keeps.

    Returns:
        `neighbours` with `top1` in percent, `neighbours`, `train_count` and `count`; nothing where images have no
        labels.
    """
    dataset = prepared.dataset
    if not dataset.labelled:
        return {}
    known, asked = evenly(dataset.train, TRAIN_IMAGES), evenly(dataset.test, TEST_IMAGES)
    (train, labels), (test, truth) = (_features(prepared, encoder, split) for split in (known, asked))
    found = nearest_classes(train, labels, test, dataset.num_classes)
    return {
        "neighbours": {
            "top1": 100 * float((found == truth).float().mean()),
            "neighbours": min(NEIGHBOURS, len(train)),
            "train_count": len(train),
            "count": len(test),
        }
    }


def nearest_classes(
    known: Float[Tensor, "n c"],
    labels: Int64[Tensor, " n"],
    asked: Float[Tensor, "m c"],
    num_classes: int,
    neighbours: int = NEIGHBOURS,
) -> Int64[Tensor, " m"]:
    """The classes of features by vote of the most similar known ones, each with weight exp(cosine / 0.07).

    Wu et al. (CVPR 2018, arXiv:1805.01978), section 3.4.

    Args:
        known: features, any scale.
        labels: their classes.
        asked: features to be classified.
        num_classes: of the labels.
        neighbours: how many vote, at most all.
    """
    similarity = functional.normalize(asked, dim=1) @ functional.normalize(known, dim=1).T
    closest, nearest = similarity.topk(min(neighbours, len(known)), dim=1)
    votes = torch.zeros(len(asked), num_classes, device=asked.device)
    return votes.scatter_add_(1, labels[nearest], (closest / _TEMPERATURE).exp()).argmax(dim=1)


@torch.no_grad()
def _features(
    prepared: Prepared, encoder: VisionTransformer, split: Split
) -> tuple[Float[Tensor, "n c"], Int64[Tensor, " n"]]:
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    features: list[Tensor] = []
    labels: list[Tensor] = []
    try:
        for batch in prepared.evaluation(split, _BATCH).epoch(0):
            with prepared.place.autocast():
                tokens = encoder.forward_features(batch.image)
            features.append(tokens[:, encoder.num_prefix_tokens :].float().mean(dim=1))
            assert batch.label is not None
            labels.append(batch.label)
    finally:
        for module, mode in modes:
            module.training = mode
    return torch.cat(features), torch.cat(labels)
