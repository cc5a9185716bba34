"""Choosing among the state dicts of a file: averaged weights before raw ones, and nothing else without being told."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from attention_transfer.models.state_dicts import (
    SHOWN,
    StateDict,
    Wanted,
    called_average,
    fits,
    missing,
    places_of,
    related,
    under_prefixes,
    without_wrappers,
)
from attention_transfer.models.weight_files import WeightsError

_GROUPS = 5


@dataclass(frozen=True)
class Chosen:
    """The weights of a file that are a network's.

    Args:
        weights: under the network's names, as far as they fit.
        source: the file and what of it, for messages.
        fits: whether every tensor is there with its shape, the last layer's or all others at least.
        notes: what was chosen and left out, where anything was.
    """

    weights: dict[str, Tensor]
    source: str
    fits: bool
    notes: tuple[str, ...] = ()


def choose(content: Any, wanted: Wanted, file: Path, key: str | None = None) -> Chosen:
    """The state dict of a file that is a network's.

    Averaged weights are taken where raw ones lie beside them. Where none fits, it is the one that comes closest.

    Args:
        content: of the file.
        wanted: the network's tensors.
        file: for messages.
        key: of the state dict, or of a prefix in it, as `FILE#KEY` says; None looks for the only one.

    Raises:
        WeightsError: if nothing lies under the key, or more than one state dict fits: with the keys to choose from.
    """
    places = places_of(content, file)
    found = [each for place, tensors in places.items() for each in under_prefixes(place, tensors, wanted)]
    if key is not None:
        found, places = _named(key, found, places, file)
    if not found:
        return _closest(places, wanted, file)
    chosen = _one_of(found, wanted, file, places)
    nameless = [] if key is not None else _averages_without_names(content)
    notes = [
        f"{file} also holds averaged weights under '{place}', but not by name: its others are taken"
        for place in nameless
    ]
    return replace(chosen, notes=(*chosen.notes, *notes))


def _one_of(found: list[StateDict], wanted: Wanted, file: Path, places: Mapping[str, Any]) -> Chosen:
    """The one among state dicts of a network that fits, or is the average of another that does."""
    fitting = _different([each for each in found if fits(each, wanted)])
    raw = [each for each in fitting if not each.averaged]
    averaged = [each for each in found if each.averaged]
    if len(averaged) == 1 and raw and not fits(averaged[0], wanted):
        lacking = missing(averaged[0], wanted)
        raise WeightsError(
            f"{file} holds averaged weights under '{averaged[0].key}' that do not fit"
            + (f" (without {lacking[0]})" if lacking else "")
            + f" beside raw ones that do: write {_written(file, raw[0])} to take the latter"
        )
    rivals = fitting or _different(found)
    if len(rivals) == 1:
        return _chosen(rivals[0], wanted, file, places)
    averaged = [each for each in rivals if each.averaged]
    if len(averaged) != 1:
        raise WeightsError(
            f"{file} holds {len(rivals)} sets of weights of this network: write which, as "
            f"{' or '.join(_written(file, each) for each in rivals[:SHOWN])}"
        )
    others = " or ".join(_written(file, each) for each in rivals if not each.averaged)
    taken = _chosen(averaged[0], wanted, file, places)
    note = f"the averaged weights of {file} are taken ('{averaged[0].key}'); its raw ones are {others}"
    return replace(taken, notes=(note, *taken.notes))


def holds_names(content: Any, names: Collection[str], file: Path) -> bool:
    """Whether all of these names, behind one prefix at most, lie in one mapping of a file's content."""
    wanted = Wanted(dict.fromkeys(names, torch.Size()))
    found = (
        each for place, tensors in places_of(content, file).items() for each in under_prefixes(place, tensors, wanted)
    )
    return any(not missing(each, wanted) for each in found)


