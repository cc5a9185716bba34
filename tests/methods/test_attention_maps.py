"""Attention maps: heads find their partners, mixtures start at them, and what a layer attends to among patches."""

import copy
import itertools
import pickle
from collections.abc import Callable
from math import sqrt

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer

from attention_transfer.capture import Attention, Capture
from attention_transfer.methods.attention_maps.averages import averaged
from attention_transfer.methods.attention_maps.head_matching import (
    HeadMatching,
    LayerMixing,
    best_heads,
    head_costs,
    select_heads,
)
from attention_transfer.methods.attention_maps.patch_attention import Softmax, finest, on_one_grid, patch_attention
from attention_transfer.models import describe, with_attention


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


# ---------------- what a layer attends to among patches, against loops written from Eq. 3


def attention(tokens: int, prefix: int, **others: object) -> Attention:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, tokens, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    return Attention(query, key, scale=8**-0.5, prefix_tokens=prefix, **others)  # pyright: ignore[reportArgumentType]


def slow(layer: Attention, softmax: Softmax, *, scaled: bool) -> Tensor:
    """Eq. 3 of Jin & Choi: the query of the class token against the keys of patches."""
    assert layer.query is not None
    assert layer.key is not None
    images, heads, tokens, size = layer.query.shape
    prefix = layer.prefix_tokens
    maps = torch.zeros(images, heads, tokens - prefix, dtype=torch.float64)
    for b in range(images):
        for h in range(heads):
            first = layer.query[b, h, 0] if prefix else layer.query[b, h].mean(0)
            powers = [((first * each).sum() / (sqrt(size) if scaled else 1)).exp() for each in layer.key[b, h]]
            total = sum(powers[prefix if softmax == "patches" else 0 :])
            for p in range(prefix, tokens):
                maps[b, h, p - prefix] = powers[p] / total
    side = round(sqrt(tokens - prefix))
    return maps.unflatten(2, (side, side))


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("softmax", ["patches", "all"])
@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_maps_are_those_of_the_equation(prefix: int, softmax: Softmax, scaled: bool):
    layer = attention(prefix + 9, prefix, class_tokens=min(prefix, 1))
    found = patch_attention(layer, 2, softmax, scaled=scaled)
    torch.testing.assert_close(found, slow(layer, softmax, scaled=scaled))
    if softmax == "patches":
        torch.testing.assert_close(found.sum((2, 3)), torch.ones(2, 3, dtype=torch.float64))


def test_registers_alone_are_no_class_token():
    layer = attention(9 + 4, 4, class_tokens=0)
    assert layer.query is not None
    assert layer.key is not None
    expected = (layer.query[:, :, 4:].mean(2, keepdim=True) @ layer.key[:, :, 4:].mT * layer.scale).softmax(-1)
    torch.testing.assert_close(patch_attention(layer, 2).flatten(2), expected[:, :, 0])


@pytest.mark.parametrize("softmax", ["patches", "all"])
def test_a_map_that_was_written_out_by_hand_gives_the_same(softmax: Softmax):
    layer = attention(11, 2, class_tokens=1)
    written = Attention(weights=layer.map(), prefix_tokens=2, class_tokens=1)
    torch.testing.assert_close(patch_attention(written, 2, softmax), patch_attention(layer, 2, softmax))
    with pytest.raises(ValueError, match="scaled=True"):
        patch_attention(written, 2, scaled=False)


def test_a_bias_of_the_class_token_belongs_to_its_logits():
    bias = torch.randn(1, 3, 10, 10, dtype=torch.float64)
    layer = attention(10, 1, class_tokens=1, bias=bias)
    row = layer.map()[:, :, 0, 1:]
    torch.testing.assert_close(patch_attention(layer, 2).flatten(2), row / row.sum(-1, keepdim=True))
    torch.testing.assert_close(patch_attention(layer, 2, "all").flatten(2), row)


def test_tokens_that_fill_no_grid_are_refused():
    with pytest.raises(ValueError, match="does not fill a grid"):
        patch_attention(attention(11, 1), 2)
    assert patch_attention(attention(13, 1, grid=(3, 4)), 2).shape == (2, 3, 3, 4)


