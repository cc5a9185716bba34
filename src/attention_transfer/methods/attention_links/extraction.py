"""Which of trained links matter: Algorithm 1 of Jin & Choi (arXiv:2211.13852)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from attention_transfer.errors import first_line
from attention_transfer.methods.attention_links.link_weights import Places, places_of
from attention_transfer.methods.attention_links.selection import LinkChoice, LinkGroup, LinksError

PAPERS_THRESHOLD = 0.05


class NothingLeftError(LinksError):
    """A threshold that removes every link."""


@dataclass(frozen=True)
class LinkWeights:
    """Trained links between some channels of one stage and the heads of some layers.

    Args:
        stage: from 0.
        channel: of each row of the weight, from 0.
        layer: of each column, from 0; as many columns as it has heads.
        weight: of the links, without biases.
    """

    stage: int
    channel: Int64[np.ndarray, " c"]
    layer: Int64[np.ndarray, " n"]
    weight: Float[np.ndarray, "c n"]


@dataclass(frozen=True)
class TrainedLinks:
    """All links of one pair of networks.

    Args:
        channels: of each stage; 0 for one that nothing is linked to.
        heads: of each layer of the student.
        groups: their weights.
        places: where each linked stage, and each layer of the student, is read; empty where nobody wrote it down.
    """

    channels: tuple[int, ...]
    heads: tuple[int, ...]
    groups: tuple[LinkWeights, ...]
    places: Places = ((), ())

    def means(self, absolute: bool = True) -> tuple[Float[np.ndarray, "c l"], ...]:
        """Mean over heads of the links of each channel to each layer, stage by stage; NaN where there are none.

        Args:
            absolute: of their magnitudes.
        """
        found = tuple(np.full((count, len(self.heads)), np.nan) for count in self.channels)
        for group in self.groups:
            weight = np.abs(group.weight) if absolute else group.weight
            for layer in np.unique(group.layer):
                found[group.stage][group.channel, layer] = weight[:, group.layer == layer].mean(1)
        return found

    def magnitudes(self) -> Float[np.ndarray, "s l"]:
        """Mean magnitude of the links between each stage and each layer, as in Figure 2; NaN where there are none."""
        return np.array([_of_layers(stage) for stage in self.means()])


def trained_links(parts: Mapping[str, Tensor], name: str = "attention-links") -> TrainedLinks:
    """The links among what the methods of a run learned.

    Args:
        parts: under the names of the distiller's `parts`.
        name: of the method in that run; the second of its kind is `attention-links2`.

    Raises:
        LinksError: there are none.
    """
    own = {key.removeprefix(f"{name}."): value for key, value in parts.items() if key.startswith(f"{name}.")}
    if "channels" not in own or "heads" not in own:
        there = sorted({key.partition(".")[0] for key in parts})
        raise LinksError(f"this run learned no {name}; it learned {', '.join(there) or 'nothing beside its student'}")
    prefixes = sorted(key.removesuffix(".weight") for key in own if key.endswith(".weight"))
    try:
        groups = tuple(_group_of(own, prefix) for prefix in prefixes)
        channels, heads = (tuple(map(int, own[key].tolist())) for key in ("channels", "heads"))
        places = places_of(own["places"]) if "places" in own else ((), ())
    except (KeyError, IndexError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise LinksError(f"its {name} are none that a training wrote ({first_line(error)})") from error
    fitting = all(
        0 <= group.stage < len(channels)
        and group.weight.shape == (len(group.channel), len(group.layer))
        and _are_within(group.channel, channels[group.stage])
        and _are_within(group.layer, len(heads))
        for group in groups
    )
    if not fitting:
        raise LinksError(f"its {name} belong to stages, channels or layers that it does not have")
    return TrainedLinks(channels, heads, groups, places)


def _group_of(own: Mapping[str, Tensor], prefix: str) -> LinkWeights:
    return LinkWeights(
        int(prefix.split(".")[1]),
        own[f"{prefix}.channel"].numpy(),
        own[f"{prefix}.layer"].numpy(),
        own[f"{prefix}.weight"].double().numpy(),
    )


def _are_within(places: Int64[np.ndarray, " n"], count: int) -> bool:
    return places.ndim == 1 and places.dtype.kind in "iu" and bool(((places >= 0) & (places < count)).all())


def extracted(
    links: TrainedLinks,
    threshold: float = PAPERS_THRESHOLD,
    per: Literal["stage", "channel"] = "stage",
    *,
    signed: bool = False,
) -> LinkChoice:
    """The links that stay when the weak ones are taken out.

    All weights are brought to 0…1 by the least and the largest of them. A channel keeps its links to a layer if the
    mean of their magnitudes over its heads is above the threshold.

    Args:
        links: trained.
        threshold: θ, 0 ≤ θ < 1.
        per: `channel` decides as the algorithm is written, for every channel by itself; `stage` by the mean over all
            channels of the stage, as in Table 1.
        signed: bring the weights as they are to 0…1, as the algorithm is written, of which the magnitude is then the
            same; otherwise their magnitudes, so that weak links come near 0.

    Raises:
        NothingLeftError: no link is above the threshold.
        LinksError: all weights are the same, or some are not finite.
    """
    if not 0 <= threshold < 1:
        raise LinksError(f"threshold must be 0 ≤ θ < 1, a share of the range of all weights, not {threshold}")
    strengths = _strengths(links, per, signed=signed)
    kept = [strength > threshold for strength in strengths]
    if not any(each.any() for each in kept):
        strongest = max(float(np.nanmax(strength)) for strength in strengths if not np.isnan(strength).all())
        raise NothingLeftError(
            f"a threshold of {threshold} removes every link: the strongest {per} has {strongest:.4f}; take a smaller "
            "one"
        )
    linked, layers = links.places
    read = iter(linked)
    stages = tuple(next(read) if count else "" for count in links.channels) if linked else None
    return LinkChoice(tuple(_groups(each) for each in kept), links.channels, links.heads, stages, layers or None)


def threshold_that_keeps(
    share: float, links: TrainedLinks, per: Literal["stage", "channel"] = "stage", *, signed: bool = False
) -> float:
    """θ with which `extracted` keeps a share of the links: how weak the weak ones are depends on pair and schedule.

    The paper's θ is for 300 epochs of weight decay; after few epochs every link is above it. Its α keeps 29 of 84 pairs
    of a stage and a layer.

    Args:
        share: of the pairs of a stage and a layer, or of a channel and a layer; 0 < share < 1. At least one is kept.
        links: trained.
        per: as `extracted` has it.
        signed: same as for `per`.

    Raises:
        LinksError: as `extracted`; there is only one pair; or no threshold separates as many, for some are equally
            strong.
    """
    if not 0 < share < 1:
        raise LinksError(f"a share of links to keep must be above 0 and below 1, not {share}")
    strengths = _strengths(links, per, signed=signed)
    if per == "stage":
        strengths = [_of_layers(strength) for strength in strengths]
    every = np.concatenate([strength[~np.isnan(strength)] for strength in strengths])
    if len(every) < 2:
        raise LinksError(f"there is only one {per} and one layer that are linked: nothing can be left out")
    descending = np.sort(every)[::-1]
    count = min(max(round(share * len(every)), 1), len(every) - 1)
    last, next_one = float(descending[count - 1]), float(descending[count])
    threshold = (last + next_one) / 2
    if not next_one <= threshold < last:
        raise LinksError(
            f"no threshold keeps {count} of {len(every)} pairs of a {per} and a layer, for some are equally strong: "
            "take another share, or give a threshold"
        )
    return threshold


def _strengths(
    links: TrainedLinks, per: Literal["stage", "channel"], *, signed: bool
) -> list[Float[np.ndarray, "c l"]]:
    """How strongly each channel is linked to each layer, in the range of all weights; NaN where it is not."""
    every = np.concatenate([group.weight.ravel() for group in links.groups])
    if not np.isfinite(every).all():
        raise LinksError("some links are not finite numbers: this training diverged, so that nothing can be extracted")
    every = every if signed else np.abs(every)
    low, high = float(every.min()), float(every.max())
    if low == high:
        raise LinksError("all links have the same weight, so none is weaker than others: were they trained?")
    # The mean of what was brought to 0…1 is the mean brought to 0…1.
    strengths = [(mean - low) / (high - low) for mean in links.means(absolute=not signed)]
    return strengths if per == "channel" else [_mean_over_channels(strength) for strength in strengths]


def _mean_over_channels(strength: Float[np.ndarray, "c l"]) -> Float[np.ndarray, "c l"]:
    """The same for all channels that have links."""
    there = ~np.isnan(strength)
    sums, counts = np.where(there, strength, 0).sum(0), there.sum(0)
    mean = np.divide(sums, counts, out=np.full(strength.shape[1], np.nan), where=counts > 0)
    return np.where(there, mean, np.nan)


def _of_layers(stage: Float[np.ndarray, "c l"]) -> Float[np.ndarray, " l"]:
    """Mean over the linked channels of a stage; NaN for layers that none is linked to."""
    return np.array([np.nan if np.isnan(column).all() else np.nanmean(column) for column in stage.T])


def _groups(kept: Bool[np.ndarray, "c l"]) -> tuple[LinkGroup, ...]:
    """Channels with the same layers together; those without any left out."""
    found: dict[tuple[int, ...], list[int]] = {}
    for channel, row in enumerate(kept):
        if row.any():
            found.setdefault(tuple(np.flatnonzero(row).tolist()), []).append(channel)
    return tuple(
        LinkGroup(layers, None if len(channels) == len(kept) else tuple(channels)) for layers, channels in found.items()
    )


def count_links(choice: LinkChoice, channels: Sequence[int], heads: Sequence[int]) -> int:
    """Weights that a choice has, without biases."""
    return sum(
        (channels[number] if group.channels is None else len(group.channels)) * sum(heads[i] for i in group.layers)
        for number, groups in enumerate(choice.stages)
        for group in groups
    )
