"""Names of classes: whether two networks, or a network and its data, speak of the same ones, and in which order.

>>> are_numbered(["0", "1", "2"]), are_numbered(["cat", "dog"])
(True, False)
>>> pair_classes(["cat", "dog"], ["dog", "cat"]).order
(1, 0)
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from torch import nn

from attention_transfer.errors import needing
from attention_transfer.models.build import IMAGENET_CLASSES, bare
from attention_transfer.models.naming import parse_name

_SYNSET = re.compile(r"n\d{8}")
# Of a set of classes: names that are those of ImageNet at so large a share of all indices are ImageNet's.
_SAME_LIST = 0.95
_SHOWN = 3
_IMAGENET_CLASSES = 1000
_NUMBERED = re.compile(r"(\D*?)[\s_\-.]*(\d{1,9})")


@dataclass(frozen=True)
class Pairing:
    """How the classes of a network belong to those of data.

    Args:
        order: for each class of the data, its index among those of the network; None where they are in the same order,
            or names say nothing about it.
        difference: in words, where they are other classes; empty where they are the same, or that is unknown.
    """

    order: tuple[int, ...] | None = None
    difference: str = ""


def are_numbered(classes: Collection[str]) -> bool:
    """Whether classes are called by their numbers for want of names: `0`, `LABEL_0`, `flower 12`.

    Args:
        classes: their names, of all of them.
    """
    matches = [_NUMBERED.fullmatch(name.strip()) for name in classes]
    found = [(match[1], int(match[2])) for match in matches if match is not None]
    if not found or len(found) < len(classes) or len({word for word, _ in found}) != 1:
        return False
    first = min(number for _, number in found)
    return first in (0, 1) and {number for _, number in found} == set(range(first, first + len(found)))


def pair_classes(theirs: Sequence[str] | None, ours: Sequence[str], *, named: bool = True) -> Pairing:
    """Find the classes of data among those of a network by their names.

    Case, accents, underscores and hyphens make no difference. A description with commas lists names of one class, and
    so does what WordNet calls the identifiers after which ImageNet's folders are named.

    Args:
        theirs: names of a network's classes, by their indices; None where they are unknown.
        ours: names of the data's classes.
        named: whether the latter are names, and not numbers for want of any.
    """
    if theirs is None or len(theirs) != len(ours):
        return Pairing()
    for first, second in ((list(theirs), list(ours)), (_known(theirs), _known(ours))):
        found = {name: index for index, name in enumerate(first)}
        if len(found) == len(first) and found.keys() == set(second):
            return _ordered([found[name] for name in second])
    if are_numbered(theirs) or not named:
        return Pairing()
    pairs = _by_aliases([_aliases(name) for name in first], [_aliases(name) for name in second])
    strange = [index for index in range(len(ours)) if index not in pairs]
    if not strange:
        return _ordered([pairs[index] for index in range(len(ours))])
    others = [name for index, name in enumerate(theirs) if index not in set(pairs.values())]
    return Pairing(
        difference=f"{len(strange)} of the data's {len(ours)} classes are not among the network's by name "
        f"({_some(ours[index] for index in strange)}), which has others ({_some(others)})"
    )


def names_in(content: object, num_classes: int) -> tuple[str, ...] | None:
    """Names of classes as people write them: a list, or a mapping of indices to names or of names to indices.

    Args:
        content: anything.
        num_classes: that there must be.

    Returns:
        None where it is something else.
    """
    if isinstance(content, Mapping):
        content = _listed(cast("Mapping[Any, Any]", content))
    if not isinstance(content, (list, tuple)):
        return None
    names = cast("Sequence[Any]", content)
    if len(names) != num_classes or not all(isinstance(name, str) and name for name in names):
        return None
    return tuple(names) if len(set(names)) == len(names) or _is_imagenet(names) else None


def imagenet_synsets() -> tuple[str, ...]:
    """WordNet's identifiers of the classes of ImageNet-1k, as its folders are called and in its usual order."""
    return tuple(_imagenet())


