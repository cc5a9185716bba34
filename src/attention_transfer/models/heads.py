"""The last layer of a network: which of its tensors depend on the number of classes, and how many there are.

>>> from attention_transfer import build
>>> class_tensors(lambda classes: build("resnet8", classes))
{'fc.weight': 0, 'fc.bias': 0}
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from attention_transfer.models.build import IMAGENET_CLASSES, bare, build
from attention_transfer.models.introspection.describe import describe
from attention_transfer.models.meta_networks import outline
from attention_transfer.models.naming import parse_name


def class_tensors(make: Callable[[int], nn.Module]) -> dict[str, int]:
    """Tensors whose shape depends on the number of classes, with the axis that does.

    Args:
        make: builds the network with a number of classes.
    """
    few, more = shapes(make, 3), shapes(make, 5)
    return {
        name: next(axis for axis, (a, b) in enumerate(zip(few[name], more[name], strict=True)) if a != b)
        for name in few
        if name in more and few[name] != more[name]
    }


def shapes(make: Callable[[int], nn.Module], num_classes: int) -> dict[str, torch.Size]:
    """Shapes of a network's tensors.

    Args:
        make: builds the network with a number of classes.
        num_classes: to build it with.
    """
    model = outline(lambda: make(num_classes))
    return {k: v.shape for k, v in bare(model).state_dict().items() if not k.endswith("num_batches_tracked")}


def count_classes(module: nn.Module, image_size: int | None) -> int:
    """Size of a network's logits: of its last layer, or else of what it gives; 0 where its library built none.

    Args:
        module: with weights.
        image_size: side of the images to run it on, in pixels; None takes its own.
    """
    network = bare(module)
    if 0 in (getattr(network, "num_classes", None), getattr(getattr(network, "config", None), "num_labels", None)):
        return 0
    path = describe(module).head
    if path is not None:
        head = module.get_submodule(path)
        assert isinstance(head, nn.Linear)
        return head.out_features
    expected = describe(module).input
    side = image_size or 224
    size = expected.size if expected and expected.size else (side, side)
    with torch.no_grad():
        return int(module.eval()(torch.zeros(1, 3, *size)).shape[1])


def forget_head(module: nn.Module, name: str, classes: int, image_size: int | None) -> None:
    """Draw the last layer of a published network anew where its library kept it, for it is of as many classes.

    Args:
        module: with its published weights.
        name: how `build` calls it.
        classes: of the new last layer.
        image_size: side in pixels that it was built for.
    """
    library = parse_name(name).library
    if library == "torchvision":
        own = IMAGENET_CLASSES
    elif library == "timm":
        own = cast(Any, module).pretrained_cfg["num_classes"]
    else:
        with torch.random.fork_rng(devices=[]):
            own = count_classes(build(name, None, image_size=image_size, pretrained=True), image_size)
    if own == classes:
        make = partial(build, name, image_size=image_size)
        fresh = bare(make(classes)).state_dict()
        bare(module).load_state_dict({key: fresh[key] for key in class_tensors(make)}, strict=False)
