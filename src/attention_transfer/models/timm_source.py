"""Networks of timm that a folder or a repository on the hub describes: `timm:local-dir:FOLDER`, `timm:hf-hub:NAME`.

Such a description may hold any argument of timm's, so it is read and checked before timm sees it.
"""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from attention_transfer.errors import InputError, first_line
from attention_transfer.files.untrusted import read_object
from attention_transfer.models.choosing import only_state_dict
from attention_transfer.models.naming import READ_FROM, Name, is_source
from attention_transfer.models.transformers_config import check_timm
from attention_transfer.models.weight_files import WeightsError, read_content

_DESCRIPTION = "config.json"
# As timm prefers them; what it writes itself comes first.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
_TENSORS_ALONE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_ENDINGS = (".safetensors", ".pth", ".pth.tar", ".bin")

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


def weights_in_folder(name: Name) -> dict[str, Tensor] | None:
    """The weights that lie beside a description in a folder; None of a network that no folder describes.

    They are read here and not by timm, which before 1.0.26 unpickles such files without a check of what they run, and
    reads no safetensors there.

    Raises:
        WeightsError: there are none, they are damaged, or they hold what could run code.
    """
    source, _, place = name.inner.partition(":")
    if source != READ_FROM:
        return None
    folder = Path(place)
    found = [folder / each for each in _WEIGHTS if (folder / each).is_file()]
    found += [path for ending in _ENDINGS for path in sorted(folder.glob(f"*{ending}"))]
    if not found:
        raise WeightsError(f"{folder} holds no weights beside its {_DESCRIPTION}: wanted is {_WEIGHTS[0]}")
    return only_state_dict(read_content(found[0]), found[0])


@contextmanager
def unpickled_safely() -> Generator[None]:
    """Inside, whatever a library reads by torch.load holds tensors alone, also where the library asks for more."""
    before = os.environ.get(_TENSORS_ALONE)
    os.environ[_TENSORS_ALONE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TENSORS_ALONE]
        else:
            os.environ[_TENSORS_ALONE] = before


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
    """What timm takes for arguments by default."""
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
