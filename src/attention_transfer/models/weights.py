"""Weights from files into networks: only where every tensor fits, by its name, shape, type and values.

>>> import tempfile
>>> from pathlib import Path
>>> from safetensors.torch import save_file
>>> from attention_transfer import build
>>> network = build("resnet8", 10)
>>> with tempfile.TemporaryDirectory() as folder:
...     save_file(network.state_dict(), Path(folder) / "weights.safetensors")
...     load_weights(network, Path(folder) / "weights.safetensors")
()
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from attention_transfer.models.build import TransformersClassifier, bare
from attention_transfer.models.choosing import Chosen, choose, only_state_dict
from attention_transfer.models.state_dicts import OPTIONAL, SHOWN, Wanted
from attention_transfer.models.weight_files import WeightsError, read_content

_POSITIONS = ("pos_embed", "encoder.pos_embedding")  # what timm and torchvision call position embeddings
_FEW = 3
# They come with scales beside them, which no network of ours has.
_QUANTISED = {getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)}
# What other tools make of a network's names.
_CHANGED_BY = (
    (
        r"_packed_params|zero_point|\.absmax$|\.quant_map|\.SCB$|weight_scale",
        "these are the weights of a quantised network: save it before it is quantised",
    ),
    (
        r"weight_(orig|mask)$",
        "these weights were pruned with torch.nn.utils.prune: call prune.remove on each layer before saving",
    ),
    (
        r"weight_[gv]$|parametrizations\.",
        "these weights are parametrised: remove the weight norm or parametrisation before saving",
    ),
    (r"lora_[AB]|\.base_layer\.", "these are adapters beside the weights: merge them into the network before saving"),
)


def read_weights(file: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from attention_transfer.models import WeightsError
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "student.pt"
        ...     torch.save({"state_dict": nn.Linear(2, 1).state_dict(), "epoch": 7}, file)
        ...     sorted(read_weights(file))
        ['bias', 'weight']
        >>> try:
        ...     read_weights(file)
        ... except WeightsError as error:
        ...     print("refused")
        refused

    Safetensors, or whatever `torch.load(weights_only=True)` accepts. State dicts inside of other mappings are found;
    what DataParallel, `torch.compile` and averages of weights put before all names is taken off; what is no tensor is
    left out.

    Args:
        file: of weights.
        key: of the state dict where there are several of the same names; keys of nested mappings are joined by dots.

    Raises:
        WeightsError: if the file is missing, unreadable, of another kind, holds classes that could run code, no
            tensors, or several state dicts of the same names.
    """
    return only_state_dict(read_content(file), file, key)


def choose_weights(file: Path, wanted: Wanted, key: str | None = None) -> Chosen:
    """The weights in a file that are a network's, see `attention_transfer.models.state_dicts`.

    Raises:
        WeightsError: as `read_weights` does, and if more than one set of weights fits.
    """
    return choose(read_content(file), wanted, file, key)


def load_weights(model: nn.Module, file: Path, key: str | None = None) -> tuple[str, ...]:
    """Load a file into a network in place; all of it or nothing.

    Args:
        model: the network.
        file: of weights.
        key: of its state dict where several fit, or of a prefix of names in it.

    Returns:
        What was chosen and left out, where anything was.

    Raises:
        WeightsError: as `read_weights` does, and if names, shapes, types or values are not a network's, naming the
            first.
    """
    shapes = {name: value.shape for name, value in bare(model).state_dict().items()}
    chosen = choose_weights(file, Wanted(shapes), key)
    return chosen.notes + fit_weights(model, chosen.weights, chosen.source)


def fit_weights(
    model: nn.Module, weights: Mapping[str, Tensor], source: str, leave_out: Iterable[str] = ()
) -> tuple[str, ...]:
    """Copy weights into a network in place, all or nothing.

    Args:
        model: the network; a thin wrapper of ours is looked through.
        weights: its tensors by name.
        source: where they are from, for messages.
        leave_out: names of tensors that keep what they have, whatever the weights say.

    Returns:
        What the network's arithmetic cannot hold of them, where there is anything.

    Raises:
        WeightsError: if names, shapes or types differ from the network's, or values are not finite.
    """
    network = bare(model)
    ours = network.state_dict()
    left = set(leave_out)
    given = {name: value for name, value in weights.items() if name not in left}
    missing = [n for n in ours if n not in given and n not in left and not n.endswith(OPTIONAL)]
    unexpected = [name for name in given if name not in ours]
    differing = [name for name, value in given.items() if name in ours and ours[name].shape != value.shape]
    if missing or unexpected or differing:
        raise WeightsError(_misfit(model, source, missing, unexpected, {n: (ours[n], given[n]) for n in differing}))
    for name, value in given.items():
        wrong = _wrong_kind(value, ours[name]) or _wrong_values(value, ours[name], name.endswith(OPTIONAL))
        if wrong is not None:
            raise WeightsError(f"{source} is refused: {name} {wrong}")
    # Some networks look at the version that their state dict carries and files of tensors do not.
    versioned = network.state_dict()
    versioned.clear()
    versioned.update(given)
    network.load_state_dict(versioned, strict=False)
    vanished = [name for name, value in given.items() if _vanishes(value, ours[name])]
    if not vanished:
        return ()
    kind = _type(ours[vanished[0]])
    return (f"some values of {source} are too small for {kind} and are 0 now: {_first(vanished, _FEW)}",)


