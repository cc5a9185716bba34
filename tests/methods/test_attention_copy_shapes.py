"""A student that computes with the attention of a teacher of another shape, and attention in other tokens."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.methods.test_attention_copy import EXAMPLE, IMAGES, LABELS, queries_keys_values, rows_of, vit
from torch import Tensor

from attention_transfer import Distiller
from attention_transfer.capture import Attention
from attention_transfer.methods.attention_copy import AttentionCopy
from attention_transfer.methods.attention_maps.averages import check_same_in_all_layers
from attention_transfer.methods.attention_maps.resampling import (
    check_same_tokens,
    check_same_windows,
    keep_prefix,
    patch_grid,
    resampled,
    resampled_map,
    share_tokens,
)
from attention_transfer.methods.layers.layer_selection import Layers

MIXED = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])


@pytest.mark.parametrize("match", ["mean", "spread", "mixed"])
@pytest.mark.parametrize("heads", [(4, 2), (2, 3)])
def test_numbers_of_heads_may_differ(match: Any, heads: tuple[int, int]) -> None:
    student, teacher = vit(0, heads=heads[0]), vit(1, heads=heads[1])
    distiller = Distiller(student, teacher, [AttentionCopy(head_match=match)], example=EXAMPLE)
    out = distiller(IMAGES, LABELS)
    out.loss.backward()
    assert rows_of(student, 0, "query").abs().max() == 0
    assert rows_of(student, 0, "value").abs().max() > 0
    learned = [p.grad for p in distiller.parts.parameters()]
    assert bool(learned) == (match == "mixed")
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in learned)


def test_heads_are_spread_in_turn() -> None:
    student, teacher = vit(0, heads=4), vit(1, heads=2)
    seen: list[Tensor] = []
    distiller = Distiller(student, teacher, [AttentionCopy(head_match="spread")], example=EXAMPLE)
    student.blocks[0].attn.proj.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    distiller(IMAGES, LABELS)
    q, k, _ = queries_keys_values(teacher.eval(), IMAGES)[0]
    attention = torch.softmax(q @ k.mT / math.sqrt(6), -1)
    value = queries_keys_values(student, IMAGES)[0][2]
    torch.testing.assert_close(
        seen[0], (attention[:, [0, 0, 1, 1]] @ value).transpose(1, 2).flatten(2), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("student", "teacher", "settings", "layer", "wanted"),
    [
        ({"heads": 4}, {}, {"head_match": "mean"}, 0, lambda q, k: softmax(q, k).mean(1, keepdim=True)),
        (
            {"heads": 4},
            {},
            {"head_match": "mixed"},
            0,
            lambda q, k: torch.einsum("hg,bgnm->bhnm", MIXED, softmax(q, k)),
        ),
        (
            {"patch_size": 4},
            {},
            {"resample": True},
            0,
            lambda q, k: resampled_map(softmax(q, k), 1, (2, 2), (4, 4)),
        ),
        ({}, {"reg_tokens": 2}, {"resample": True}, 0, lambda q, k: softmax(*(kept(each, [0]) for each in (q, k)))),
        (
            {"class_token": False, "global_pool": "avg"},
            {},
            {"resample": True},
            0,
            lambda q, k: softmax(q[:, :, 1:], k[:, :, 1:]),
        ),
        ({}, {"depth": 4}, {"layers": Layers(match="spread")}, 1, lambda q, k: softmax(q, k)),
        ({}, {"depth": 4}, {"layers": Layers(student=(0,), teacher=(2,))}, 2, lambda q, k: softmax(q, k)),
    ],
    ids=["mean of heads", "mixed heads", "other grid", "registers", "no class token", "spread layers", "named layers"],
)
def test_a_student_of_another_shape_computes_with_its_teachers_map(
    student: dict[str, Any],
    teacher: dict[str, Any],
    settings: dict[str, Any],
    layer: int,
    wanted: Callable[[Tensor, Tensor], Tensor],
) -> None:
    ours, theirs = vit(0, **student), vit(1, **teacher)
    seen: list[Tensor] = []
    distiller = Distiller(ours, theirs, [AttentionCopy(**settings)], example=EXAMPLE)
    handle = ours.blocks[0].attn.proj.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    distiller(IMAGES, LABELS)
    handle.remove()
    distiller.detach()
    query, key, _ = queries_keys_values(theirs.eval(), IMAGES)[layer]
    value = queries_keys_values(ours, IMAGES)[0][2]
    result = (wanted(query, key) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(seen[0], result, rtol=1e-4, atol=1e-5)


def softmax(query: Tensor, key: Tensor) -> Tensor:
    return torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), -1)


def kept(value: Tensor, prefix: list[int]) -> Tensor:
    """Some of three tokens before the patches, and these."""
    return value[:, :, [*prefix, *range(3, value.shape[2])]]


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ({"patch_size": 4}, {"mlp_ratio": 8}),
        ({}, {"patch_size": 4, "mlp_ratio": 8}),
        ({}, {"reg_tokens": 2}),
        ({"patch_size": 4}, {"reg_tokens": 2}),
    ],
)
def test_grids_and_prefix_tokens_may_differ(student: dict[str, Any], teacher: dict[str, Any]) -> None:
    networks = vit(0, **student), vit(1, **teacher)
    with pytest.raises(ValueError, match="set resample"):
        Distiller(*networks, [AttentionCopy()], example=EXAMPLE)
    distiller = Distiller(*networks, [AttentionCopy(resample=True)], example=EXAMPLE)
    distiller(IMAGES, LABELS).loss.backward()
    assert rows_of(networks[0], 0, "query").abs().max() == 0
    assert rows_of(networks[0], 0, "value").abs().max() > 0


def test_it_starts_at_the_teachers_heads_in_turn_when_it_learns_a_mixture() -> None:
    distiller = Distiller(vit(0, heads=4), vit(1, heads=2), [AttentionCopy(head_match="mixed")], example=EXAMPLE)
    assert distiller.parts["attention-copy"].order.tolist() == [[0, 0, 1, 1]] * 2


# ---------------------------------------------------------------- attention in other tokens


def random(prefix: int, grid: tuple[int, int], heads: int = 2) -> Attention:
    tokens = prefix + grid[0] * grid[1]
    query, key, value = torch.randn(3, 2, heads, tokens, 4, generator=torch.Generator().manual_seed(0)).double()
    return Attention(query, key, value, scale=0.5, prefix_tokens=prefix, grid=grid)


@pytest.mark.parametrize("wanted", [(2, 2), (4, 6), (8, 8), (3, 5)])
def test_rows_stay_distributions_and_prefixes_keep_their_mass(wanted: tuple[int, int]) -> None:
    maps = random(2, (4, 4)).map()
    result = resampled_map(maps, 2, (4, 4), wanted)
    tokens = 2 + wanted[0] * wanted[1]
    assert result.shape == (2, 2, tokens, tokens)
    assert (result >= 0).all()
    torch.testing.assert_close(result.sum(-1), torch.ones(2, 2, tokens).double())
    # Rows of the prefixes are not mixed with others.
    torch.testing.assert_close(result[:, :, :2, :2], maps[:, :, :2, :2])


def test_a_map_on_the_same_grid_stays_what_it_is() -> None:
    maps = random(1, (3, 4)).map()
    torch.testing.assert_close(resampled_map(maps, 1, (3, 4), (3, 4)), maps)


def test_an_even_map_stays_even() -> None:
    maps = torch.full((1, 1, 16, 16), 1 / 16)
    torch.testing.assert_close(resampled_map(maps, 0, (4, 4), (8, 6)), torch.full((1, 1, 48, 48), 1 / 48))


def test_places_are_kept() -> None:
    """Each patch that looks only at itself still looks there on a finer grid."""
    result = resampled_map(torch.eye(4).expand(1, 1, 4, 4), 0, (2, 2), (8, 8)).view(8, 8, 8, 8)
    for y in range(8):
        for x in range(8):
            quarter = result[y, x].view(2, 4, 2, 4).sum((1, 3))
            assert quarter.argmax() == 2 * (y // 4) + x // 4


def test_a_coarser_map_is_that_of_a_slow_loop() -> None:
    """Halving a row of patches with antialiasing: a triangle over four, of weights 1, 3, 3, 1, cut off at the ends."""
    maps = random(0, (1, 4), heads=1).map()
    weights = torch.tensor([[3 / 7, 3 / 7, 1 / 7, 0], [0, 1 / 7, 3 / 7, 3 / 7]]).double()
    keys = maps @ weights.T
    keys = keys / keys.sum(-1, keepdim=True)
    wanted = weights @ keys
    torch.testing.assert_close(resampled_map(maps, 0, (1, 4), (1, 2)), wanted / wanted.sum(-1, keepdim=True))


def test_a_call_of_the_wanted_grid_is_left_alone() -> None:
    attention = random(1, (4, 4))
    assert resampled(attention, random(1, (4, 4), heads=3)) is attention
    other = resampled(replace(attention, class_tokens=0), random(1, (2, 3)))
    assert (other.grid, other.prefix_tokens, other.class_tokens, other.shape) == ((2, 3), 1, 0, (2, 2, 7, 7))


def test_a_square_grid_needs_no_name_and_others_do() -> None:
    attention = random(1, (4, 4))
    assert patch_grid(Attention(weights=attention.map(), prefix_tokens=1)) == (4, 4)
    with pytest.raises(ValueError, match="does not fill a grid of 3×3 patches and cannot be resampled"):
        patch_grid(Attention(weights=torch.ones(1, 1, 13, 13)))
    with pytest.raises(ValueError, match="4 queries and 9 keys"):
        patch_grid(Attention(weights=torch.ones(1, 1, 4, 9)))


@pytest.mark.parametrize(("ours", "theirs", "kept"), [(1, 2, 1), (5, 1, 1), (0, 1, 0), (2, 0, 0)])
def test_only_the_class_token_is_shared(ours: int, theirs: int, kept: int) -> None:
    student, teacher = share_tokens(random(ours, (2, 2)), random(theirs, (2, 2)))
    for attention, prefix in ((student, ours), (teacher, theirs)):
        whole = random(prefix, (2, 2))
        assert attention.prefix_tokens == kept
        assert attention.weights is None, "no map is made"
        tokens = [*range(kept), *range(prefix, prefix + 4)]
        left = whole.map()[:, :, tokens][..., tokens]
        torch.testing.assert_close(attention.map(), left / left.sum(-1, keepdim=True))
        known = keep_prefix(Attention(weights=whole.map(), prefix_tokens=prefix), kept)
        torch.testing.assert_close(known.map(), attention.map())


@pytest.mark.parametrize(
    ("ours", "theirs", "kept"),
    [((1, 1), (4, 0), 0), ((1, 1), (1, 0), 0), ((5, 1), (4, 0), 0), ((5, 1), (1, 1), 1), ((4, 0), (4, 0), 4)],
)
def test_a_register_is_no_class_token(ours: tuple[int, int], theirs: tuple[int, int], kept: int) -> None:
    whole = [replace(random(prefix, (2, 2)), class_tokens=first) for prefix, first in (ours, theirs)]
    shared = share_tokens(*whole)
    assert [each.prefix_tokens for each in shared] == [kept, kept]
    assert shared[0].class_tokens == shared[1].class_tokens
    assert all(each.num_tokens == kept + 4 for each in shared)
    if ours != theirs:
        with pytest.raises(ValueError, match="set resample"):
            check_same_tokens(*whole, "pair 0")


def test_a_missing_class_token_is_named() -> None:
    student, teacher = (replace(random(1, (2, 2)), class_tokens=count) for count in (1, 0))
    with pytest.raises(ValueError, match=r"5 keys, 1 of them before .* 5 keys, 1 of them \(no class token\) before"):
        check_same_tokens(student, teacher, "pair 0")


@pytest.mark.parametrize("shape", [(6, 6), (2, 1, 6, 6), (1, 1, 1, 6)])
def test_biases_lose_the_same_tokens(shape: tuple[int, ...]) -> None:
    whole = random(2, (2, 2))
    bias = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    whole = Attention(whole.query, whole.key, whole.value, 0.5, bias, prefix_tokens=2)
    tokens = [0, 2, 3, 4, 5]
    left = whole.map()[:, :, tokens][..., tokens]
    kept = keep_prefix(whole, 1)
    torch.testing.assert_close(kept.map(), left / left.sum(-1, keepdim=True))
    assert kept.result().shape == (2, 2, 5, 4)


def test_the_same_tokens_need_nothing() -> None:
    student, teacher = random(1, (2, 2)), random(1, (4, 4))
    assert share_tokens(student, teacher) == (student, teacher)


@pytest.mark.parametrize(("prefix", "grid"), [(2, (4, 4)), (1, (2, 8)), (1, (4, 5))])
def test_other_tokens_are_refused_by_name(prefix: int, grid: tuple[int, int]) -> None:
    student: Attention = random(1, (4, 4))
    check_same_tokens(student, random(1, (4, 4)), "pair 0")
    check_same_tokens(student, Attention(weights=torch.ones(2, 2, 17, 17), prefix_tokens=1), "pair 0")
    with pytest.raises(ValueError, match=r"pair 3: the student has 17 queries and 17 keys, 1 of them.*set resample"):
        check_same_tokens(student, random(prefix, grid), "pair 3")


def test_gradients_pass_through() -> None:
    attention = random(2, (2, 2))
    query: Tensor = attention.query.requires_grad_()
    keep_prefix(attention, 1).map()[..., 0].sum().backward()
    assert query.grad[:, :, 1].abs().max() == 0
    assert query.grad[:, :, 0].abs().max() > 0


def test_calls_over_other_windows_are_refused() -> None:
    one, four = (Attention(weights=torch.full((count, 2, 4, 4), 0.25)) for count in (2, 8))
    check_same_windows("pair 0 of layers", one, one)
    with pytest.raises(ValueError, match="pair 0 of layers: the student attends within 2 windows or"):
        check_same_windows("pair 0 of layers", one, four)
    shifted = replace(one, window_shift=(2, 2))
    with pytest.raises(ValueError, match=r"windows are shifted by None, the teacher's by \(2, 2\), so that"):
        check_same_windows("pair 0 of layers", one, shifted)
    check_same_windows("pair 0 of layers", shifted, shifted)
    with pytest.raises(ValueError, match="the teacher's windows reach beyond the image and the student's do not"):
        check_same_windows("pair 0 of layers", one, replace(one, padded=True))
    with pytest.raises(ValueError, match="mix_layers wants windows at the same place in all layers; those of the t"):
        check_same_in_all_layers("mix_layers", [one, one], [one, shifted])