def _ordered(order: list[int]) -> Pairing:
    return Pairing(None if order == list(range(len(order))) else tuple(order))


def _known(names: Sequence[str]) -> list[str]:
    """Names in one spelling; those of ImageNet as its identifiers, whoever spelled them."""
    return list(_imagenet()) if _is_imagenet(names) else [_plain(name) for name in names]


def _is_imagenet(names: Sequence[str]) -> bool:
    if len(names) != _IMAGENET_CLASSES:
        return False
    identifiers = _imagenet()
    same = sum(bool(_aliases(name) & described) for name, described in zip(names, identifiers.values(), strict=True))
    return same >= _SAME_LIST * len(names)


@cache
def _imagenet() -> dict[str, frozenset[str]]:
    """The identifiers of ImageNet-1k in its order, with all that their classes are called."""
    info = _imagenet_info()
    return {
        name: frozenset({name, *_parts(info.index_to_description(index))})
        for index, name in enumerate(info.label_names())
    }


@cache
def _descriptions() -> dict[str, str]:
    """What WordNet calls the classes of ImageNet-22k, by their identifiers."""
    info = _imagenet_info("imagenet-22k")
    return {name: info.label_name_to_description(name) for name in info.label_names()}


def _imagenet_info(*subset: str) -> Any:
    with needing("telling the names of ImageNet's classes", "timm"):
        from timm.data.imagenet_info import ImageNetInfo
    return ImageNetInfo(*subset)


def _plain(name: str) -> str:
    """One spelling: without case, accents, underscores, hyphens and the number that may come before a name."""
    letters = "".join(each for each in unicodedata.normalize("NFKD", name) if not unicodedata.combining(each))
    words = re.sub(r"[\s_\-]+", " ", letters.casefold()).strip()
    return re.sub(r"^\d+[. ]+(?=\D)", "", words)


def _aliases(name: str) -> frozenset[str]:
    """All that a class is called."""
    plain = _plain(name)
    first, _, rest = plain.partition(" ")
    if not _SYNSET.fullmatch(first):
        return frozenset({plain, *_parts(name)})
    return frozenset({plain, first, *_parts(rest), *_parts(_descriptions().get(first, ""))} - {""})


def _parts(description: str) -> set[str]:
    return {_plain(part) for part in (description, *description.split(",")) if part.strip()}


def _by_aliases(theirs: Sequence[frozenset[str]], ours: Sequence[frozenset[str]]) -> dict[int, int]:
    """Pairs of classes of which each has something that it is called by in common with no other."""
    called: dict[str, set[int]] = {}
    for index, names in enumerate(theirs):
        for name in names:
            called.setdefault(name, set()).add(index)
    candidates = {
        index: set[int]().union(*(called.get(name, set()) for name in names)) for index, names in enumerate(ours)
    }
    pairs: dict[int, int] = {}
    while True:
        chosen = {index: next(iter(found)) for index, found in candidates.items() if len(found) == 1}
        counts = Counter(chosen.values())
        alone = {index: other for index, other in chosen.items() if counts[other] == 1}
        if not alone:
            return pairs
        pairs |= alone
        taken = set(alone.values())
        candidates = {index: found - taken for index, found in candidates.items() if index not in pairs}


def _listed(content: Mapping[Any, Any]) -> list[Any] | None:
    """The names of a mapping in the order of their indices, where those are 0…K-1."""
    items: list[tuple[Any, Any]] = list(content.items())
    if items and isinstance(items[0][1], int):
        items = [(index, name) for name, index in items]
    try:
        by_index = {int(index): name for index, name in items}
    except (TypeError, ValueError, OverflowError):
        return None
    return [by_index[index] for index in range(len(items))] if by_index.keys() == set(range(len(items))) else None


def _some(names: Iterable[str]) -> str:
    listed = [repr(name) for name in names]
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")


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
