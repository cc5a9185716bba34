"""Algorithm 1 of Jin & Choi, against the loops that it is printed as."""

import numpy as np
import pytest
import torch

from attention_transfer.methods.attention_links.extraction import (
    LinkWeights,
    TrainedLinks,
    count_links,
    extracted,
    threshold_that_keeps,
    trained_links,
)
from attention_transfer.methods.attention_links.link_weights import Links
from attention_transfer.methods.attention_links.selection import LinkChoice, LinkGroup, LinksError, chosen_links

CHANNELS, HEADS = (4, 6), (2, 2, 3)


def parts(choice: LinkChoice, seed: int = 0) -> dict[str, torch.Tensor]:
    """As a run keeps them, beside those of another method."""
    torch.manual_seed(seed)
    links = Links(choice, CHANNELS, HEADS)
    for group in links.groups:
        # Some layers matter more than others.
        group.weight.data *= torch.tensor([0.1, 1.0, 0.01])[group.get_buffer("layer")]
    return {"other.weight": torch.zeros(2)} | {
        f"attention-links.{key}": value for key, value in links.state_dict().items()
    }


def full(seed: int = 0) -> TrainedLinks:
    return trained_links(parts(chosen_links("full", 2, 3), seed))


def algorithm(links: TrainedLinks, threshold: float, *, signed: bool) -> dict[tuple[int, int], list[int]]:
    """As printed: layers of each channel of each stage."""
    weights: dict[tuple[int, int, int, int], float] = {}
    for group in links.groups:
        for i, channel in enumerate(group.channel):
            seen: dict[int, int] = {}
            for j, layer in enumerate(group.layer):
                head = seen.get(layer, 0)
                seen[layer] = head + 1
                weight = float(group.weight[i, j])
                weights[group.stage, int(channel), int(layer), head] = weight if signed else abs(weight)
    low, high = min(weights.values()), max(weights.values())
    found: dict[tuple[int, int], list[int]] = {}
    for stage, count in enumerate(links.channels):
        for channel in range(count):
            for layer, heads in enumerate(links.heads):
                every = [(weights[stage, channel, layer, head] - low) / (high - low) for head in range(heads)]
                if sum(abs(each) for each in every) / heads > threshold:
                    found.setdefault((stage, channel), []).append(layer)
    return found


def by_channel(choice: LinkChoice) -> dict[tuple[int, int], list[int]]:
    return {
        (stage, channel): list(group.layers)
        for stage, groups in enumerate(choice.stages)
        for group in groups
        for channel in (range(CHANNELS[stage]) if group.channels is None else group.channels)
    }


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("threshold", [0.02, 0.05, 0.3, 0.5])
def test_channels_keep_the_layers_that_the_algorithm_keeps(threshold: float, signed: bool):
    links = full()
    found = by_channel(extracted(links, threshold, "channel", signed=signed))
    assert found == algorithm(links, threshold, signed=signed)


def test_stages_go_by_the_mean_over_their_channels():
    links = full()
    every = np.abs(np.concatenate([group.weight.ravel() for group in links.groups]))
    low, high = every.min(), every.max()
    for threshold in (0.01, 0.05, 0.3):
        choice = extracted(links, threshold)
        for stage, groups in enumerate(choice.stages):
            (group,) = [each for each in links.groups if each.stage == stage]
            wanted = [
                layer
                for layer in range(3)
                if np.mean((np.abs(group.weight[:, group.layer == layer]) - low) / (high - low)) > threshold
            ]
            assert groups == ((LinkGroup(tuple(wanted)),) if wanted else ())
    assert extracted(links, 0.01) != extracted(links, 0.3)


def test_on_signed_weights_a_small_threshold_keeps_almost_everything():
    links = full()
    assert extracted(links, 0.05, signed=True).num_groups == 6
    assert extracted(links, 0.05).num_groups < 6


def test_what_did_not_exist_does_not_come_back():
    some = LinkChoice(((LinkGroup((0, 1), (1, 2)),), (LinkGroup((1,)),)))
    links = trained_links(parts(some))
    for per in ("channel", "stage"):
        found = by_channel(extracted(links, 0.0, per))
        assert set(found) <= {(0, 1), (0, 2), *((1, channel) for channel in range(6))}
        assert all(set(layers) <= ({0, 1} if stage == 0 else {1}) for (stage, _), layers in found.items())
    assert np.isnan(links.magnitudes()[0, 2])
    assert np.isnan(links.magnitudes()[1, 0])


