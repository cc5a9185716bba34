"""Attention is read and replaced exactly, in networks that nobody changed."""

import copy
import gc
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
import timm
import torch
import torchvision
from tests.known import compiled_whole
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.capture import Attention, Capture, CaptureError, Replacement, Tap
from attention_transfer.capture.hooks import fused_call
from attention_transfer.models import TransformersClassifier, build

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def small_vit(**settings: Any) -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
    return VisionTransformer(**cast(Any, sizes | settings))


def layers(model: VisionTransformer) -> tuple[Tap, ...]:
    return tuple(Tap(f"blocks.{i}.attn", "attention", "tokens", 1) for i in range(len(model.blocks)))


def read(model: nn.Module, taps: tuple[Tap, ...], replaced: Mapping[Tap, Replacement] | None = None) -> Any:
    return Capture(model, taps, "student").run(IMAGE, replaced=replaced)


def test_what_is_read_is_what_the_layer_computes() -> None:
    model = small_vit(qk_norm=True)
    entering: list[Tensor] = []
    model.blocks[1].attn.get_submodule("proj").register_forward_pre_hook(lambda m, args: entering.append(args[0]))
    attention = read(model, layers(model)).attention[layers(model)[1]]
    assert attention.shape == (2, 2, 17, 17)
    expected = entering[0].unflatten(2, (2, 12)).transpose(1, 2)
    torch.testing.assert_close(attention.result(), expected)
    torch.testing.assert_close(attention.map() @ attention.value, expected)
    torch.testing.assert_close(attention.map().sum(-1), torch.ones(2, 2, 17))


def test_reading_changes_neither_logits_nor_gradients() -> None:
    model = small_vit()
    plain = model(IMAGE)
    plain.square().sum().backward()
    wanted = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    logits = read(model, layers(model)).logits
    logits.square().sum().backward()
    assert torch.equal(logits, plain)
    for name, parameter in model.named_parameters():
        assert torch.equal(cast(Tensor, parameter.grad), cast(Tensor, wanted[name])), name


def twice_as_sharp(own: Attention) -> Attention:
    return replace(own, scale=2 * own.scale)


def fixed_query(query: Tensor) -> Callable[[Attention], Attention]:
    return lambda own: replace(own, query=query)


def test_a_replaced_call_is_what_the_network_goes_on_with() -> None:
    model, taps = small_vit(), layers(small_vit())
    reading = read(model, taps, {taps[0]: twice_as_sharp})
    with torch.no_grad():
        for parameter in model.blocks[0].attn.get_submodule("qkv").parameters():
            parameter[:24] *= 2
    torch.testing.assert_close(reading.logits, model(IMAGE))


def test_a_map_may_be_given_instead_of_query_and_key() -> None:
    model, taps = small_vit(), layers(small_vit())
    given = read(model, taps, {tap: lambda own: Attention(weights=own.map(), value=own.value) for tap in taps})
    torch.testing.assert_close(given.logits, model(IMAGE), rtol=1e-4, atol=1e-5)


def gradients_of_copying(checkpointing: bool, *, keep_output: bool = True) -> dict[str, Tensor]:
    model, taps = small_vit(), layers(small_vit())
    model.train().set_grad_checkpointing(checkpointing)
    query = torch.randn(2, 2, 17, 12, generator=torch.Generator().manual_seed(3)) * 4
    capture = Capture(model, taps, "student")
    reading = capture.run(IMAGE, replaced={tap: fixed_query(query) for tap in taps})
    assert reading.logits is not None
    loss = reading.logits.square().sum() + sum(a.map().square().sum() for a in reading.attention.values())
    if not keep_output:
        del reading
        gc.collect()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("keep_output", [True, False])
