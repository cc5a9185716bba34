"""Attention links by their equations: Algorithm 1 of Jin & Choi, the distance, and stages on one grid."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.closeness import assert_near
from torch import Tensor
from torch.nn import functional

from attention_transfer.methods.attention_links import loss
from attention_transfer.methods.attention_links.extraction import (
    LinkWeights,
    TrainedLinks,
    count_links,
    extracted,
    threshold_that_keeps,
    trained_links,
)
from attention_transfer.methods.attention_links.link_weights import Links
from attention_transfer.methods.attention_links.loss import Form, link_distance, resized
from attention_transfer.methods.attention_links.selection import LinkChoice, LinkGroup, LinksError, chosen_links
from attention_transfer.methods.attention_maps import chunks

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


# ---------------- the distance of attention links, against a loop written from the paper


def slow(maps: Tensor, weight: Tensor, bias: Tensor, target: Tensor, form: Form) -> Tensor:
    """Eq. 4 and 5 of Jin & Choi, one image and one channel after the other."""
    images, channels = len(maps), len(weight)
    total = torch.zeros((), dtype=torch.float64)
    for b in range(images):
        for c in range(channels):
            augmented = bias[c] + sum(weight[c, n] * maps[b, n] for n in range(maps.shape[1]))
            ours = augmented / augmented.square().sum().sqrt()
            theirs = target[b, c] / target[b, c].square().sum().sqrt()
            squares = [(x - y) ** 2 for x, y in zip(ours, theirs, strict=True)]
            whole = torch.stack(squares).sum()
            total = total + (whole / len(squares) if form == "mean-square" else whole.sqrt())
    return total / images


def example(images: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    maps, weight, bias = draw(images, 5, 6).softmax(-1), draw(4, 5), draw(4)
    return maps.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), draw(images, 4, 6)


@pytest.mark.parametrize("form", ["mean-square", "norm"])
@pytest.mark.parametrize("piece", [1, 2**18])
def test_value_and_gradients_are_those_of_the_paper(form: Form, piece: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chunks, "_CPU_PIECE", piece)
    *moving, target = example()
    expected, found = slow(*moving, target, form), link_distance(*moving, target, form)
    assert_near(found, expected)
    wanted = torch.autograd.grad(3 * expected, moving)
    for ours, theirs in zip(torch.autograd.grad(3 * found, moving), wanted, strict=True):
        assert_near(ours, theirs)


@pytest.mark.parametrize("form", ["mean-square", "norm"])
def test_gradients_pass_gradcheck(form: Form):
    *moving, target = example(2)
    assert torch.autograd.gradcheck(lambda *each: link_distance(*each, target, form), moving)


@pytest.mark.parametrize("form", ["mean-square", "norm"])
def test_maps_without_direction_stay_finite_and_pass_nothing_on(form: Form):
    maps, weight, bias, target = example(2)
    with torch.no_grad():
        weight[0], bias[0], target[:, 1] = 0, 0, 0
    value = link_distance(maps, weight, bias, target, form)
    gradients = torch.autograd.grad(value, (maps, weight, bias))
    assert value.isfinite()
    assert all(each.isfinite().all() for each in gradients)
    # A combination that is zero has no direction, and towards a target of zero all directions are as good.
    assert gradients[1][:2].abs().max() < 1e-14
    assert gradients[1][2:].abs().min() > 0


def test_a_perfect_match_costs_nothing_and_passes_no_gradient():
    maps, weight, bias, _ = example(2)
    target = 3 * (weight @ maps + bias[:, None]).detach()
    for form in ("mean-square", "norm"):
        value = link_distance(maps, weight, bias, target, form)
        assert value.abs() < 1e-6
        assert all(each.isfinite().all() for each in torch.autograd.grad(value, (maps, weight, bias)))


def test_targets_are_constants():
    maps, weight, bias, target = example()
    (gradient,) = torch.autograd.grad(
        link_distance(maps, weight, bias, target.requires_grad_()), target, allow_unused=True
    )
    assert gradient is None


# ---------------- many channels on one grid, against torch's own interpolation of each stage

SHAPES = ((3, 12, 9), (5, 2, 3), (2, 12, 9), (4, 6, 5), (1, 4, 4))


def stages() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, *shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("grid", [(6, 5), (4, 4), (20, 16)])
@pytest.mark.parametrize("few", [0, 512])
def test_stages_are_resized_as_torch_does_it(
    grid: tuple[int, int], antialias: bool, align_corners: bool, few: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loss, "_FEW_POSITIONS", few)
    how: dict[str, Any] = {"align_corners": align_corners, "antialias": antialias}
    for found, stage in zip(resized(stages(), grid, **how), stages(), strict=True):
        expected = functional.interpolate(stage, grid, mode="bicubic", **how)
        assert_near(found, expected.flatten(2))


def test_channels_of_one_size_are_resized_in_one_call(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loss, "_FEW_POSITIONS", 0)
    calls: list[tuple[int, ...]] = []
    real = functional.interpolate

    def counted(values: Tensor, *arguments: Any, **others: Any) -> Tensor:
        calls.append(tuple(values.shape))
        return real(values, *arguments, **others)

    monkeypatch.setattr(functional, "interpolate", counted)
    resized(stages(), (6, 5))
    # What is as large already, or smaller, needs none; lines are not images.
    assert [shape for shape in calls if shape[0] == 2 and shape[1] > 1] == [(2, 5, 12, 9)]


def test_half_precision_becomes_float32():
    for found in resized([stage.bfloat16() for stage in stages()], (6, 5)):
        assert found.dtype == torch.float32
