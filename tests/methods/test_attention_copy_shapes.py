"""A student that computes with the attention of a teacher of another shape."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.methods.test_attention_copy import EXAMPLE, IMAGES, LABELS, queries_keys_values, rows_of, vit
from torch import Tensor

from attention_transfer import Distiller
from attention_transfer.methods.attention_copy import AttentionCopy
from attention_transfer.methods.attention_maps.resampling import resampled_map
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
