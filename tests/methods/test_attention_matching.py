"""Heads find their partners, and mixtures start at them."""

import copy
import itertools
import pickle

import pytest
import torch

from attention_transfer.capture import Attention
from attention_transfer.methods.attention_maps.averages import averaged
from attention_transfer.methods.attention_maps.head_matching import (
    HeadMatching,
    LayerMixing,
    best_heads,
    head_costs,
    select_heads,
)


def random(heads: int, seed: int = 0, tokens: int = 5) -> Attention:
    query, key, value = torch.randn(3, 2, heads, tokens, 4, generator=torch.Generator().manual_seed(seed)).double()
    return Attention(query, key, value, scale=2.0)


def test_costs_are_divergences_head_by_head() -> None:
    student, teacher = random(2), random(3, seed=1)
    costs = head_costs(student, teacher)
    assert costs.shape == (2, 3)
    ours, theirs = student.map(), teacher.map()
    for h, g in itertools.product(range(2), range(3)):
        total = 0.0
        for b, n, m in itertools.product(range(2), range(5), range(5)):
            p, q = theirs[b, g, n, m].item(), ours[b, h, n, m].item()
            total += p * (torch.tensor(p / q).log().item())
        assert costs[h, g].item() == pytest.approx(total / 10, rel=1e-5)


def test_hidden_keys_cost_much_and_not_infinitely_much() -> None:
    student, teacher = random(2), random(3, seed=1)
    bias = torch.zeros(5, 5).double()
    bias[:, 2] = -torch.inf
    masked = Attention(student.query, student.key, scale=2.0, bias=bias)
    assert head_costs(masked, teacher).isfinite().all()


