"""Networks of timm that a folder or a repository on the hub describes: `timm:local-dir:FOLDER`, `timm:hf-hub:NAME`.

Such a description may hold any argument of timm's, so it is read and checked before timm sees it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from attention_transfer.errors import InputError, first_line
from attention_transfer.models.naming import Name
from attention_transfer.models.recorded import READ_FROM, is_source
from attention_transfer.models.transformers_config import check_timm
from attention_transfer.runs.reading import read_object

_DESCRIPTION = "config.json"

WEIGHTS_ELSEWHERE: Mapping[str, Mapping[str, Any]] = {
    # A copy on the hub that others made. Its images were normalised as ImageNet's are.
    "vit_large_patch16_224.moco_v3": {
        "hf_hub_id": "nyu-visionx/moco-v3-vit-l",
        "num_classes": 0,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    },
}
"""Weights that timm can load and does not list, by the name that it would give them, with what it must be told."""


def without_source(name: Name) -> Name:
    """The same network under the name that timm lists it by, with the arguments that its description gives it.

    Args:
        name: of the library timm; comes back as it is where it is in timm's list itself.

    Raises:
        ValueError: there is no description, or it asks for more than the shape of a network.
    """
    if name.library != "timm":
        return name
    if name.inner in WEIGHTS_ELSEWHERE:
        return Name("timm", name.inner.partition(".")[0], name.arguments)
    if not is_source(name.inner):
        return name
    described, architecture, arguments = _description(name)
    source = f"timm:{name.inner}"
    check_timm(architecture, arguments, source)
    given = _of_its_weights(described) | dict(cast("Mapping[str, Any]", arguments or {})) | dict(name.arguments)
    return Name("timm", str(architecture), given)


def _description(name: Name) -> tuple[Mapping[str, Any], object, object]:
    """What is said of its weights, its architecture, and its arguments."""
    source, _, place = name.inner.partition(":")
    if source == READ_FROM:
        content = read_object(Path(place) / _DESCRIPTION)
        inner = content.get("pretrained_cfg", content)
        described = cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}
        return described, content.get("architecture"), content.get("model_args")
    from timm.models import load_model_config_from_hf

    try:
        described, architecture, arguments = cast("tuple[Any, Any, Any]", load_model_config_from_hf(place))
    except Exception as error:  # the hub's client has errors of its own, and the file may hold anything
        raise InputError(
            f"timm:{name.inner}: no network is described there, or it cannot be reached ({first_line(error)})"
        ) from error
    return described, architecture, arguments


def _of_its_weights(described: Mapping[str, Any]) -> dict[str, Any]:
    """What timm takes for arguments where nobody says otherwise."""
    found: dict[str, Any] = {}
    if isinstance(described.get("global_pool"), str):
        found["global_pool"] = described["global_pool"]
    size: Any = described.get("input_size")
    if not isinstance(size, (list, tuple)) or len(cast("list[Any]", size)) != 3:
        return found
    channels, height, width = cast("list[Any]", size)
    if channels != 3:
        found["in_chans"] = channels
    if described.get("fixed_input_size"):
        found["img_size"] = height if height == width else (height, width)
    return found
