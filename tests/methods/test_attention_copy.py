"""A student that computes with its teacher's attention."""

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import pytest
import timm
import torch
from tests.closeness import assert_near
from tests.known import embedded
from tests.trained import as_trained
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attention_transfer import AttentionTransfer, Distiller, Schedule
from attention_transfer.capture import Attention, Tap
from attention_transfer.methods import Observed, Reads, Request
from attention_transfer.methods.attention_copy import AttentionCopy
from attention_transfer.methods.attention_distillation import AttentionDistillation
from attention_transfer.methods.attention_maps.resampling import resampled_map
from attention_transfer.methods.layers.layer_selection import Layers
from attention_transfer.training.holding import held_without_gradient

EXAMPLE = torch.empty(2, 3, 16, 16)
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2])


def vit(seed: int, depth: int = 2, heads: int = 2, **settings: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "num_classes": 4} | settings
    model = as_trained(timm.create_model("vit_tiny_patch16_224", depth=depth, num_heads=heads, **sizes))
    for block in model.blocks:
        # Far from uniform, so that it matters whose attention counts.
        nn.init.normal_(block.attn.qkv.weight, std=1.0)
    return model


def queries_keys_values(model: VisionTransformer, images: Tensor) -> list[list[Tensor]]:
    """What each block's fused projection makes of a plain run: three tensors (images, heads, tokens, size) each."""
    found: list[list[Tensor]] = []

    def split(module: nn.Module, args: Any, out: Tensor) -> None:
        found.append(list(out.unflatten(2, (3, model.blocks[0].attn.num_heads, -1)).permute(2, 0, 3, 1, 4)))

    handles = [block.attn.qkv.register_forward_hook(split) for block in model.blocks]
    model(images)
    for handle in handles:
        handle.remove()
    return found


def slow_student(
    student: VisionTransformer, teacher: VisionTransformer, images: Tensor, target: str, heads: list[int], last: int
) -> Tensor:
    """A student's logits with loops over images, heads and queries, written from the paper."""
    given = queries_keys_values(teacher, images)
    count = student.blocks[0].attn.num_heads
    logits: list[Tensor] = []
    for b in range(len(images)):
        x = embedded(student, images[b : b + 1])
        for layer, block in enumerate(student.blocks):
            q, k, v = block.attn.qkv(block.norm1(x))[0].unflatten(1, (3, count, -1)).permute(1, 2, 0, 3)
            outputs: list[Tensor] = []
            for h in range(count):
                copied = h in heads and layer <= last
                theirs = [each[b, h] for each in given[layer]]
                query = theirs[0] if copied and target in ("map", "query") else q[h]
                key = theirs[1] if copied and target in ("map", "key") else k[h]
                value = theirs[2] if copied and target == "value" else v[h]
                rows = [torch.softmax(key @ one / math.sqrt(len(one)), 0) @ value for one in query]
                outputs.append(torch.stack(rows))
            x = x + block.attn.proj(torch.cat(outputs, 1))[None]
            x = x + block.mlp(block.norm2(x))
        logits.append(student.head(student.fc_norm(student.norm(x)[:, 0])))
    return torch.cat(logits)


@pytest.mark.parametrize("target", ["map", "query", "key", "value"])
@pytest.mark.parametrize("heads", [None, (1,)])
def test_logits_are_those_of_a_slow_loop(target: Any, heads: tuple[int, ...] | None) -> None:
    student, teacher = vit(0).double(), vit(1).double().eval()
    method = AttentionCopy(target=target, heads=heads, layers=Layers(first=1))
    distiller = Distiller(student, teacher, [method], example=EXAMPLE.double())
    logits = distiller(IMAGES.double(), LABELS).student_logits
    expected = slow_student(student, teacher, IMAGES.double(), target, list(heads or (0, 1)), last=0)
    assert_near(logits, expected, steps=2**20)
    assert not torch.allclose(logits, student(IMAGES.double()))


def rows_of(student: VisionTransformer, block: int, of: str) -> Tensor:
    gradient = student.blocks[block].attn.qkv.weight.grad
    assert gradient is not None
    return gradient.unflatten(0, (3, -1))[("query", "key", "value").index(of)]


