"""Sequences whose modules are run one by one, as under gradient checkpointing, are read at their ends."""

from typing import Any

import pytest
import timm
import torch
from tests.trained import as_trained
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from attention_transfer import AttentionTransfer, Distiller
from attention_transfer.capture import Capture, CaptureError, Tap
from attention_transfer.capture.uncalled_modules import stand_ins

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