def test_replaced_attention_survives_gradient_checkpointing(keep_output: bool) -> None:
    plain = gradients_of_copying(checkpointing=False)
    checkpointed = gradients_of_copying(checkpointing=True, keep_output=keep_output)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_two_checkpointed_runs_are_told_apart_by_their_logits() -> None:
    model, taps = small_vit(), layers(small_vit())
    model.train().set_grad_checkpointing(True)
    capture = Capture(model, taps, "student")
    queries = [torch.full((2, 2, 17, 12), value) for value in (0.0, 3.0)]
    losses = [
        cast(Tensor, capture.run(IMAGE, replaced={taps[0]: fixed_query(query)}).logits).square().sum()
        for query in queries
    ]
    together = torch.autograd.grad(losses[0], model.patch_embed.proj.weight)[0]
    other = small_vit()
    alone = read(other, taps, {taps[0]: fixed_query(queries[0])}).logits.square().sum()
    torch.testing.assert_close(together, torch.autograd.grad(alone, other.patch_embed.proj.weight)[0])


def test_two_checkpointed_runs_are_told_apart_by_what_was_read_of_them() -> None:
    model, taps = small_vit(), layers(small_vit())
    model.train().set_grad_checkpointing(True)
    capture = Capture(model, taps, "student")
    sharp = capture.run(IMAGE, replaced={taps[0]: twice_as_sharp})
    capture.run(IMAGE, replaced={taps[0]: fixed_query(torch.zeros(2, 2, 17, 12))})
    found = torch.autograd.grad(sharp.attention[taps[2]].map().square().sum(), model.patch_embed.proj.weight)[0]
    other = small_vit()
    reading = read(other, taps, {taps[0]: twice_as_sharp})
    wanted = torch.autograd.grad(reading.attention[taps[2]].map().square().sum(), other.patch_embed.proj.weight)[0]
    torch.testing.assert_close(found, wanted)


def test_a_checkpointed_network_that_is_used_by_itself_is_recomputed_by_itself() -> None:
    model, taps = small_vit(), layers(small_vit())
    wanted = torch.autograd.grad(model(IMAGE).square().sum(), model.patch_embed.proj.weight)[0]
    model.train().set_grad_checkpointing(True)
    reading = Capture(model, taps, "student").run(IMAGE, replaced={taps[0]: twice_as_sharp})
    reading.logits.sum().backward(retain_graph=True)
    found = torch.autograd.grad(model(IMAGE).square().sum(), model.patch_embed.proj.weight)[0]
    torch.testing.assert_close(found, wanted)
    both = reading.logits.sum() + model(IMAGE).square().sum()
    model.zero_grad()
    both.backward()
    plain = small_vit()
    (read(plain, taps, {taps[0]: twice_as_sharp}).logits.sum() + plain(IMAGE).square().sum()).backward()
    torch.testing.assert_close(model.patch_embed.proj.weight.grad, plain.patch_embed.proj.weight.grad)


def test_an_interrupt_leaves_nothing_intercepted() -> None:
    model, taps = small_vit(), layers(small_vit())
    capture = Capture(model, taps, "student")

    def interrupt(module: nn.Module, args: Any, out: Tensor) -> None:
        raise KeyboardInterrupt

    handle = model.blocks[1].attn.get_submodule("qkv").register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        capture.run(IMAGE, replaced=dict.fromkeys(taps, twice_as_sharp))
    assert torch.overrides._get_current_function_mode() is None
    handle.remove()
    assert torch.equal(cast(Tensor, capture.run(IMAGE).logits), model(IMAGE))


def test_attention_inside_attention_is_its_own() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: Tensor) -> Tensor:
            x = functional.scaled_dot_product_attention(x, x, x)
            return self.inner(x)

    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.scaled_dot_product_attention(x * 2, x, x)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.outer = Outer()

        def forward(self, image: Tensor) -> Tensor:
            return self.outer(image).flatten(1)

    outer, inner = Tap("outer", "attention"), Tap("outer.inner", "attention")
    calls = read(Network(), (outer, inner)).attention
    assert torch.equal(calls[outer].query, IMAGE)
    assert not torch.equal(calls[inner].query, calls[outer].query)


def test_a_network_that_is_used_apart_from_its_capture_is_left_alone() -> None:
    model, taps = small_vit(), layers(small_vit())
    plain = model(IMAGE)
    capture = Capture(model, taps, "student")
    reading = capture.run(IMAGE, replaced={taps[0]: twice_as_sharp})
    assert torch.equal(model(IMAGE), plain)
    assert reading.logits is not None
    assert not torch.equal(reading.logits, plain)
    assert torch.equal(copy.deepcopy(model)(IMAGE), plain)
    assert torch.equal(pickle.loads(pickle.dumps(model))(IMAGE), plain)


