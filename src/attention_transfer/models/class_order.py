"""Networks whose classes are those of data in another order: their last layers are brought into the data's."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from attention_transfer.capture import noise, undisturbed
from attention_transfer.errors import InputError
from attention_transfer.models.build import bare, build, from_transformers_config
from attention_transfer.models.class_names import pair_classes
from attention_transfer.models.heads import class_tensors
from attention_transfer.models.introspection.channels import COLOURS
from attention_transfer.models.opening import OpenedModel

# Rounding of a product may depend on the order of its rows.
_TOLERANCE = 1e-4


def with_classes_of(
    opened: OpenedModel, classes: Sequence[str], size: tuple[int, int], *, named: bool = True
) -> OpenedModel:
    """A network whose logits are in the order of data's classes, if it has the same classes by name.

    The rows of its last layer change places, so that all that is computed from them (logits, class maps) does too.

    Args:
        opened: a network; left as it is where names say nothing, or that it has other classes.
        classes: of the data.
        size: height and width of the images that it takes, in pixels.
        named: whether the classes of the data have names, and not only numbers.

    Raises:
        InputError: if the order of its logits does not follow that of its last layer.
    """
    if not opened.trained or opened.num_classes != len(classes):
        return opened
    pairing = pair_classes(opened.classes, classes, named=named)
    if pairing.order is None:
        return opened
    _reorder(opened, pairing.order, size)
    moved = sum(index != other for index, other in enumerate(pairing.order))
    note = f"{opened.name}: {moved} of its {len(classes)} classes are brought from its own order into that of the data"
    return replace(opened, classes=tuple(classes), notes=(*opened.notes, note))


def _reorder(opened: OpenedModel, order: Sequence[int], size: tuple[int, int]) -> None:
    """Change the places of the rows that make the logits, and prove that the logits follow."""
    network = bare(opened.module)
    tensors = network.state_dict()
    index = torch.tensor(order)
    images = noise(next(network.parameters()).new_empty(2, COLOURS, *size))
    before = _logits(opened.module, images)
    axes = class_tensors(lambda classes: _alike(opened, classes))
    # A layer that is known under two names changes once.
    once = {tensors[name].data_ptr(): name for name in axes}
    with torch.no_grad():
        for name in once.values():
            axis = axes[name]
            tensors[name].copy_(tensors[name].index_select(axis, index.to(tensors[name].device)))
    after = _logits(opened.module, images)
    wanted = before.index_select(1, index)
    if not torch.allclose(after, wanted, rtol=_TOLERANCE, atol=_TOLERANCE * float(wanted.abs().max())):
        raise InputError(
            f"{opened.name} has its classes in another order than the data, and its logits do not follow its last "
            "layer: bring the data's classes into its order, or take another network"
        )


def _alike(opened: OpenedModel, classes: int) -> nn.Module:
    """A network of the same kind for another number of classes."""
    if opened.name.startswith("hf:"):
        config: dict[str, Any] = cast(Any, bare(opened.module)).config.to_dict()
        return from_transformers_config(config, classes, opened.image_size, opened.name)
    return build(opened.name, classes, image_size=opened.image_size)


def _logits(module: nn.Module, images: Tensor) -> Tensor:
    with undisturbed(module), torch.no_grad():
        return module.eval()(images).detach().float()