@pytest.mark.parametrize(
    ("target", "without"), [("map", ["query", "key"]), ("query", ["query"]), ("key", ["key"]), ("value", ["value"])]
)
def test_what_is_replaced_receives_exactly_no_gradient(target: Any, without: list[str]) -> None:
    student = vit(0)
    distiller = Distiller(student, vit(1), [AttentionCopy(target=target)], example=EXAMPLE)
    distiller(IMAGES, LABELS).loss.backward()
    for block in range(2):
        for of in ("query", "key", "value"):
            assert (rows_of(student, block, of).abs().max() == 0) == (of in without), (block, of)


def test_heads_that_are_not_copied_learn_their_own_attention() -> None:
    student = vit(0)
    Distiller(student, vit(1), [AttentionCopy(first_heads=1)], example=EXAMPLE)(IMAGES, LABELS).loss.backward()
    first, second = rows_of(student, 0, "query").unflatten(0, (2, 6))
    assert first.abs().max() == 0
    assert second.abs().max() > 0


def test_the_teacher_stops_after_the_last_layer_that_is_copied() -> None:
    teacher = vit(1, depth=3)
    layers = Layers(first=2)
    distiller = Distiller(vit(0, depth=3), teacher, [AttentionCopy(layers=layers)], example=EXAMPLE)
    ran: list[str] = []
    for name, module in teacher.named_modules():
        module.register_forward_hook(lambda m, a, out, name=name: ran.append(name))
    distiller(IMAGES, LABELS)
    assert "blocks.0" in ran
    assert not {"blocks.1.attn.proj", "blocks.1", "blocks.2", "head"} & set(ran)


def test_the_student_is_used_together_with_its_teacher() -> None:
    student, teacher = vit(0), vit(1)
    distiller = Distiller(student, teacher, [AttentionCopy()], example=EXAMPLE).eval()
    logits = distiller(IMAGES, LABELS).student_logits
    with torch.no_grad():
        assert torch.equal(distiller.deployed(IMAGES), logits)
    assert not torch.allclose(student(IMAGES), logits)
    assert Distiller(student, teacher, [AttentionTransfer()], example=EXAMPLE).deployed is student


@pytest.mark.parametrize(("axes", "dimensions"), [(("examples", "heads"), (0, 1)), (("queries",), (2,))])
def test_maps_may_be_averaged(axes: Any, dimensions: tuple[int, ...]) -> None:
    student, teacher = vit(0), vit(1).eval()
    maps = [torch.softmax(q @ k.mT / math.sqrt(6), -1) for q, k, _ in queries_keys_values(teacher, IMAGES)]
    method = AttentionCopy(average=axes)
    logits = Distiller(student, teacher, [method], example=EXAMPLE)(IMAGES, LABELS).student_logits
    x = embedded(student, IMAGES)
    for block, attention in zip(student.blocks, maps, strict=True):
        value = block.attn.qkv(block.norm1(x)).unflatten(2, (3, 2, 6)).permute(2, 0, 3, 1, 4)[2]
        mean = attention.mean(dimensions, keepdim=True).expand(attention.shape)
        x = x + block.attn.proj((mean @ value).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    torch.testing.assert_close(logits, student.head(student.norm(x)[:, 0]))


def random(heads: int, tokens: int = 5, **places: Any) -> Attention:
    query, key, value = torch.randn(3, 2, heads, tokens, 4, generator=torch.Generator().manual_seed(heads + tokens))
    return Attention(query, key, value, prefix_tokens=1, **places)


def answers(method: AttentionCopy, own: list[Attention], theirs: list[Attention]) -> list[Attention]:
    """What each layer of a student is given for its own call."""
    teacher, student = (Observed(None, attention=tuple(calls)) for calls in (theirs, own))
    taps = tuple(Tap(f"blocks.{i}", "attention") for i in range(len(own)))
    method.check(teacher, student)
    given = method.replace(teacher, Reads(student=Request(attention=taps)), method.parts(teacher, student))
    return [cast(Any, given[tap])(call) for tap, call in zip(taps, own, strict=True)]


@pytest.mark.parametrize(("heads", "chosen"), [(3, (0, 2)), (4, (1, -1))])
def test_only_heads_that_take_part_are_averaged(heads: int, chosen: tuple[int, ...]) -> None:
    own, theirs = random(3), random(heads, tokens=5)
    (given,) = answers(AttentionCopy(average=("heads",), heads=chosen), [own], [theirs])
    mean = theirs.map()[:, chosen].mean(1)
    for head in range(3):
        taken = head in {number % 3 for number in chosen}
        torch.testing.assert_close(given.map()[:, head], mean if taken else own.map()[:, head])


@pytest.mark.parametrize(
    ("axes", "dimensions"),
    [(("queries",), (3,)), (("examples",), (1,)), (("layers",), (0,)), (("layers", "queries"), (0, 3))],
)
def test_maps_are_resampled_before_they_are_averaged(axes: Any, dimensions: tuple[int, ...]) -> None:
    own = [random(2, tokens=17), random(2, tokens=17)]
    theirs = [replace(random(2), scale=scale) for scale in (1.0, 3.0)]
    found = answers(AttentionCopy(average=axes, resample=True), own, theirs)
    maps = torch.stack([resampled_map(call.map(), 1, (2, 2), (4, 4)) for call in theirs])
    wanted = maps.mean(dimensions, keepdim=True).expand_as(maps)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.map(), other)


