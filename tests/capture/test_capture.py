"""Reading networks while they run, module by module and with few keys, and the proof that it is what was meant."""

import copy
from typing import Any

import pytest
import timm
import torch
from tests.trained import as_trained
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from attention_transfer import AttentionTransfer, Distiller
from attention_transfer.capture import Capture, CaptureError, Tap, as_logits, noise, spatial, undisturbed
from attention_transfer.capture.uncalled_modules import stand_ins


def small(inplace: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace), nn.Flatten(), nn.Linear(4 * 36, 5))


def read(model: nn.Module, *taps: Tap, gradient: bool = True) -> dict[Tap, Tensor]:
    capture = Capture(model, taps, "student")
    try:
        return dict(capture.probe(torch.randn(2, 3, 8, 8), gradient=gradient).values)
    finally:
        capture.close()


def test_output_and_input_are_what_the_module_gives_and_takes() -> None:
    model, image = small(), torch.randn(2, 3, 8, 8)
    before, after = Tap("2", "input"), Tap("2")
    capture = Capture(model, [before, after], "student")
    reading = capture.run(image)
    torch.testing.assert_close(reading.values[before].relu(), reading.values[after], rtol=0, atol=0)
    assert reading.logits is not None
    torch.testing.assert_close(reading.logits, model[4](reading.values[after].flatten(1)), rtol=0, atol=0)


def test_a_value_before_an_activation_in_place_is_kept() -> None:
    tap = Tap("2", "input")
    assert float(read(small(inplace=True), tap)[tap].detach().min()) < 0


def test_a_value_overwritten_in_place_is_refused() -> None:
    with pytest.raises(CaptureError, match="1 of the student is overwritten in place"):
        read(small(inplace=True), Tap("1"))


def test_an_unknown_module_is_named_with_what_there_is() -> None:
    with pytest.raises(CaptureError, match=r"no module '7'; its top level has 0, 1, 2"):
        read(small(), Tap("7"))


def test_a_module_that_never_runs_is_refused() -> None:
    model = small()
    model[0].unused = nn.ReLU()
    with pytest.raises(CaptureError, match=r"0\.unused of the student never ran"):
        read(model, Tap("0.unused"))


def test_a_frozen_place_in_the_student_is_refused() -> None:
    model = small()
    model[0].requires_grad_(False)
    with pytest.raises(CaptureError, match="carries no gradient"):
        read(model, Tap("0"))
    assert not read(model, Tap("0"), gradient=False)[Tap("0")].requires_grad


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Tanh())
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.body, self.stem(x), use_reentrant=self.reentrant)
        return self.head(x.mean((2, 3)))


def test_reentrant_checkpointing_is_refused_and_the_other_kind_gives_equal_gradients() -> None:
    with pytest.raises(CaptureError, match="use_reentrant=False"):
        read(Checkpointed(reentrant=True), Tap("body.0"))
    model, image = Checkpointed(reentrant=False), torch.randn(2, 3, 8, 8)
    capture = Capture(model, [Tap("body.0")], "student")

    def gradients(checkpointed: bool) -> list[Tensor]:
        value = capture.run(image).values[Tap("body.0")] if checkpointed else model.body[0](model.stem(image))
        return list(torch.autograd.grad(value.square().sum(), (*model.stem.parameters(), *model.body.parameters())))

    for ours, plain in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(ours, plain)
    assert not capture._recorder.values


def test_nothing_runs_after_the_last_tap() -> None:
    model, ran = small(), list[int]()
    model[4].register_forward_hook(lambda *_: ran.append(1))
    capture = Capture(model, [Tap("1"), Tap("0")], "teacher")
    capture.probe(torch.randn(2, 3, 8, 8), gradient=False)
    ran.clear()
    reading = capture.run(torch.randn(2, 3, 8, 8), until_last_tap=True)
    assert reading.logits is None
    assert set(reading.values) == {Tap("0"), Tap("1")}
    assert not ran
    model(torch.randn(2, 3, 8, 8))
    assert ran == [1]