def test_an_extraction_belongs_to_its_pair():
    choice = extracted(full(), 0.05)
    assert (choice.channels, choice.heads) == (CHANNELS, HEADS)
    with pytest.raises(LinksError, match="belong to a teacher"):
        choice.check_sizes((4, 7), HEADS)


def test_a_threshold_that_removes_every_link_is_refused_with_the_strongest():
    links = full()
    for per in ("stage", "channel"):
        with pytest.raises(LinksError, match=rf"removes every link: the strongest {per} has 0\.\d+"):
            extracted(links, 0.999, per)
    for threshold in (-0.1, 1.0):
        with pytest.raises(LinksError, match="0 ≤ θ < 1"):
            extracted(links, threshold)
    same = LinkWeights(0, np.arange(2), np.zeros(1, dtype=np.int64), np.ones((2, 1)))
    with pytest.raises(LinksError, match="all links have the same weight"):
        extracted(TrainedLinks((2,), (1,), (same,)))
    wild = LinkWeights(0, np.arange(2), np.zeros(1, dtype=np.int64), np.array([[1.0], [np.nan]]))
    with pytest.raises(LinksError, match="not finite"):
        extracted(TrainedLinks((2,), (1,), (wild,)))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("share", "pairs"), [(0.01, 1), (1 / 3, 2), (0.5, 3), (0.99, 5)])
def test_a_share_of_stages_and_layers_is_kept(share: float, pairs: int, signed: bool):
    links = full()
    assert extracted(links, threshold_that_keeps(share, links, signed=signed), signed=signed).num_groups == pairs


def test_the_strongest_share_of_channels_is_kept():
    links = full()
    choice = extracted(links, threshold_that_keeps(0.2, links, "channel"), "channel")
    kept = by_channel(choice)
    strengths = {
        (stage, channel, layer): float(value)
        for stage, means in enumerate(links.means())
        for (channel, layer), value in np.ndenumerate(means)
    }
    strongest = sorted(strengths, key=lambda place: -strengths[place])[: round(0.2 * 10 * 3)]
    assert sorted(strongest) == sorted((*place, layer) for place, layers in kept.items() for layer in layers)


def test_a_share_counts_links_that_exist():
    links = trained_links(parts(chosen_links("1:1-2,2:3", 2, 3)))
    assert extracted(links, threshold_that_keeps(1 / 3, links)).num_groups == 1
    assert extracted(links, threshold_that_keeps(2 / 3, links)).num_groups == 2


def test_shares_that_no_threshold_keeps_are_refused():
    links = full()
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(LinksError, match="above 0 and below 1"):
            threshold_that_keeps(share, links)
    equal = LinkWeights(0, np.arange(2), np.arange(2), np.array([[1.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(LinksError, match="keeps 1 of 2 pairs of a stage and a layer, for some are equally"):
        threshold_that_keeps(0.5, TrainedLinks((2,), (1, 1), (equal,)))
    one = LinkWeights(0, np.arange(2), np.zeros(2, dtype=np.int64), np.array([[1.0, 2.0], [3.0, 4.0]]))
    with pytest.raises(LinksError, match="only one stage and one layer"):
        threshold_that_keeps(0.5, TrainedLinks((2,), (2,), (one,)))


def test_magnitudes_are_means_over_channels_and_heads():
    links = full()
    found = links.magnitudes()
    assert found.shape == (2, 3)
    for group in links.groups:
        for layer in range(3):
            expected = np.abs(group.weight[:, group.layer == layer]).mean()
            assert found[group.stage, layer] == pytest.approx(expected)


def test_links_are_counted():
    choice = LinkChoice(((LinkGroup((0, 2)),), (LinkGroup((1,), (0, 5)),)))
    assert count_links(choice, CHANNELS, HEADS) == 4 * 5 + 2 * 2
    links = Links(choice, CHANNELS, HEADS)
    assert links.num_links == count_links(choice, CHANNELS, HEADS)


def test_runs_without_links_are_refused():
    with pytest.raises(LinksError, match="learned no attention-links; it learned other"):
        trained_links({"other.weight": torch.zeros(1)})
    with pytest.raises(LinksError, match="nothing beside its student"):
        trained_links({})
    with pytest.raises(LinksError, match="learned no attention-links2"):
        trained_links(parts(chosen_links("full", 2, 3)), "attention-links2")
