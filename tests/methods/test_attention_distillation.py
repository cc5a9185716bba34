"""Attention distillation against the authors' value, by its settings, and through real transformers."""

import warnings
from typing import Any

import pytest
import timm
import torch
from tests.closeness import assert_near
from tests.trained import as_trained
from torch import Tensor, nn

from attention_transfer import Distiller
from attention_transfer.batch import Batch
from attention_transfer.capture import Attention
from attention_transfer.methods import METHODS, Observed
from attention_transfer.methods.attention_distillation import AttentionDistillation
from attention_transfer.methods.attention_maps.averages import only_map
from attention_transfer.methods.attention_maps.cross_entropy import attention_cross_entropy
from attention_transfer.methods.attention_maps.head_matching import Matching
from attention_transfer.methods.attention_maps.resampling import resampled_map
from attention_transfer.methods.layers.layer_selection import Layers

BATCH = Batch(torch.zeros(2, 3, 1, 1))
IMAGES, LABELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])


def layers(count: int, seed: int, *, heads: int = 3, prefix: int = 1, side: int = 2, size: int = 4) -> Observed:
    """What a network shows whose attention is far from even."""
    generator = torch.Generator().manual_seed(seed)
    tokens = prefix + side * side
    found = [torch.randn(3, 2, heads, tokens, size, generator=generator).double() for _ in range(count)]
    calls = (Attention(q, k, v, size**-0.5, prefix_tokens=prefix, grid=(side, side)) for q, k, v in found)
    return Observed(None, attention=tuple(calls))


def value(method: AttentionDistillation, student: Observed, teacher: Observed, parts: nn.Module | None = None) -> float:
    return method.terms(BATCH, teacher, student, parts)["attention-distillation"].value.item()


def cross_entropy(student: Tensor, teacher: Tensor) -> float:
    """Of maps (…, queries, keys): mean over all queries."""
    return -(teacher * student.log()).sum(-1).mean().item()


STUDENT, TEACHER = layers(3, 1), layers(3, 2)
OURS = torch.stack([each.map() for each in STUDENT.attention])
THEIRS = torch.stack([each.map() for each in TEACHER.attention])


@pytest.mark.parametrize("form", ["auto", "explicit", "chunked", "fused"])
def test_value_is_that_of_the_authors(form: str, golden: dict[str, Tensor]) -> None:
    scale = float(golden["vit_scale"])

    def seen(role: str) -> Observed:
        calls = [Attention(golden[f"vit_{role}_q{i}"], golden[f"vit_{role}_k{i}"], scale=scale) for i in range(3)]
        return Observed(None, attention=tuple(calls))

    batch = Batch(torch.zeros(3, 3, 1, 1))
    terms = AttentionDistillation(form=form).terms(batch, seen("teacher"), seen("student"), None)
    wanted = golden["vit_attention_distill_first3of4"]
    assert_near(terms["attention-distillation"].value, wanted)


def test_layers_are_summed_and_heads_and_queries_averaged() -> None:
    wanted = sum(cross_entropy(OURS[i], THEIRS[i]) for i in range(3))
    assert value(AttentionDistillation(), STUDENT, TEACHER) == pytest.approx(wanted)
    assert value(AttentionDistillation(head_reduction="sum"), STUDENT, TEACHER) == pytest.approx(3 * wanted)


@pytest.mark.parametrize(
    ("settings", "heads"), [({"first_heads": 2}, [0, 1]), ({"heads": (2, 0)}, [2, 0]), ({"heads": (-1,)}, [2])]
)
def test_only_some_heads_are_compared(settings: dict[str, Any], heads: list[int]) -> None:
    wanted = sum(cross_entropy(OURS[i][:, heads], THEIRS[i][:, heads]) for i in range(3))
    assert value(AttentionDistillation(**settings), STUDENT, TEACHER) == pytest.approx(wanted)
    summed = AttentionDistillation(**settings, head_reduction="sum")
    assert value(summed, STUDENT, TEACHER) == pytest.approx(len(heads) * wanted)


