"""The distance of attention links, against a loop written from the paper."""

import pytest
import torch
from tests.closeness import assert_near
from torch import Tensor

from attention_transfer.methods.attention_links import loss as module
from attention_transfer.methods.attention_links.loss import Form, link_distance


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
    monkeypatch.setattr(module, "_CPU_PIECE", piece)
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