@pytest.mark.parametrize("site", ["output", "input"])
def test_a_replaced_value_is_what_the_network_goes_on_with(site: str) -> None:
    model, image = small(), torch.randn(2, 3, 8, 8)
    tap = Tap("2", site)
    given = torch.rand(2, 4, 6, 6)
    logits = Capture(model, [tap], "student").run(image, replaced={tap: given}).logits
    torch.testing.assert_close(logits, model[4](given.flatten(1)), rtol=0, atol=0)


def test_layouts_all_come_out_as_channels_height_width() -> None:
    value = torch.randn(2, 5, 3, 4)
    channels_last = value.permute(0, 2, 3, 1)
    tokens = torch.cat([torch.zeros(2, 2, 5), channels_last.flatten(1, 2)], 1)
    torch.testing.assert_close(spatial(value, Tap("x")), value)
    torch.testing.assert_close(spatial(channels_last, Tap("x", layout="nhwc")), value)
    torch.testing.assert_close(spatial(tokens, Tap("x", layout="tokens", prefix_tokens=2, grid=(3, 4))), value)
    square = torch.randn(2, 1 + 9, 5)
    assert spatial(square, Tap("x", layout="tokens", prefix_tokens=1)).shape == (2, 5, 3, 3)


def test_tokens_that_fill_no_grid_are_refused() -> None:
    with pytest.raises(CaptureError, match="12 tokens, 1 of them before the patches"):
        spatial(torch.zeros(2, 12, 5), Tap("x", layout="tokens", prefix_tokens=1))


def test_logits_are_found_in_what_a_network_returns() -> None:
    class Answer:
        logits = torch.zeros(2, 3)

    assert as_logits(Answer(), "student") is Answer.logits
    with pytest.raises(CaptureError, match=r"the student returns a tuple of 0: \(2, 3\); wanted is a tensor"):
        as_logits((torch.zeros(2, 3),), "student")
    with pytest.raises(CaptureError, match=r"a tensor of shape \(2, 3, 4\); wanted"):
        as_logits(torch.zeros(2, 3, 4), "student")


def test_closing_leaves_no_hook_and_a_copy_reads_by_itself() -> None:
    model = small()
    capture = Capture(model, [Tap("0"), Tap("2", "input")], "student")
    model(torch.randn(2, 3, 8, 8))
    twin = copy.deepcopy(capture)
    assert set(twin.run(torch.randn(2, 3, 8, 8)).values) == set(capture.taps)
    capture.close()
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_undisturbed_restores_buffers_modes_and_random_state() -> None:
    model = small()
    model.eval()
    model[1].train()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    state = torch.get_rng_state()
    with undisturbed(model):
        model.train()
        model(torch.randn(4, 3, 8, 8))
        model[1].running_mean = torch.ones(4)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_noise_is_the_same_every_time_and_never_reads_the_example() -> None:
    example = torch.full((1, 3, 4, 4), float("nan"))
    first, second = noise(example), noise(example)
    assert first.shape == (2, 3, 4, 4)
    assert first.isfinite().all()
    assert torch.equal(first, second)