def only_state_dict(content: Any, file: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict of a file of which no network is known, without what wrappers of torch put before all its names.

    Raises:
        WeightsError: if there are several of the same names, or nothing under the key.
    """
    places = places_of(content, file)
    if key is not None:
        inside = {place: tensors for place, tensors in places.items() if _ends_with(place, key)}
        if not inside:
            raise _nothing_there(key, places, file)
        places = {key: inside[key]} if key in inside else inside
    largest = max(places, key=lambda place: len(places[place]))
    reference = without_wrappers(places[largest])
    wanted = Wanted({name: value.shape for name, value in reference.items()})
    rivals = [place for place, tensors in places.items() if related(tensors, wanted)]
    if len(rivals) > 1:
        choices = " or ".join(f"#{place}" for place in rivals)
        raise WeightsError(f"{file} holds {len(rivals)} state dicts of the same names: give the key of one, {choices}")
    return reference


def _averages_without_names(content: Mapping[Any, Any]) -> list[str]:
    """Keys under which averages lie as lists, in the order of parameters that nobody can check."""
    return [
        str(key)
        for key, value in content.items()
        if called_average(str(key))
        and isinstance(value, Mapping)
        and any(
            isinstance(item, list) and item and isinstance(item[0], Tensor)
            for item in cast("Mapping[Any, Any]", value).values()
        )
    ]


def _different(found: Sequence[StateDict]) -> list[StateDict]:
    """Without those that hold the same values as another, as where one network is known under two names."""
    kept: list[StateDict] = []
    for each in found:
        if not any(_equal(each.tensors, other.tensors) for other in kept):
            kept.append(each)
    return kept


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value is second[name] or (value.shape == second[name].shape and _same_values(value, second[name]))
        for name, value in first.items()
    )


def _same_values(first: Tensor, second: Tensor) -> bool:
    try:
        return torch.equal(first, second)
    except (RuntimeError, NotImplementedError, TypeError):
        # Tensors without values, or of layouts that cannot be compared.
        return False


def _named(
    key: str, found: Sequence[StateDict], places: dict[str, dict[str, Tensor]], file: Path
) -> tuple[list[StateDict], dict[str, dict[str, Tensor]]]:
    """What a key leads to: a set of weights, or all those in a mapping."""
    exact = [each for each in found if each.key == key] or [each for each in found if each.place == key]
    chosen = exact or [each for each in found if _ends_with(each.key, key) or _ends_with(each.place, key)]
    inside = {place: tensors for place, tensors in places.items() if place in {each.place for each in chosen}}
    if not chosen and key in places:
        inside = {key: places[key]}
    if not inside:
        raise _nothing_there(key, dict.fromkeys([each.key for each in found] or places), file)
    return chosen, inside


def _ends_with(key: str, end: str) -> bool:
    return key == end or (bool(end) and key.endswith(f".{end}"))


def _nothing_there(key: str, choices: Iterable[str], file: Path) -> WeightsError:
    written = ", ".join(f"{file}#{choice}" if choice else str(file) for choice in list(choices)[:SHOWN])
    return WeightsError(f"{file} holds no weights under {key!r}: there are {written}")


def _closest(places: Mapping[str, Mapping[str, Tensor]], wanted: Wanted, file: Path) -> Chosen:
    """What comes closest to a network's weights, so that the misfit can be told."""

    def common(place: str) -> tuple[int, int]:
        return len(wanted.shapes.keys() & without_wrappers(places[place]).keys()), len(places[place])

    place = max(places, key=common)
    source = f"{file}#{place}" if place else str(file)
    return Chosen(without_wrappers(places[place]), source, fits=False)


def _chosen(found: StateDict, wanted: Wanted, file: Path, places: Mapping[str, Any]) -> Chosen:
    others = [place for place in places if place != found.place and "optim" not in place.lower()]
    left = [*_grouped(found.beside), *(f"'{place}'" for place in others)]
    shown = ", ".join(left[:_GROUPS]) + (f" and {len(left) - _GROUPS} more" if len(left) > _GROUPS else "")
    under = f"under '{found.key}' " if found.key else ""
    notes = (f"of {file}, only the network's own weights {under}are taken, not {shown}",) if left else ()
    source = f"{file}#{found.key}" if found.key else str(file)
    return Chosen(dict(wanted.adapt(found.tensors)), source, fits(found, wanted), notes)


def _grouped(names: Iterable[str]) -> list[str]:
    """Names by what they begin with: `teacher.* (122)`."""
    groups: dict[str, list[list[str]]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name.split("."))
    return [
        ".".join(parts[0]) if len(parts) == 1 else f"{'.'.join(_shared(parts))}.* ({len(parts)})"
        for parts in groups.values()
    ]


def _shared(parts: Sequence[Sequence[str]]) -> list[str]:
    """The first parts that all of these have in common."""
    same = takewhile(lambda each: len(set(each)) == 1, zip(*parts, strict=False))
    return [each[0] for each in same]


def _written(file: Path, found: StateDict) -> str:
    return f"{file}#{found.key}"