def test_a_network_stops_after_the_last_layer_read() -> None:
    model, taps = small_vit(), layers(small_vit())
    capture = Capture(model, taps[:2], "teacher")
    capture.probe(IMAGE, gradient=False)
    ran: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, args, out, name=name: ran.append(name))
    reading = capture.run(IMAGE, until_last_tap=True)
    assert reading.logits is None
    assert set(reading.attention) == set(taps[:2])
    assert "blocks.0" in ran
    assert not {"blocks.1.attn.proj", "blocks.1", "blocks.2", "head"} & set(ran)


@compiled_whole
@pytest.mark.parametrize("kind", ["read", "replaced"])
def test_attention_is_read_and_replaced_inside_one_compiled_graph(kind: str) -> None:
    model, taps = small_vit(depth=2), layers(small_vit(depth=2))
    replaced = {taps[1]: twice_as_sharp} if kind == "replaced" else None
    capture = Capture(model, taps, "student")

    def run(image: Tensor) -> tuple[Tensor, Tensor]:
        reading = capture.run(image, replaced=replaced)
        assert reading.logits is not None
        return reading.logits, reading.attention[taps[1]].map()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(compiled(IMAGE), run(IMAGE), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_attention_is_read_in_bfloat16() -> None:
    model, taps = small_vit(), layers(small_vit())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention = read(model, taps).attention[taps[0]]
    assert attention.query.dtype == torch.bfloat16
    assert attention.map().dtype == torch.float32


def test_maps_are_float32_under_autocast_too() -> None:
    query, key = torch.randn(2, 1, 2, 9, 8, generator=torch.Generator().manual_seed(2))
    attention = Attention(query, key, scale=2.0, bias=torch.zeros(9, 9))
    wanted = attention.logits(), attention.map()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention.logits(), attention.map()
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def test_attention_of_torchs_own_module_is_read_and_replaced() -> None:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5).eval()
    nn.init.normal_(cast(Any, model.heads).head.weight)
    tap = Tap("encoder.layers.encoder_layer_1.self_attention", "attention", "tokens", 1)
    plain = model(IMAGE)
    reading = read(model, (tap,))
    torch.testing.assert_close(reading.logits, plain)
    assert reading.attention[tap].shape == (2, 2, 17, 17)
    shifted = read(model, (tap,), {tap: lambda own: replace(own, value=own.value + 1)}).logits
    assert not torch.allclose(shifted, plain)


def test_attention_of_transformers_is_read() -> None:
    from transformers import AutoModelForImageClassification, ViTConfig

    config = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8
    )
    model = TransformersClassifier(AutoModelForImageClassification.from_config(config)).eval()
    (path,) = [name for name, m in model.named_modules() if type(m).__name__ == "ViTAttention" and ".1." in name][:1]
    tap = Tap(path, "attention", "tokens", 1)
    assert read(model, (tap,)).attention[tap].shape == (2, 2, 17, 17)


def test_a_query_that_may_see_nothing_is_refused() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(3, 8)

        def forward(self, image: Tensor) -> Tensor:
            tokens = self.project(image.flatten(2).mT)[:, None, :4]
            mask = torch.zeros(4, 4).index_fill(0, torch.tensor(2), float("-inf"))
            return functional.scaled_dot_product_attention(tokens, tokens, tokens, mask)[:, 0].mean(1)

    with pytest.raises(CaptureError, match="has queries that may see no key at all"):
        Capture(Masked(), (Tap("", "attention"),), "student").probe(IMAGE, gradient=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"attn_mask": torch.rand(5, 5) > 0.4},
        {"attn_mask": torch.randn(2, 1, 5, 5)},
        {"is_causal": True},
        {"scale": 0.3},
        {"enable_gqa": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_every_form_of_the_fused_call_is_understood(settings: dict[str, Any]) -> None:
    if "attn_mask" in settings and settings["attn_mask"].dtype == torch.bool:
        settings["attn_mask"].fill_diagonal_(True)
    groups = 2 if settings.get("enable_gqa") else 4
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, groups, 5, 8), torch.randn(2, groups, 5, 8)
    call = fused_call(query, key, value, **settings, tap=Tap("x", "attention"))
    wanted = functional.scaled_dot_product_attention(query, key, value, **settings)
    assert call.value is not None
    torch.testing.assert_close(call.map() @ call.value, wanted)
    torch.testing.assert_close(call.result(), wanted)


