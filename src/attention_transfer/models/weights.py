"""Weights from files: read without running anybody's code, and loaded only where every tensor fits."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from attention_transfer.models.build import TransformersClassifier, bare
from attention_transfer.models.weights_file import WeightsError, read_content

_NESTS = ("state_dict", "model_state_dict", "model", "net", "student")
_WRAPPERS = ("module.", "_orig_mod.")
# Counted by BatchNorm only since torch 0.4.1, and used only where its momentum is None.
_OPTIONAL = "num_batches_tracked"
_SHOWN = 10
_POSITIONS = ("pos_embed", "encoder.pos_embedding")  # what timm and torchvision call position embeddings


def read_weights(file: Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU.

    Safetensors, or whatever `torch.load(weights_only=True)` accepts. State dicts nested under `state_dict`,
    `model_state_dict`, `model`, `net` or `student` are found; what DataParallel and `torch.compile` put before names is
    taken off; what is no tensor is left out.

    Raises:
        WeightsError: if the file is missing, unreadable, holds classes that could run code, or no tensors.
    """
    content = read_content(file)
    depth = 0
    while isinstance(content, Mapping) and depth < len(_NESTS):
        content = cast("Mapping[Any, Any]", content)
        nested = [content[key] for key in _NESTS if isinstance(content.get(key), Mapping)]
        if not nested:
            break
        content, depth = nested[0], depth + 1
    if not isinstance(content, Mapping):
        raise WeightsError(f"{file} holds a {type(content).__name__}, not a state dict (names to tensors)")
    content = cast("Mapping[Any, Any]", content)
    weights = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        keys = ", ".join(map(str, list(content)[:_SHOWN])) or "nothing"
        raise WeightsError(f"{file} holds no tensors, only: {keys}")
    _refuse_nan(weights, file)
    return without_wrappers(weights)


def _refuse_nan(weights: Mapping[str, Tensor], file: Path) -> None:
    strided = {name: value for name, value in weights.items() if value.layout == torch.strided}
    wrong = [name for name, value in strided.items() if value.is_floating_point() and bool(value.isnan().any())]
    if wrong:
        raise WeightsError(
            f"{file} holds numbers that are none (NaN) in {len(wrong)} of its tensors, the first of which is "
            f"{wrong[0]}: its training diverged, or the file is damaged"
        )


def load_weights(model: nn.Module, file: Path) -> None:
    """Load a file into a network in place; all of it or nothing.

    Raises:
        WeightsError: as `read_weights` does, and if names or shapes differ from the network's, naming the first.
    """
    fit_weights(model, read_weights(file), str(file))


def fit_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str, leave_out: Iterable[str] = ()) -> None:
    """Copy weights into a network in place, all or nothing.

    Args:
        model: the network; a thin wrapper of ours is looked through.
        weights: its tensors by name.
        source: where they are from, for messages.
        leave_out: names of tensors that keep what they have, whatever the weights say.

    Raises:
        WeightsError: if names or shapes differ from the network's.
    """
    network = bare(model)
    ours = network.state_dict()
    left = set(leave_out)
    given = {name: value for name, value in weights.items() if name not in left}
    missing = [n for n in ours if n not in given and n not in left and not n.endswith(_OPTIONAL)]
    unexpected = [name for name in given if name not in ours]
    differing = [
        f"{name} (wanted {tuple(ours[name].shape)}, came {tuple(value.shape)})"
        for name, value in given.items()
        if name in ours and ours[name].shape != value.shape
    ]
    problems = (("missing", missing), ("unexpected", unexpected), ("differing in shape", differing))
    if any(names for _, names in problems):
        lines = [f"  {len(names)} {word}: {_first(names)}" for word, names in problems if names]
        hint = ""
        if isinstance(model, TransformersClassifier):
            hint = "\n  (what save_pretrained() wrote is opened as hf:FOLDER@pretrained)"
        elif any(name.startswith(_POSITIONS) for name in differing):
            hint = (
                "\n  (position embeddings belong to a number of patches: name the model with the img_size and "
                "patch_size that its weights were trained with, as in timm:NAME(img_size=32, patch_size=4)@FILE)"
            )
        raise WeightsError("\n".join([f"{source} does not fit {type(network).__name__}:", *lines]) + hint)
    # Some networks look at the version that their state dict carries and files of tensors do not.
    versioned = OrderedDict(given)
    cast(Any, versioned)._metadata = getattr(ours, "_metadata", None)
    network.load_state_dict(versioned, strict=False)


def without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the names of the bare network, without what DataParallel and `torch.compile` add to them."""
    names = list(weights)
    while prefix := next((p for p in _WRAPPERS if all(n.startswith(p) and n != p for n in names)), None):
        names = [name.removeprefix(prefix) for name in names]
    # A compiled part of a network carries it in the middle.
    return {name.replace("_orig_mod.", ""): value for name, value in zip(names, weights.values(), strict=True)}


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
