"""Trained networks saved bare: their own state dict, and a few lines of JSON that say how to load it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
from torch import nn

from attention_transfer.errors import InputError
from attention_transfer.files.atomic import whole_file, write_whole
from attention_transfer.files.bare_student import STUDENT_CONFIG, STUDENT_WEIGHTS
from attention_transfer.models.build import bare, takes_image_size
from attention_transfer.models.distillation_token import asks_for_token
from attention_transfer.models.introspection.description import Input
from attention_transfer.models.naming import parse_name, written
from attention_transfer.models.state_dicts import without_wrappers


def save_model(
    model: nn.Module,
    folder: Path,
    name: str,
    num_classes: int,
    image_size: int | None = None,
    input: Input | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Save a network bare: its own state dict, and a few lines of JSON that say how to load it without this package.

    Args:
        model: the network, not compiled and not wrapped for several processes (their prefixes are taken off).
        folder: an existing folder; what was saved there before is replaced, each file whole or not at all.
        name: how `build` calls it.
        num_classes: size of its logits; 0 for one without its last layer.
        image_size: side in pixels that it was built for, as given to `build`.
        input: how its images are normalised.
        extra: more to remember, JSON.

    Raises:
        ValueError: if `extra` would hide what is needed to open the network.
    """
    network = bare(model)
    # Copies: safetensors refuses tensors that share memory or lie in another order than their indices.
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in without_wrappers(network.state_dict()).items()}
    known: dict[str, Any] = {
        "model": name,
        "num_classes": num_classes,
        "image_size": image_size,
        "mean": list(input.mean) if input else None,
        "std": list(input.std) if input else None,
        "input_size": list(input.size) if input and input.size else None,
        "load": _instructions(name, num_classes, image_size),
    }
    if name.startswith("hf:"):
        known["transformers_config"] = cast("Any", network).config.to_dict()
    clash = sorted(known.keys() & (extra or {}).keys())
    if clash:
        raise InputError(f"extra must not hold {', '.join(clash)}: they are needed to open the network")
    with whole_file(folder / STUDENT_WEIGHTS) as temporary:
        safetensors.torch.save_file(weights, temporary, metadata={"format": "pt"})
    text = json.dumps({**known, **(extra or {})}, indent=2, ensure_ascii=False, default=str)
    write_whole(folder / STUDENT_CONFIG, (text + "\n").encode())


def _instructions(name: str, num_classes: int, image_size: int | None) -> str:
    """Python that loads the saved weights, in plain torch wherever their library is another's."""
    parsed = parse_name(name)
    arguments = dict(parsed.arguments)
    if not parsed.library:
        make = f"attention_transfer.models.build({name!r}, {num_classes})"
    elif parsed.library == "timm" and asks_for_token(parsed):
        size = f", image_size={image_size}" if image_size else ""
        make = f"attention_transfer.models.build({name!r}, {num_classes}{size})"
    elif parsed.library == "timm":
        if image_size and takes_image_size(parsed, image_size):
            arguments = {"img_size": image_size} | arguments
        make = f"timm.create_model({parsed.inner!r}, num_classes={num_classes}{written(arguments)})"
    elif parsed.library == "torchvision":
        if image_size and parsed.inner.startswith("vit_"):
            arguments = {"image_size": image_size} | arguments
        make = f"torchvision.models.get_model({parsed.inner!r}, num_classes={num_classes}{written(arguments)})"
    else:
        config = f"json.loads(pathlib.Path({STUDENT_CONFIG!r}).read_text())['transformers_config']"
        auto = "transformers.AutoModelForImageClassification"
        make = f"{auto}.from_config(transformers.AutoConfig.for_model(**{config}))"
    return f"model = {make}; model.load_state_dict(safetensors.torch.load_file({STUDENT_WEIGHTS!r}))"