def _misfit(
    model: nn.Module,
    source: str,
    missing: list[str],
    unexpected: list[str],
    differing: Mapping[str, tuple[Tensor, Tensor]],
) -> str:
    """What is wrong with the names and shapes of weights, and what may be the reason."""
    network = bare(model)
    count = sum(not name.endswith(OPTIONAL) for name in network.state_dict())
    fitting = count - len(missing) - sum(not name.endswith(OPTIONAL) for name in differing)
    few = 2 * fitting < count
    shapes = [f"{n} (wanted {tuple(a.shape)}, came {tuple(b.shape)})" for n, (a, b) in differing.items()]
    problems = (("missing", missing), ("unexpected", unexpected), ("differing in shape", shapes))
    # Where it is another network altogether, a long list says no more than a short one.
    lines = [f"  {len(names)} {word}: {_first(names, _FEW if few else SHOWN)}" for word, names in problems if names]
    first = f"{source} does not fit {type(network).__name__}"
    first += f": {fitting} of its {count} tensors are there:" if few else ":"
    hint = _likely_reason(model, unexpected, differing)
    return "\n".join([first, *lines]) + (f"\n  ({hint})" if hint else "")


def _likely_reason(
    model: nn.Module, unexpected: list[str], differing: Mapping[str, tuple[Tensor, Tensor]]
) -> str | None:
    shapes = {name: (tuple(wanted.shape), tuple(came.shape)) for name, (wanted, came) in differing.items()}
    for pattern, reason in _CHANGED_BY:
        if any(re.search(pattern, name) for name in unexpected):
            return reason
    if any(not math.prod(came) for _, came in shapes.values()):
        return "tensors without values are what ZeRO and FSDP leave in each process: gather the weights, then save them"
    channels = [came[1] for wanted, came in shapes.values() if len(wanted) == len(came) == 4 and wanted[1] == 3]
    if channels:
        plural = "s" if channels[0] != 1 else ""
        return f"these weights are for images of {channels[0]} channel{plural}, the network is for images of 3"
    if isinstance(model, TransformersClassifier):
        return "what save_pretrained() wrote is opened as hf:FOLDER@pretrained"
    if any(name.startswith(_POSITIONS) for name in differing):
        return (
            "position embeddings belong to a number of patches: name the model with the img_size and patch_size that "
            "its weights were trained with, as in timm:NAME(img_size=32, patch_size=4)@FILE"
        )
    return None


def _wrong_kind(value: Tensor, ours: Tensor) -> str | None:
    """Why the type of a tensor cannot be a network's."""
    if value.is_meta and not ours.is_meta:
        return "was saved without values, from the meta device"
    if value.is_quantized or value.dtype in _QUANTISED:
        return f"is quantised ({_type(value)}), and its codes are not weights: save the network before it is quantised"
    if value.layout != torch.strided:
        return f"is sparse ({_type(value, 'layout')}): save it with .to_dense()"
    if ours.is_floating_point() and not value.is_floating_point():
        return f"holds {_type(value)} where {_type(ours)} is wanted: these are codes or counts, not weights"
    if value.is_complex() and not ours.is_complex():
        return f"holds {_type(value)} where {_type(ours)} is wanted"
    return None


def _wrong_values(value: Tensor, ours: Tensor, optional: bool) -> str | None:
    """Why the values of a tensor cannot be a network's."""
    if value.is_meta or not value.numel():
        return None
    if not ours.is_floating_point() and not ours.is_complex():
        kept = optional or bool((value.to(ours.dtype).to(value.dtype) == value).all())
        return None if kept else f"holds values of {_type(value)} that {_type(ours)} has not"
    finite = torch.isfinite(value)
    # Masks may be infinite on purpose, and then are so in every network of the kind.
    if not bool(finite.all()) and not bool((finite | ~torch.isfinite(ours.cpu())).all()):
        found = int((~finite).sum())
        kind = "NaN" if bool(torch.isnan(value).any()) else "infinite"
        return f"holds {found} of {value.numel()} values that are {kind}: the training that saved it had diverged"
    if bool((torch.isfinite(value.to(ours.dtype)) != finite).any()):
        return f"holds values up to {float(value.abs().max()):.3g}, beyond what {_type(ours)} can hold"
    return None


def _vanishes(value: Tensor, ours: Tensor) -> bool:
    if value.is_meta or not (value.is_floating_point() and ours.is_floating_point()) or value.dtype == ours.dtype:
        return False
    return bool(((value != 0) & (value.to(ours.dtype) == 0)).any())


def _type(value: Tensor, attribute: str = "dtype") -> str:
    return str(getattr(value, attribute)).removeprefix("torch.")


def _first(names: list[str], shown: int = SHOWN) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