def test_named_heads_may_belong_to_networks_of_other_counts() -> None:
    wide, method = layers(3, 3, heads=5), AttentionDistillation(first_heads=3)
    method.check(wide, STUDENT)
    wanted = sum(cross_entropy(OURS[i], wide.attention[i].map()[:, :3]) for i in range(3))
    assert value(method, STUDENT, wide) == pytest.approx(wanted)


def test_temperature_divides_the_logits_of_both() -> None:
    softer = [[(each.logits() / 3).softmax(-1) for each in seen.attention] for seen in (STUDENT, TEACHER)]
    wanted = sum(cross_entropy(*pair) for pair in zip(*softer, strict=True))
    assert value(AttentionDistillation(temperature=3.0), STUDENT, TEACHER) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("axes", "dimensions"),
    [(("examples",), 1), (("layers",), 0), (("heads",), 2), (("queries",), 3), (("layers", "heads"), (0, 2))],
)
def test_averaged_targets_come_from_maps_averaged_after_the_softmax(axes: Any, dimensions: Any) -> None:
    mean = THEIRS.mean(dimensions, keepdim=True).expand_as(OURS)
    wanted = sum(cross_entropy(OURS[i], mean[i]) for i in range(3))
    assert value(AttentionDistillation(average=axes), STUDENT, TEACHER) == pytest.approx(wanted)


@pytest.mark.parametrize("target", ["query", "key", "value"])
def test_vectors_are_compared_by_their_mean_squared_difference(target: str) -> None:
    pairs = [
        [getattr(each, target) for each in pair] for pair in zip(STUDENT.attention, TEACHER.attention, strict=True)
    ]
    wanted = sum((ours - theirs).square().mean().item() for ours, theirs in pairs)
    assert value(AttentionDistillation(target=target), STUDENT, TEACHER) == pytest.approx(wanted)
    first = sum((ours - theirs)[:, 0].square().mean().item() for ours, theirs in pairs)
    assert value(AttentionDistillation(target=target, first_heads=1), STUDENT, TEACHER) == pytest.approx(first)


def test_queries_are_compared_before_they_are_scaled() -> None:
    scaled = Observed(None, attention=tuple(Attention(a.query * a.scale, a.key, a.value) for a in TEACHER.attention))
    method = AttentionDistillation(target="query")
    assert value(method, STUDENT, scaled) == pytest.approx(value(method, STUDENT, TEACHER))


def test_averages_over_heads_may_be_compared() -> None:
    wide, method = layers(3, 3, heads=4), AttentionDistillation(head_match="mean")
    assert method.parts(wide, STUDENT) is None
    wanted = sum(cross_entropy(OURS[i].mean(1), wide.attention[i].map().mean(1)) for i in range(3))
    assert value(method, STUDENT, wide) == pytest.approx(wanted)


def test_matched_heads_are_found_on_the_first_batch() -> None:
    order = [2, 0, 1]
    permuted = Observed(
        None, attention=tuple(Attention(a.query[:, order], a.key[:, order], scale=a.scale) for a in STUDENT.attention)
    )
    method = AttentionDistillation(head_match="matched")
    parts = method.parts(layers(3, 9), STUDENT)
    found = value(method, STUDENT, permuted, parts)
    assert isinstance(parts, Matching)
    assert parts.heads.order.tolist() == [[1, 2, 0]] * 3
    assert found == pytest.approx(sum(cross_entropy(OURS[i], OURS[i]) for i in range(3)))