def test_windows_of_a_swin_transformer_are_put_where_they_belong():
    """Against a slow placement by index, in a layer that shifts its windows and one that does not."""
    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=4, depths=(2,), embed_dim=12, num_heads=(2,)
    ).eval()
    image = torch.randn(2, 3, 32, 32)
    taps = with_attention(describe(model), model, image, "student").attention
    assert [tap.window_shift for tap in taps] == [(0, 0), (2, 2)]
    capture = Capture(model, taps, "student")
    reading = capture.run(image)
    capture.close()
    for tap in taps:
        layer = reading.attention[tap]
        assert layer.weights is not None
        found = patch_attention(layer, 2)
        expected = torch.zeros(2, 2, 8, 8)
        shift = (tap.window_shift or (0, 0))[0]
        for window, weights in enumerate(layer.weights):
            b, row, column = window // 4, window % 4 // 2, window % 2
            for p, value in enumerate(weights.mean(1).T):
                y, x = 4 * row + p // 4, 4 * column + p % 4
                expected[b, :, (y + shift) % 8, (x + shift) % 8] = value / 4
        torch.testing.assert_close(found, expected)


def of_timm(side: int) -> nn.Module:
    sizes = {"window_size": 4, "depths": (2, 1), "embed_dim": 12, "num_heads": (2, 2)}
    return timm.create_model("swin_tiny_patch4_window7_224", img_size=side, **sizes)


def of_torchvision(side: int) -> nn.Module:
    return SwinTransformer([4, 4], 12, [2, 1], [2, 2], [4, 4], num_classes=3)


@pytest.mark.parametrize("make", [of_timm, of_torchvision])
@pytest.mark.parametrize(("side", "padded"), [(32, []), (40, [0, 1, 2]), (48, [2]), (24, [0, 1])])
def test_windows_that_reach_beyond_the_image_are_refused(
    make: Callable[[int], nn.Module], side: int, padded: list[int]
):
    """Also where one window holds the whole image; timm makes that one smaller, to which nothing need be added."""
    if make is of_torchvision and side == 24:
        padded = [0, 1, 2]
    model, image = make(side).eval(), torch.randn(2, 3, side, side)
    taps = with_attention(describe(model), model, image, "student").attention
    assert [number for number, tap in enumerate(taps) if tap.padded] == padded
    capture = Capture(model, taps, "student")
    reading = capture.run(image)
    capture.close()
    for number, tap in enumerate(taps):
        if number in padded:
            with pytest.raises(ValueError, match="windows reach beyond the image"):
                patch_attention(reading.attention[tap], 2)
        else:
            patches = side // (4 if number < 2 else 8)
            assert patch_attention(reading.attention[tap], 2).shape == (2, 2, patches, patches)


def test_windows_that_nobody_knows_the_place_of_are_refused():
    layer = Attention(weights=torch.rand(8, 2, 4, 4).softmax(-1))
    with pytest.raises(ValueError, match="where they lie in an image is not known"):
        patch_attention(layer, 2)


def test_maps_of_a_pyramid_come_onto_its_finest_grid_and_keep_their_sum():
    maps = [torch.rand(2, 3, 4, 4).flatten(2).softmax(-1).unflatten(2, (4, 4)), torch.full((2, 1, 2, 2), 0.25)]
    assert finest(maps) == (4, 4)
    together = on_one_grid(maps, (4, 4))
    assert together.shape == (2, 4, 16)
    torch.testing.assert_close(together.sum(-1), torch.ones(2, 4))
    assert torch.equal(together[:, :3], maps[0].flatten(2))
    torch.testing.assert_close(together[:, 3], torch.full((2, 16), 1 / 16))


@pytest.mark.parametrize("grid", [(7, 7), (8, 8), (3, 3), (5, 2)])
def test_each_map_keeps_its_sum_on_any_grid(grid: tuple[int, int]):
    """Also one that is all in a corner, and one of patches among other tokens, which sums to less than 1."""
    corner, part = torch.zeros(1, 1, 4, 4), torch.rand(1, 1, 4, 4) / 20
    corner[..., 0, 0] = 1
    found = on_one_grid([corner, part], grid)
    torch.testing.assert_close(found.sum(-1), torch.stack([torch.ones(()), part.sum()])[None])
    # Where it lies stays where it was.
    assert found[0, 0].argmax() == 0
