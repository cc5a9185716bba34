"""Which of the state dicts in a file are a network's weights: nested, under a wrapper's prefix, or beside others.

Names decide. A state dict is a network's where its names, without one common prefix, are those of the network.

>>> import torch
>>> list(without_wrappers({"module.fc.weight": torch.zeros(1)}))
['fc.weight']
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from attention_transfer.models.weight_files import WeightsError

# Counted by BatchNorm only since torch 0.4.1, and used only where its momentum is None.
OPTIONAL = "num_batches_tracked"
SHOWN = 10
_DEPTH = 16
_MOST_MAPPINGS = 100_000  # of one file; a few that hold each other make more than anybody can go through
# What wrappers of torch put before names, also in the middle of a name where they wrap a part of a network.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_AVERAGED = re.compile(r"(model|net|student|weights?|params?|state)?(ema|swa)\d*|averaged?|avg|ewma|polyak|shadow")
# Beside a network without a prefix of its own: what trainings, pre-trainings and counters of operations add to it.
_ADDED = re.compile(
    r"(n_averaged|total_ops|total_params|optim\w*|criterion\w*|\w*loss\w*|teacher\w*|target_\w+|momentum_\w+|"
    r"queue\w*|proj(ector|ection)\w*|predictor\w*|prototypes?\w*|mask_token|decoder\w*)(\.|$)|.*\.total_(ops|params)"
)


@dataclass(frozen=True)
class Wanted:
    """The tensors of a network for which weights are looked for.

    Args:
        shapes: by name.
        head: those whose shape depends on the number of classes, with the axis that does; they may be missing.
        adapt: what is done to weights before they are compared with these.
    """

    shapes: Mapping[str, torch.Size]
    head: Mapping[str, int] = field(default_factory=dict[str, int])
    adapt: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict


@dataclass(frozen=True)
class StateDict:
    """Weights as they lie in a file.

    Args:
        place: keys of the mapping that holds them, joined by dots; empty for the file's own.
        prefix: what stands before the network's names there, with its dot; empty where nothing does.
        tensors: under the network's names.
        beside: names of the tensors of the same mapping that are not under the prefix, or that trainings add.
    """

    place: str
    prefix: str
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """How `FILE#KEY` names it."""
        return ".".join(filter(None, (self.place, self.prefix.removesuffix("."))))

    @property
    def averaged(self) -> bool:
        """Whether it is called an average of the weights of many steps."""
        return called_average(self.key)


def without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the names of the bare network.

    Without the prefixes of DataParallel, `torch.compile` and the averages of `torch.optim.swa_utils`.
    """
    kept = {_clean(name): value for name, value in weights.items() if name != "n_averaged"}
    while all(name.startswith("module.") and name != "module." for name in kept) and kept:
        kept = {name.removeprefix("module."): value for name, value in kept.items()}
    return kept