def test_mixed_heads_start_near_the_matching_and_learn_by_the_divergence() -> None:
    wide, method = layers(3, 3, heads=4), AttentionDistillation(head_match="mixed")
    parts = method.parts(layers(3, 9, heads=4), STUDENT)
    terms = method.terms(BATCH, wide, STUDENT, parts)["attention-distillation"]
    assert isinstance(parts, Matching)
    wanted = 0.0
    for i in range(3):
        mixed = parts.heads(i, wide.attention[i]).map().detach()
        wanted += (mixed * (mixed / OURS[i]).log()).sum(-1).mean().item()
    assert terms.value.item() == pytest.approx(wanted)
    optimizer = torch.optim.SGD(parts.parameters(), lr=10.0)
    for _ in range(30):
        optimizer.zero_grad()
        loss = method.terms(BATCH, wide, STUDENT, parts)["attention-distillation"].value
        loss.backward()
        optimizer.step()
    assert loss < 0.95 * terms.value


def test_mixed_layers_start_near_the_partner_and_are_compared_by_the_divergence() -> None:
    every = layers(5, 4).attention
    partners = every[1], every[3], every[4]
    teacher = Observed(None, attention=(*partners, *every))
    method = AttentionDistillation(layers=Layers(match="spread"), mix_layers=True)
    parts = method.parts(teacher, STUDENT)
    wanted = 0.0
    for i, partner in enumerate((1, 3, 4)):
        shares = [0.9 if layer == partner else 0.025 for layer in range(5)]
        mixed = torch.stack([share * each.map() for share, each in zip(shares, every, strict=True)]).sum(0)
        wanted += (mixed * (mixed / OURS[i]).log()).sum(-1).mean().item()
    assert value(method, STUDENT, teacher, parts) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_maps_over_other_tokens_are_tempered_before_they_are_resampled(temperature: float) -> None:
    teacher = layers(3, 5, prefix=3, side=4)
    method = AttentionDistillation(resample=True, temperature=temperature)
    wanted = 0.0
    for ours, theirs in zip(STUDENT.attention, teacher.attention, strict=True):
        tokens = [0, *range(3, 19)]
        logits = theirs.logits()[:, :, tokens][..., tokens] / temperature
        target = resampled_map(logits.softmax(-1), 1, (4, 4), (2, 2))
        wanted += cross_entropy((ours.logits() / temperature).softmax(-1), target)
    assert value(method, STUDENT, teacher) == pytest.approx(wanted, rel=1e-9)


def transformer(name: str = "vit_tiny_patch16_224", **changes: Any) -> nn.Module:
    torch.manual_seed(3)
    settings = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    return as_trained(timm.create_model(name, **settings | changes))


def step(teacher: nn.Module, student: nn.Module, **settings: Any) -> tuple[Distiller, Tensor]:
    distiller = Distiller(student, teacher, [AttentionDistillation(**settings)], example=IMAGES)
    out = distiller(IMAGES, LABELS)
    distiller.backward(out)
    return distiller, out.terms["attention-distillation"].value.detach()


@pytest.mark.filterwarnings("ignore:the student is larger")
@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"num_heads": 6}, {"head_match": "mean"}),
        ({"num_heads": 6}, {"head_match": "matched"}),
        ({"num_heads": 2}, {"head_match": "matched"}),
        ({"num_heads": 6}, {"head_match": "mixed"}),
        ({"num_heads": 6, "embed_dim": 48}, {"average": ("heads",)}),
        ({"depth": 5}, {"layers": Layers(match="spread")}),
        ({"depth": 5}, {"layers": Layers(match="spread"), "mix_layers": True}),
        ({"depth": 5}, {"layers": Layers(student=(0, -1), teacher=(1, -1))}),
        ({"depth": 1}, {"layers": Layers(match="spread", first=2)}),
        ({"depth": 1}, {"layers": Layers(match="spread", first=2), "mix_layers": True, "head_match": "matched"}),
        ({"patch_size": 2}, {"resample": True}),
        ({"patch_size": 8}, {"resample": True}),
        ({"reg_tokens": 4}, {"resample": True}),
        ({"class_token": False, "global_pool": "avg"}, {"resample": True}),
        (
            {"patch_size": 8, "num_heads": 2, "depth": 4},
            {"resample": True, "head_match": "mixed", "layers": Layers(match="spread"), "mix_layers": True},
        ),
    ],
)
def test_a_teacher_of_another_shape_teaches(changes: dict[str, Any], settings: dict[str, Any]) -> None:
    student = transformer()
    distiller, first = step(transformer(**changes), student, **settings)
    assert first.isfinite()
    assert all(block.attn.qkv.weight.grad.abs().max() > 0 for block in student.blocks)
    assert all(p.grad.isfinite().all() for p in distiller.parts.parameters())