@pytest.mark.parametrize("axes", [("queries",), ("layers", "examples")])
def test_averages_over_other_grids_are_copied_under_checkpointing_too(axes: Any) -> None:
    gradients: list[list[Tensor]] = []
    for checkpointing in (False, True):
        student = vit(0, patch_size=4)
        student.set_grad_checkpointing(checkpointing)
        method = AttentionCopy(average=axes, resample=True)
        Distiller(student, vit(1), [method], example=EXAMPLE)(IMAGES, LABELS).loss.backward()
        assert rows_of(student, 0, "query").abs().max() == 0
        gradients.append([rows_of(student, block, "value") for block in range(2)])
    torch.testing.assert_close(*gradients)
    assert gradients[0][0].abs().max() > 0


def test_layers_of_other_sizes_have_no_average() -> None:
    sizes = {
        "img_size": 32,
        "patch_size": 8,
        "stride": 4,
        "base_dims": (4, 4, 4),
        "depth": (1, 1, 1),
        "heads": (1, 1, 1),
    }
    student, teacher = (as_trained(timm.create_model("pit_ti_224", num_classes=4, **sizes)) for _ in range(2))
    with pytest.raises(ValueError, match="average over layers wants the same heads and tokens in all layers; those of"):
        Distiller(student, teacher, [AttentionCopy(average=("layers",))], example=torch.empty(2, 3, 32, 32))


def test_other_grids_of_as_many_patches_are_refused() -> None:
    own, theirs = random(2, tokens=17, grid=(4, 4)), random(2, tokens=17, grid=(2, 8))
    with pytest.raises(ValueError, match=r"a grid of 4×4 patches, the teacher .* 2×8 patches: set resample"):
        answers(AttentionCopy(), [own], [theirs])
    (given,) = answers(AttentionCopy(resample=True), [own], [theirs])
    torch.testing.assert_close(given.map(), resampled_map(theirs.map(), 1, (2, 8), (4, 4)))
    for method in (AttentionCopy(target="key"), AttentionDistillation(target="key")):
        with pytest.raises(ValueError, match='2×8 patches: take target="map" with resample'):
            method.check(Observed(None, attention=(theirs,)), Observed(None, attention=(own,)))


