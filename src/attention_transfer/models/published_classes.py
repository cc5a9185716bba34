"""What libraries call the classes of the weights that they publish."""

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from attention_transfer.models.build import IMAGENET_CLASSES, bare
from attention_transfer.models.class_names import are_numbered, imagenet_synsets, names_in
from attention_transfer.models.naming import parse_name


def published_classes(module: nn.Module, name: str, num_classes: int) -> tuple[str, ...] | None:
    """Names of the classes of a network's logits, as its library declares them; None where it does not.

    Args:
        module: with its published weights, or one of transformers with any that came with its configuration.
        name: how `build` calls it.
        num_classes: size of its logits.
    """
    parsed = parse_name(name)
    if parsed.library == "hf":
        names = names_in(getattr(getattr(bare(module), "config", None), "id2label", None), num_classes)
    elif parsed.library == "torchvision":
        names = names_in(_of_torchvision(parsed.inner), num_classes)
    elif parsed.library == "timm":
        names = _of_timm(cast("Mapping[str, Any]", getattr(module, "pretrained_cfg", None) or {}), num_classes)
    else:
        names = None
    return None if names is None or are_numbered(names) else names


def _of_torchvision(inner: str) -> list[str]:
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(inner)
    return weights.DEFAULT.meta["categories"]


def _of_timm(settings: Mapping[str, Any], num_classes: int) -> tuple[str, ...] | None:
    """As the weights' own settings say; else those of ImageNet, which timm too knows by their number alone."""
    declared = names_in(settings.get("label_names"), num_classes)
    if declared is not None or settings.get("num_classes") != num_classes or num_classes != IMAGENET_CLASSES:
        return declared
    return imagenet_synsets()