def test_a_distilled_teacher_keeps_its_class_token_only() -> None:
    step(transformer("deit_tiny_distilled_patch16_224"), transformer(), resample=True)


def test_a_register_of_the_teacher_is_no_class_token(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def seen(ours: Attention, theirs: Attention, **settings: Any) -> Tensor:
        compared.append((ours.prefix_tokens, theirs.prefix_tokens))
        return attention_cross_entropy(ours, theirs, **settings)

    monkeypatch.setattr("attention_transfer.methods.attention_distillation.attention_cross_entropy", seen)
    teacher = transformer(class_token=False, reg_tokens=4, global_pool="avg")
    step(teacher, transformer(), resample=True)
    assert set(compared) == {(0, 0)}


def test_noise_is_not_matched_and_the_first_batch_is() -> None:
    distiller = Distiller(
        transformer(), transformer(num_heads=6), [AttentionDistillation(head_match="matched")], example=IMAGES
    )
    order = dict(distiller.named_buffers())["parts.attention-distillation.heads.order"]
    assert (order == -1).all()
    distiller.eval()(IMAGES, LABELS)
    with torch.no_grad():
        distiller(IMAGES, LABELS)
    assert (order == -1).all()
    distiller.train()(IMAGES, LABELS)
    assert (order >= 0).all()
    known = order.clone()
    distiller(-IMAGES, LABELS)
    assert torch.equal(order, known)


def test_a_distiller_is_built_without_the_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *args: pytest.fail("the others may not build theirs"))
    Distiller(transformer(), transformer(num_heads=6), [AttentionDistillation(head_match="mixed")], example=IMAGES)