@pytest.mark.parametrize("hold", [True, False])
def test_unused_weights_decay_unless_they_are_held(hold: bool) -> None:
    student, before = vit(0), vit(0)
    distiller = Distiller(student, vit(1), [AttentionCopy(layers=Layers(first=1))], example=EXAMPLE)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        distiller(IMAGES, LABELS).loss.backward()
        with held_without_gradient(student.parameters()) if hold else nullcontext():
            optimizer.step()
    now, then = (model.blocks[0].attn.qkv.weight.unflatten(0, (3, -1)) for model in (student, before))
    assert torch.equal(now[:2], then[:2]) == hold
    if not hold:
        torch.testing.assert_close(now[:2], then[:2] * (1 - 0.1 * 0.5) ** 2)
    assert not torch.allclose(now[2], then[2])
    # What is used is left to the optimiser.
    assert not torch.allclose(student.blocks[1].attn.qkv.weight[0], before.blocks[1].attn.qkv.weight[0])


@pytest.mark.parametrize(
    ("settings", "student", "teacher", "message"),
    [
        ({}, {"heads": 4}, {}, "the student has 4 heads, the teacher 2: set head_match"),
        ({}, {"depth": 3}, {}, "the student has 3 layers, the teacher 2: spread them"),
        ({"layers": Layers(first=3)}, {}, {}, "first asks for 3 layers; there are 2"),
        ({"target": "query"}, {"heads": 4}, {}, 'copying it wants equal networks: take target="map"'),
        ({"heads": (-1, 1)}, {}, {}, r"each once; .* the student has 2 heads, of which \(-1, 1\) are \[1, 1\]"),
        ({"first_heads": 3}, {}, {}, "the student has 2 heads, numbered from 0; there is no head 2"),
        (
            {"resample": True},
            {"reg_tokens": 2},
            {},
            "has 3 tokens before its patches, the teacher 1, 1 of them the same, which says",
        ),
        ({"same_drop_path": True}, {}, {"attn_drop_rate": 0.1}, "of the teacher drops 10% of its weights at random"),
        (
            {"same_drop_path": True},
            {"drop_path_rate": 0.5, "proj_drop_rate": 0.2},
            {"drop_path_rate": 0.5},
            "before drop path 0 of 2 they have drawn others: put what else they drop",
        ),
        (
            {"same_drop_path": True},
            {"drop_path_rate": 0.5},
            {"drop_path_rate": 0.5, "pos_drop_rate": 0.2},
            "before drop path 0 of 2 they have drawn others",
        ),
    ],
)
def test_networks_that_do_not_fit_are_refused(
    settings: dict[str, Any], student: dict[str, Any], teacher: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Distiller(vit(0, **student), vit(1, **teacher), [AttentionCopy(**settings)], example=EXAMPLE)


@pytest.mark.parametrize("count", [1, 4])
def test_a_register_says_nothing_about_a_class_token(count: int) -> None:
    calls = [
        Attention(
            weights=torch.full((1, 1, 4 + prefix, 4 + prefix), 1 / (4 + prefix)),
            prefix_tokens=prefix,
            class_tokens=first,
        )
        for prefix, first in ((count, 0), (1, 1), (0, 0))
    ]
    teacher, student, bare = (Observed(None, attention=(call,)) for call in calls)
    with pytest.raises(ValueError, match=f"has 1 tokens before its patches, the teacher {count}, 0 of them the same"):
        AttentionCopy(resample=True).check(teacher, student)
    AttentionCopy(resample=True).check(teacher, bare)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "key", "resample": True}, 'resample can only be had with target="map", not "key"'),
        (
            {"average": ("heads",), "head_match": "mean"},
            'average over heads and head_match="mean" are mutually exclusive',
        ),
        ({"first_heads": 1, "heads": (0,)}, "give either first_heads"),
        ({"heads": (0, 0)}, "each once"),
        ({"weight": 10.0}, "adds no term to the loss, so that weight=10.0 .* would have no effect: leave them out"),
        ({"weight": 0.0}, "would have no effect"),
        ({"schedule": Schedule(warmup_epochs=2)}, "would have no effect"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionCopy(**settings)


@pytest.mark.parametrize("target", ["map", "query", "key", "value"])
def test_a_student_with_its_teachers_weights_computes_what_it_did(target: Any) -> None:
    student, teacher = vit(1), vit(1)
    logits = Distiller(student, teacher, [AttentionCopy(target=target)], example=EXAMPLE)(IMAGES, LABELS).student_logits
    torch.testing.assert_close(logits, student(IMAGES))