def places_of(content: Any, file: Path) -> dict[str, dict[str, Tensor]]:
    """Every mapping of names to tensors in a file, by the keys that lead to it."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{file} holds a {type(content).__name__}, not a state dict (names to tensors)")
    content = cast("Mapping[Any, Any]", content)
    found: dict[str, dict[str, Tensor]] = {}
    visits = itertools.count()

    def walk(mapping: Mapping[Any, Any], path: tuple[str, ...], above: frozenset[int]) -> None:
        if next(visits) > _MOST_MAPPINGS:
            raise WeightsError(f"{file} holds more than {_MOST_MAPPINGS:,} mappings in each other: it is no checkpoint")
        tensors = {str(key): value for key, value in mapping.items() if isinstance(value, Tensor)}
        # Optimisers count their parameters instead of naming them.
        if tensors and any(isinstance(key, str) for key in mapping):
            found.setdefault(".".join(path), {_clean(name): value for name, value in tensors.items()})
        inside = above | {id(mapping)}  # what holds itself is gone through once
        for key, value in mapping.items():
            if isinstance(value, Mapping) and len(path) < _DEPTH and isinstance(key, str) and id(value) not in inside:
                walk(cast("Mapping[Any, Any]", value), (*path, key), inside)

    walk(content, (), frozenset())
    if not found:
        keys = ", ".join(map(str, list(content)[:SHOWN])) or "nothing"
        raise WeightsError(f"{file} holds no tensors, only: {keys}")
    return found


def called_average(key: str) -> bool:
    """Whether a key says that it is of an average of weights."""
    words = re.split(r"[._\-]+", key.lower())
    return any(map(_AVERAGED.fullmatch, words))


def _clean(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def under_prefixes(place: str, tensors: Mapping[str, Tensor], wanted: Wanted) -> Iterable[StateDict]:
    """The state dicts of a mapping that have at least half of a network's names, apart from its last layer's."""
    names = _body(wanted)
    counts = Counter(prefix for name in tensors for prefix in _prefixes(name, names))
    for prefix, count in counts.items():
        if 2 * count >= len(names):
            yield _under(place, prefix, tensors, wanted)


def _prefixes(name: str, names: frozenset[str]) -> Iterable[str]:
    """What must be taken off a name to make it one of these."""
    start = 0
    while True:
        if name[start:] in names:
            yield name[:start]
        start = name.find(".", start) + 1
        if not start:
            return


def _body(wanted: Wanted) -> frozenset[str]:
    """Names that weights of the network have, whatever its last layer."""
    body = frozenset(name for name in wanted.shapes if name not in wanted.head and not name.endswith(OPTIONAL))
    return body or frozenset(wanted.shapes)


def _under(place: str, prefix: str, tensors: Mapping[str, Tensor], wanted: Wanted) -> StateDict:
    inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    headless = not wanted.head.keys() & inside.keys()
    layers = {name.rpartition(".")[0] + "." for name in wanted.head} if headless else set[str]()

    def added(name: str) -> bool:
        # In place of a last layer for classes, pre-trainings have a projection of several.
        return name not in wanted.shapes and (
            _ADDED.match(name) is not None or any(layer != "." and name.startswith(layer) for layer in layers)
        )

    beside = (*(name for name in tensors if not name.startswith(prefix)), *(prefix + n for n in inside if added(n)))
    return StateDict(place, prefix, {n: value for n, value in inside.items() if not added(n)}, tuple(beside))


def fits(found: StateDict, wanted: Wanted) -> bool:
    """Whether these are all of a network's tensors and no others, its last layer's apart."""
    weights = wanted.adapt(found.tensors)
    strange = [name for name in weights if name not in wanted.shapes and not name.endswith(OPTIONAL)]
    return (
        not strange
        and not missing(found, wanted)
        and not any(
            _differs(weights[name].shape, shape, wanted.head.get(name))
            for name, shape in wanted.shapes.items()
            if name in weights and not name.endswith(OPTIONAL)
        )
    )


def missing(found: StateDict, wanted: Wanted) -> list[str]:
    """Names that weights lack, in words for a message."""
    there = wanted.adapt(found.tensors).keys()
    needed = _body(wanted) | (wanted.head.keys() if wanted.head.keys() & there else set())
    return [name for name in wanted.shapes if name in needed and name not in there]


def _differs(given: Sequence[int], wanted: Sequence[int], free: int | None) -> bool:
    if len(given) != len(wanted):
        return True
    return any(a != b for axis, (a, b) in enumerate(zip(given, wanted, strict=True)) if axis != free)


def related(tensors: Mapping[str, Tensor], wanted: Wanted) -> bool:
    """Whether at least half of the names of a mapping are those of another, under any prefix."""
    names = frozenset(wanted.shapes)
    counts = Counter(prefix for name in tensors for prefix in _prefixes(name, names))
    return any(2 * count >= min(len(tensors), len(names)) for count in counts.values())