def gradients(student: nn.Module, *, compiled: bool = False, form: str = "auto") -> dict[str, Tensor]:
    """What one step of distillation alone gives a student whose attention is far from even."""
    with torch.no_grad():
        for block in student.blocks:
            block.attn.qkv.weight *= 20
    teacher, layers = transformer(depth=len(student.blocks)), Layers(first=min(2, len(student.blocks)))
    distiller = Distiller(
        student, teacher, [AttentionDistillation(layers=layers, form=form)], task_weight=0, example=IMAGES
    )
    if compiled:
        distiller.compile(fullgraph=True, backend="aot_eager")
    distiller.backward(distiller(IMAGES))
    return {name: p.grad for name, p in student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("form", ["chunked", "fused"])
def test_a_checkpointed_student_learns_the_same(form: str) -> None:
    checkpointed = transformer(depth=3)
    checkpointed.set_grad_checkpointing(True)
    wanted = gradients(transformer(depth=3), form="explicit")
    found = gradients(checkpointed, form=form)
    assert found.keys() == wanted.keys()
    assert any(gradient.abs().max() > 0 for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_a_compiled_distiller_is_one_graph_of_the_same_gradients() -> None:
    wanted, found = gradients(transformer(depth=1)), gradients(transformer(depth=1), compiled=True)
    assert wanted.keys() <= found.keys()
    for name, gradient in found.items():
        # What the term does not reach has no gradient, or compiled one of zeros.
        other = wanted.get(name, torch.zeros_like(gradient))
        assert (gradient - other).norm() <= 1e-5 * other.norm(), name


def test_drop_path_may_be_the_same_in_both() -> None:
    teacher, student = (transformer(drop_path_rate=0.5, depth=3) for _ in range(2))
    distiller, _ = step(teacher, student, same_drop_path=True)
    assert teacher.training
    seen: dict[str, Tensor] = {}
    for role, model in (("student", student), ("teacher", teacher)):
        model.blocks[2].norm1.register_forward_hook(lambda m, a, out, role=role: seen.update({role: out}))
    images = IMAGES.repeat(8, 1, 1, 1)
    distiller(images, LABELS.repeat(8))
    # Networks of the same weights that dropped the same.
    torch.testing.assert_close(seen["student"], seen["teacher"])
    distiller.eval()
    whole = student(images)
    distiller.train()
    assert not torch.allclose(student(images), whole)
    assert not distiller.eval().teacher.training


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"num_heads": 6}, {}, 'the student has 3 heads, the teacher 6: set head_match to "mean"'),
        ({"num_heads": 2}, {"heads": (2,)}, "pair 0 of layers: the teacher has 2 heads, numbered from 0"),
        ({}, {"heads": (-1, 2)}, r"each once; pair 0 of layers: the student has 3 heads, of which \(-1, 2\) are"),
        ({}, {"first_heads": 4}, "the student has 3 heads, numbered from 0; there is no head 3"),
        ({"depth": 3}, {}, "the student has 2 layers, the teacher 3"),
        ({}, {"layers": Layers(student=(2,))}, "the student has no layer 2: it has 2"),
        ({"patch_size": 8}, {}, r"a grid of 4×4 patches, the teacher .* 2×2 patches: set resample"),
        ({"reg_tokens": 4}, {}, "5 of them before a grid of 4×4 patches: set resample"),
        ({"embed_dim": 48}, {"target": "key"}, 'take target="map" with head_match'),
    ],
)
def test_what_does_not_fit_is_refused_with_a_way_out(changes: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step(transformer(**changes), transformer(), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be"),
        ({"first_heads": 1, "heads": (0,)}, "give either first_heads"),
        ({"heads": ()}, "heads must name heads"),
        ({"target": "query", "average": ("heads",)}, 'average can only be had with target="map"'),
        ({"target": "value", "head_match": "mean"}, "head_match can only be had"),
        ({"average": ("heads",), "head_match": "matched"}, "are mutually exclusive"),
        ({"average": ("layers",), "mix_layers": True}, "leaves nothing to mix"),
        ({"head_match": "mixed", "form": "fused"}, 'needs the form "explicit"'),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionDistillation(**settings)


def test_a_network_without_attention_or_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="the teacher has no self-attention layers"):
        Distiller(transformer(), timm.create_model("resnet10t"), [AttentionDistillation()], example=IMAGES)
    with pytest.raises(ValueError, match="needs a teacher"):
        Distiller(transformer(), None, [AttentionDistillation()], example=IMAGES)


def test_a_layer_of_which_only_the_map_is_known_has_no_vectors() -> None:
    known = Observed(None, attention=tuple(only_map(each, each.map()) for each in STUDENT.attention))
    assert value(AttentionDistillation(), known, TEACHER) == pytest.approx(
        value(AttentionDistillation(), STUDENT, TEACHER)
    )
    with pytest.raises(ValueError, match='was not read, only its map: take target="map"'):
        AttentionDistillation(target="key").check(known, known)


def test_maps_that_are_kept_whole_for_want_of_query_and_key_are_announced() -> None:
    by_hand = Observed(None, attention=tuple(only_map(each, each.map()) for each in STUDENT.attention))
    with pytest.warns(UserWarning, match="3 of 3 layers of the student write their attention out by hand"):
        AttentionDistillation().check(by_hand, by_hand)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AttentionDistillation().check(by_hand, STUDENT)
        AttentionDistillation(form="explicit").check(by_hand, by_hand)


def test_it_is_registered() -> None:
    assert METHODS["attention-distillation"] is AttentionDistillation