@pytest.mark.parametrize("count", [0, 1, None])
def test_a_call_knows_the_tokens_of_its_place(count: int | None) -> None:
    tap = Tap("blocks.0.attn", "attention", "tokens", 1, (4, 4), count)
    call = read(small_vit(), (tap,)).attention[tap]
    assert (call.prefix_tokens, call.grid, call.class_tokens) == (1, (4, 4), count)
    written = Tap("blocks.0.attn", "softmax", "tokens", 1, (4, 4), count)
    model = small_vit()
    for block in model.blocks:
        block.attn.fused_attn = False
    call = read(model, (written,)).attention[written]
    assert (call.prefix_tokens, call.grid, call.class_tokens) == (1, (4, 4), count)


def test_softmaxes_written_by_hand_are_read_and_replaced() -> None:
    torch.manual_seed(0)
    model = build("timm:cait_xxs24_224(img_size=32, depth=2, embed_dim=48, num_heads=2)", 5).eval()
    tap = Tap("blocks.1.attn", "softmax")
    reading = read(model, (tap,))
    torch.testing.assert_close(reading.attention[tap].map().sum(-1), torch.ones(2, 2, 4))
    even = read(model, (tap,), {tap: lambda own: replace(own, weights=torch.full_like(own.weights, 0.25))})
    for parameter in model.blocks[1].attn.qkv.parameters():
        nn.init.zeros_(parameter[:96])
    torch.testing.assert_close(even.logits, model(IMAGE))


def test_a_map_that_is_handed_to_a_module_is_read_and_replaced() -> None:
    torch.manual_seed(0)
    model = timm.create_model("convit_tiny", img_size=32, depth=2, embed_dim=12, num_classes=5).eval()
    tap = Tap("blocks.0.attn.attn_drop", "map")
    assert read(model, (tap,)).attention[tap].shape == (2, 4, 4, 4)
    plain = model(IMAGE)
    given = read(model, (tap,), {tap: lambda own: replace(own, weights=torch.eye(4).expand_as(own.weights))})
    assert not torch.allclose(given.logits, plain)
    torch.testing.assert_close(read(model, (tap,), {tap: lambda own: own}).logits, plain)


def test_a_teacher_that_drops_attention_at_random_is_refused() -> None:
    model = small_vit(attn_drop_rate=0.1).train()
    with pytest.raises(CaptureError, match=r"attention of blocks.0.attn of the teacher drops 10% of its weights"):
        Capture(model, layers(model), "teacher").probe(IMAGE, gradient=False)
    Capture(model.eval(), layers(model), "teacher").probe(IMAGE, gradient=False)


def test_an_unfused_teacher_that_drops_attention_at_random_is_refused() -> None:
    model = small_vit(attn_drop_rate=0.1).train()
    for block in model.blocks:
        block.attn.fused_attn = False
    taps = [Tap("blocks.0.attn.attn_drop", "map")]
    with pytest.raises(CaptureError, match=r"drops 10% of its weights"):
        Capture(model, taps, "teacher").probe(IMAGE, gradient=False)


def test_a_module_that_is_called_by_name_alone_is_refused() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = Named()

        def forward(self, image: Tensor) -> Tensor:
            return self.drop(x=image).flatten(1)

    class Named(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(CaptureError, match="called with named arguments only"):
        Capture(Network(), [Tap("drop", "input")], "student").probe(IMAGE, gradient=False)


def test_a_layer_that_makes_no_call_and_one_without_gradient_are_refused() -> None:
    model = small_vit()
    with pytest.raises(CaptureError, match=r"attention of blocks.0.mlp of the student never ran.*makes no such call"):
        Capture(model, [Tap("blocks.0.mlp", "attention")], "student").probe(IMAGE, gradient=True)
    model.requires_grad_(False)
    with pytest.raises(CaptureError, match="carries no gradient"):
        Capture(model, layers(model), "student").probe(IMAGE, gradient=True)
