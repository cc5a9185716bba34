"""Which links there are between the stages of a convolutional network and the layers of a transformer.

>>> len(chosen_links("full", num_stages=4, num_layers=12).stages)
4
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_transfer.errors import InputError
from attention_transfer.files.env_paths import at_home, expand
from attention_transfer.files.untrusted import read_text

FILE_KIND = "attention links"
# Table 1 of Jin & Choi (arXiv:2211.13852): EfficientNet-B3 and twelve layers.
ALPHA = "1:1-3,2:1-5,3:3-5,4:4-6,5:4-6,6:6-11,7:7-12"
BETA = "1:1-2,2:1-5,3:3-5,4:4-6,5:4-7,6:6-10,7:7-10"
_NAMED = {"alpha": ALPHA, "beta": BETA}
_SPANS = r"\d{1,9}:\d{1,9}(-\d{1,9})?(\+\d{1,9}(-\d{1,9})?)*"
_TEXT = re.compile(rf"{_SPANS}(,{_SPANS})*", re.ASCII)


_REMEDY = "train this pair with links=full and extract its own"


class LinksError(InputError):
    """Links that do not exist, or belong to another pair of networks."""


@dataclass(frozen=True)
class LinkGroup:
    """Channels of one stage that are linked to the same layers.

    Args:
        layers: of the student, from 0, ascending.
        channels: of the stage, from 0, ascending; None means all.
    """

    layers: tuple[int, ...]
    channels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class LinkChoice:
    """The links that exist, stage by stage.

    Args:
        stages: groups of each stage of the teacher, none where nothing is linked.
        channels: of each stage, where they are known: links of a trained pair belong to these. 0 for a stage that was
            not read, since nothing was linked to it.
        heads: of each layer of the student, one per layer.
        stage_places: where each stage is read, in words, one per stage; empty for one that was not.
        layer_places: where each layer of the student is.
    """

    stages: tuple[tuple[LinkGroup, ...], ...]
    channels: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    stage_places: tuple[str, ...] | None = None
    layer_places: tuple[str, ...] | None = None

    @property
    def linked_stages(self) -> tuple[int, ...]:
        """Stages that have links, from 0."""
        return tuple(number for number, groups in enumerate(self.stages) if groups)

    @property
    def linked_layers(self) -> tuple[int, ...]:
        """Layers of the student that have links, from 0."""
        return tuple(sorted({layer for groups in self.stages for group in groups for layer in group.layers}))

    @property
    def num_groups(self) -> int:
        """Pairs of a stage and a layer that are linked by at least one channel."""
        return sum(len({layer for group in groups for layer in group.layers}) for groups in self.stages)

    def check_places(self, stages: Sequence[str], layers: Sequence[str]) -> None:
        """Refuse links of other networks.

        Args:
            stages: where those of the teacher are read, in words.
            layers: where those of the student are.

        Raises:
            LinksError: the stages or layers are not as many as those that the links belong to, or read elsewhere.
        """
        num_stages, num_layers = len(stages), len(layers)
        if num_stages != len(self.stages):
            raise LinksError(
                f"the links belong to a teacher of {len(self.stages)} stages, and this one has {num_stages}: {_REMEDY}"
            )
        if self.heads is not None and len(self.heads) != num_layers:
            raise LinksError(
                f"the links belong to a student of {len(self.heads)} layers, and this one has {num_layers}: {_REMEDY}"
            )
        last = max(self.linked_layers)
        if last >= num_layers:
            raise LinksError(f"there is no layer {last + 1} to link: the student has layers 1 to {num_layers}")
        for who, what, wanted, found in (
            ("teacher", "stage", self.stage_places, stages),
            ("student", "layer", self.layer_places, layers),
        ):
            for number, (place, other) in enumerate(zip(wanted or found, found, strict=True), start=1):
                if place and place != other:
                    raise LinksError(
                        f"the links belong to a {who} whose {what} {number} is «{place}», and this one's is «{other}»: "
                        f"read them as they were read then, or {_REMEDY}"
                    )

    def check_sizes(self, channels: Sequence[int], heads: Sequence[int]) -> None:
        """Refuse links of networks of other widths.

        Args:
            channels: of each linked stage of the teacher.
            heads: of each layer of the student.

        Raises:
            LinksError: for other numbers of channels or heads, or a channel that does not exist.
        """
        known = None if self.channels is None else tuple(self.channels[number] for number in self.linked_stages)
        for who, what, wanted, found in (
            ("teacher", "channels in its linked stages", known, tuple(channels)),
            ("student", "heads in its layers", self.heads, tuple(heads)),
        ):
            if wanted is not None and wanted != found:
                raise LinksError(
                    f"the links belong to a {who} with {_listed(wanted)} {what}, and this one has {_listed(found)}: "
                    f"{_REMEDY}"
                )
        for number, count in zip(self.linked_stages, channels, strict=True):
            last = max((max(group.channels) for group in self.stages[number] if group.channels), default=0)
            if last >= count:
                raise LinksError(f"stage {number + 1} of the teacher has {count} channels, and none has number {last}")


def chosen_links(links: str, num_stages: int, num_layers: int) -> LinkChoice:
    """The links that a user asks for.

    Args:
        links: `full`; `alpha` or `beta` of the paper's Table 1; stages with their layers, both counted from 1, as
            `1:1-3,2:1-2+5`; or a file that `attention-transfer links` wrote, with environment variables.
        num_stages: of the teacher.
        num_layers: of the student.

    Raises:
        LinksError: for anything else.
    """
    if links == "full":
        return LinkChoice(((LinkGroup(tuple(range(num_layers))),),) * num_stages)
    if links in _NAMED and (num_stages, num_layers) != (7, 12):
        raise LinksError(
            f"links={links} are between 7 stages and 12 layers (EfficientNet-B3 and DeiT), and these networks have "
            f"{num_stages} and {num_layers}: take links=full and extract their own, or write them as "
            "STAGE:LAYERS,STAGE:LAYERS such as 1:1-3,2:2-4"
        )
    text = _NAMED.get(links, links).replace(" ", "")
    if _TEXT.fullmatch(text):
        return _from_text(text, num_stages, num_layers)
    return read_links(links)


def _from_text(text: str, num_stages: int, num_layers: int) -> LinkChoice:
    found: dict[int, tuple[int, ...]] = {}
    for part in text.split(","):
        stage, _, layers = part.partition(":")
        numbers: set[int] = set()
        for span in layers.split("+"):
            first, _, last = span.partition("-")
            # Before all of them are written out.
            if int(last or first) > num_layers:
                raise LinksError(f"there is no layer {last or first} to link: the student has layers 1 to {num_layers}")
            numbers |= set(range(int(first), int(last or first) + 1))
        if int(stage) in found:
            raise LinksError(f"stage {stage} is given twice in links {text}")
        if not numbers or min(numbers) < 1:
            raise LinksError(f"layers are counted from 1 and ascend; stage {stage} of links {text} has {layers}")
        found[int(stage)] = tuple(sorted(number - 1 for number in numbers))
    wrong = sorted(stage for stage in found if not 1 <= stage <= num_stages)
    if wrong:
        raise LinksError(
            f"there is no stage {wrong[0]} to link: of the teacher {num_stages} are read (chosen by stages or "
            f"teacher_layers, or all), and links count these from 1 to {num_stages}"
        )
    stages = range(1, num_stages + 1)
    return LinkChoice(tuple((LinkGroup(found[number]),) if number in found else () for number in stages))


def links_to_json(choice: LinkChoice, how: Mapping[str, Any]) -> str:
    """Links as the text of a file; stages and layers count from 1 there, channels from 0.

    Args:
        choice: with channels and heads.
        how: they came about, for the reader.
    """
    assert choice.channels is not None
    assert choice.heads is not None
    read = choice.stage_places or ("",) * len(choice.stages)
    stages = [
        {
            "stage": number,
            "read": place,
            "channels": count,
            "links": [
                {"layers": [layer + 1 for layer in group.layers]}
                | ({} if group.channels is None else {"channels": list(group.channels)})
                for group in groups
            ],
        }
        for number, (place, count, groups) in enumerate(zip(read, choice.channels, choice.stages, strict=True), start=1)
    ]
    layers = {"heads": list(choice.heads), "layers": list(choice.layer_places or ())}
    text = json.dumps({"kind": FILE_KIND, **how, **layers, "stages": stages}, indent=1)
    # Numbers beside each other, not below.
    return re.sub(r"\[[\d,\s]+\]", lambda match: "[" + ", ".join(re.findall(r"\d+", match[0])) + "]", text) + "\n"


def read_links(links: str | Path) -> LinkChoice:
    """The links of a file.

    Raises:
        LinksError: there is no such file, or it holds no links.
    """
    path = at_home(Path(expand(str(links))))
    if not path.is_file():
        raise LinksError(
            f"links must be full, alpha, beta, STAGE:LAYERS,… such as 1:1-3,2:2-4, or a file that `attention-transfer "
            f"links` wrote; {str(links)!r} is none of these, and there is no file {str(path)!r}"
        )
    try:
        content: Any = json.loads(read_text(path))
        if content["kind"] != FILE_KIND:
            raise InputError(f"its kind is {content['kind']!r}")
        stages = content["stages"]
        numbers = [stage["stage"] for stage in stages]
        if numbers != list(range(1, len(stages) + 1)):
            raise InputError(f"its stages are numbered {numbers}, not from 1 in order")
        heads, layers = tuple(int(count) for count in content["heads"]), content.get("layers") or []
        if not isinstance(layers, list):
            raise InputError(f"its layers are {layers!r}, not a list")
        if layers and len(layers) != len(heads):
            raise InputError(f"it names {len(layers)} layers and has heads of {len(heads)}")
        read = tuple(str(stage.get("read") or "") for stage in stages)
        choice = LinkChoice(
            tuple(tuple(_group(link) for link in stage["links"]) for stage in stages),
            tuple(int(stage["channels"]) for stage in stages),
            heads,
            read if any(read) else None,
            tuple(map(str, layers)) if layers else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise LinksError(f"{path} holds no links as `attention-transfer links` writes them: {error!r}") from error
    if not choice.linked_stages:
        raise LinksError(f"{path} holds no link at all: extract with a smaller threshold")
    for number, groups in enumerate(choice.stages, start=1):
        # Each would have a combination of its own, and none would be the sum over its layers.
        twice = len(groups) > 1 and any(group.channels is None for group in groups)
        every = [channel for group in groups for channel in group.channels or ()]
        if twice or len(set(every)) < len(every):
            raise LinksError(
                f"{path} has channels of stage {number} in several of its links: put all layers of a channel into one"
            )
    return choice


def _group(link: Mapping[str, Any]) -> LinkGroup:
    channels = link.get("channels")
    group = LinkGroup(
        tuple(sorted(int(layer) - 1 for layer in link["layers"])),
        None if channels is None else tuple(sorted(int(channel) for channel in channels)),
    )
    if not group.layers or group.layers[0] < 0 or (group.channels is not None and not group.channels):
        raise InputError(f"{dict(link)} links nothing")
    if len(set(group.layers)) < len(group.layers) or (group.channels or (0,))[0] < 0:
        raise InputError(f"{dict(link)} names a layer twice, or a channel below 0")
    return group


def _listed(numbers: Sequence[int]) -> str:
    """Equal ones once."""
    return (
        f"{len(numbers)} times {numbers[0]}" if len(set(numbers)) == 1 < len(numbers) else ", ".join(map(str, numbers))
    )