@pytest.mark.parametrize(("heads", "others"), [(3, 3), (2, 4), (5, 2), (4, 2)])
def test_the_matching_is_the_cheapest_of_all(heads: int, others: int) -> None:
    cost = torch.rand(heads, others, generator=torch.Generator().manual_seed(2))
    found = best_heads(cost)
    most = -(-heads // others)
    allowed = [
        order
        for order in itertools.product(range(others), repeat=heads)
        if all(order.count(head) <= most for head in order)
    ]
    cheapest = min(sum(cost[i, j].item() for i, j in enumerate(order)) for order in allowed)
    assert cost[torch.arange(heads), found].sum().item() == pytest.approx(cheapest)
    assert tuple(found.tolist()) in allowed


def test_a_permutation_of_heads_is_found() -> None:
    student = random(4)
    order = [2, 0, 3, 1]
    assert best_heads(head_costs(student, select_heads(student, order))).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("heads", [[1, 2], [2, 0], [3], [-1, 0]])
def test_chosen_heads_are_those_of_the_map(heads: list[int]) -> None:
    whole = random(4)
    for bias in (None, torch.randn(4, 5, 5).double(), torch.randn(2, 1, 5, 5).double(), torch.randn(5, 5).double()):
        attention = Attention(whole.query, whole.key, whole.value, 2.0, bias)
        torch.testing.assert_close(select_heads(attention, heads).map(), attention.map()[:, heads])
        torch.testing.assert_close(select_heads(attention, torch.tensor(heads)).result(), attention.result()[:, heads])
        known = Attention(weights=attention.map())
        torch.testing.assert_close(select_heads(known, heads).map(), attention.map()[:, heads])


def test_neighbouring_heads_are_not_copied() -> None:
    whole = random(4)
    assert select_heads(whole, [1, 2]).query.data_ptr() == whole.query[:, 1:].data_ptr()


def matching(*, mixed: bool = False) -> HeadMatching:
    return HeadMatching(2, 3, 3, mixed=mixed).double()


def test_heads_are_found_once() -> None:
    teacher = random(3)
    found = matching()
    cost = torch.tensor([[0.0, 9, 9], [9, 9, 0], [9, 0, 9]])
    found.find(lambda: [cost, cost.T.flip(0)])
    assert found.order.tolist() == [[0, 2, 1], [1, 2, 0]]
    found.find(lambda: pytest.fail("heads were found twice"))
    torch.testing.assert_close(found(0, teacher).map(), teacher.map()[:, [0, 2, 1]])


@pytest.mark.parametrize(("heads", "others", "order"), [(4, 2, [0, 0, 1, 1]), (2, 4, [0, 2]), (3, 3, [0, 1, 2])])
@pytest.mark.parametrize("mixed", [False, True])
def test_nothing_is_found_in_evaluation_and_heads_are_paired_in_turn(
    heads: int, others: int, order: list[int], mixed: bool
) -> None:
    found, teacher = HeadMatching(1, heads, others, mixed=mixed).double().eval(), random(others)
    found.find(lambda: pytest.fail("an evaluation has no part in the matching"))
    assert (found.order == -1).all()
    wanted = HeadMatching(1, heads, others, mixed=mixed).double()
    wanted.order.copy_(torch.tensor([order]))
    torch.testing.assert_close(found(0, teacher).map(), wanted(0, teacher).map())


def test_every_process_finds_the_same_from_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = torch.tensor([[0.0, 1], [1, 0]]), torch.tensor([[5.0, 0], [0, 5]])

    def add_the_others(value: torch.Tensor) -> None:
        value += theirs

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", add_the_others)
    found = HeadMatching(1, 2, 2, mixed=False)
    found.find(lambda: [mine])
    assert found.order.tolist() == [[1, 0]]


def test_what_was_found_is_kept_and_copied() -> None:
    found = matching(mixed=True)
    found.find(lambda: [torch.eye(3), 1 - torch.eye(3)])
    again = matching(mixed=True)
    again.load_state_dict(found.state_dict())
    for other in (again, copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert torch.equal(other.order, found.order)
        other.find(lambda: pytest.fail("it is known"))


def test_mixtures_start_at_the_partner_and_stay_distributions() -> None:
    teacher = random(3)
    mixing = matching(mixed=True)
    mixing.order.copy_(torch.tensor([[2, 0, 1], [0, 1, 2]]))
    mixed = mixing(0, teacher).map()
    maps = teacher.map()
    for head, partner in enumerate([2, 0, 1]):
        others = [other for other in range(3) if other != partner]
        torch.testing.assert_close(mixed[:, head], 0.9 * maps[:, partner] + 0.05 * maps[:, others].sum(1))
    with torch.no_grad():
        mixing.mixing.normal_()
    torch.testing.assert_close(mixing(1, teacher).map().sum(-1), torch.ones(2, 3, 5).double())
    mixing(1, teacher).map()[..., 0].sum().backward()
    assert mixing.mixing.grad[1].abs().max() > 0
    assert mixing.mixing.grad[0].abs().max() == 0


def test_mixed_maps_are_float32_under_autocast_too() -> None:
    mixing, layers = HeadMatching(1, 3, 3, mixed=True), LayerMixing([0], 2)
    mixing.order.copy_(torch.tensor([[2, 0, 1]]))
    teachers = [Attention(weights=random(3, seed).map().float()) for seed in range(2)]
    wanted = mixing(0, teachers[0]).map(), layers(0, teachers).map()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mixing(0, teachers[0]).map(), layers(0, teachers).map()
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def test_a_single_teacher_head_is_taken_whole() -> None:
    teacher = random(1)
    mixing = HeadMatching(1, 2, 1, mixed=True)
    mixing.order.zero_()
    torch.testing.assert_close(mixing(0, teacher).map(), teacher.map().expand(2, 2, 5, 5))


def test_layers_are_mixed_from_their_partner_on() -> None:
    teachers = [random(2, seed=i) for i in range(3)]
    mixing = LayerMixing([1, 2], 3)
    maps = [teacher.map() for teacher in teachers]
    torch.testing.assert_close(mixing(0, teachers).map(), 0.9 * maps[1] + 0.05 * (maps[0] + maps[2]))
    torch.testing.assert_close(mixing(1, teachers).map(), 0.9 * maps[2] + 0.05 * (maps[0] + maps[1]))
    mixing(1, teachers).map()[..., 0].sum().backward()
    assert mixing.mixing.grad[1].abs().max() > 0


def test_maps_are_averaged_over_the_axes_that_are_named() -> None:
    layers = [random(3, seed=i) for i in range(2)]
    maps = torch.stack([layer.map() for layer in layers])
    for axes, dimensions in {
        ("examples",): (1,),
        ("layers",): (0,),
        ("heads",): (2,),
        ("queries",): (3,),
        ("examples", "layers", "heads", "queries"): (0, 1, 2, 3),
    }.items():
        wanted = maps.mean(dimensions, keepdim=True).expand(2, -1, -1, -1, -1)
        for found, mean in zip(averaged(layers, axes), wanted, strict=True):
            torch.testing.assert_close(found.map(), mean)