# ---------------- sequences whose modules are run one by one, as under gradient checkpointing, are read at their ends

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Walked(nn.Module):
    """Runs the modules of its sequences itself."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.stem = nn.Conv2d(3, 4, 3)
        self.body = nn.Sequential(
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()
        )
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        match self.how:
            case "called":
                x = self.body(x)
            case "one by one":
                for module in (*self.body[0], *self.body[1:]):
                    x = module(x)
            case "checkpointed":
                for module in self.body:
                    x = checkpoint(module, x, use_reentrant=False)
            case "in segments":
                x = checkpoint_sequential(self.body, 2, x, use_reentrant=False)
            case "reentrant":
                for module in self.body:
                    x = checkpoint(module, x, use_reentrant=True)
            case "changed between":
                for module in self.body:
                    x = module(x) + 1
            case "backwards":
                for module in reversed(self.body):
                    x = module(x)
            case "twice":
                for module in (*self.body, *self.body):
                    x = module(x)
            case _:
                x = self.body.forward(x) if self.how == "by forward" else x
        return self.fc(x.mean((2, 3)))


TAPS = (Tap("body"), Tap("body", "input"))


def values(how: str) -> tuple[Walked, Any]:
    model = Walked(how)
    capture = Capture(model, TAPS, "student")
    capture.probe(IMAGES, gradient=True)
    return model, capture.run(IMAGES)


@pytest.mark.parametrize("how", ["called", "one by one", "checkpointed", "in segments", "by forward"])
def test_what_a_sequence_would_give_is_read_with_the_same_gradient(how: str) -> None:
    plain, wanted = values("called")
    model, found = values(how)
    for tap in TAPS:
        assert torch.equal(found.values[tap], wanted.values[tap])
    for network, reading in ((plain, wanted), (model, found)):
        (reading.values[TAPS[0]].square().sum() + reading.logits.sum()).backward()
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("how", ["changed between", "backwards", "twice", "not at all"])
def test_modules_that_are_no_chain_are_refused_with_what_to_do(how: str) -> None:
    with pytest.raises(CaptureError, match=r"body of the student never ran: .*gradient checkpointing"):
        values(how)


def test_reentrant_checkpointing_is_refused_by_name() -> None:
    method = AttentionTransfer(student_layers=("body",), teacher_layers=("body",))
    with pytest.raises(CaptureError, match="checkpointed with use_reentrant=True"):
        Distiller(Walked("reentrant"), Walked("called"), [method], example=IMAGES)


def test_only_sequences_have_stand_ins() -> None:
    model = Walked("not at all")
    assert stand_ins(model, [Tap("body.1")], lambda: model(IMAGES)) == {}


@pytest.mark.parametrize("name", ["resnet10t", "efficientnet_b0", "repvit_m0_9", "regnetx_002"])
def test_checkpointed_networks_of_convolutions_learn_the_same(name: str) -> None:
    images, labels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.arange(2)
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        student, teacher = (
            timm.create_model(name, num_classes=5),
            as_trained(timm.create_model("resnet10t", num_classes=5)),
        )
        student.set_grad_checkpointing(checkpointed)
        distiller = Distiller(student, teacher, [AttentionTransfer()], example=torch.empty(2, 3, 64, 64))
        torch.manual_seed(0)
        out = distiller(images, labels)
        out.loss.backward()
        found.append((out.loss, {path: p.grad for path, p in student.named_parameters() if p.grad is not None}))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    for path, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][path], gradient, msg=path)


def test_checkpointing_that_is_switched_later_is_refused() -> None:
    torch.manual_seed(0)
    student, teacher = (as_trained(timm.create_model("resnet10t", num_classes=5)) for _ in range(2))
    distiller = Distiller(student, teacher, [AttentionTransfer()], example=torch.empty(2, 3, 64, 64))
    student.set_grad_checkpointing(True)
    with pytest.raises(CaptureError, match=r"did not run this time.*checkpointing was switched"):
        distiller(torch.randn(2, 3, 64, 64), torch.arange(2))


# ---------------- attention whose queries have more heads than its keys


def test_one_head_of_keys_may_serve_all_queries() -> None:
    class MultiQuery(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            query, key = x.unflatten(2, (2, 4)).transpose(1, 2), x[:, None, :, :4]
            return nn.functional.scaled_dot_product_attention(query, key, key).transpose(1, 2).flatten(2).mean(1)

    model, tokens = nn.Sequential(MultiQuery()), torch.randn(3, 5, 8)
    tap = Tap("0", "attention", "tokens")
    call = Capture(model, [tap], "student").run(tokens).attention[tap]
    assert call.shape == (3, 2, 5, 5)
    expected = (tokens.unflatten(2, (2, 4)).transpose(1, 2) @ tokens[:, None, :, :4].mT / 2).softmax(-1)
    torch.testing.assert_close(call.map(), expected)
    torch.testing.assert_close(call.result().transpose(1, 2).flatten(2).mean(1), model(tokens))
