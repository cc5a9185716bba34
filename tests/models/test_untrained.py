"""Untrained networks give values of a usual size, and are otherwise left as they were."""

import pytest
import torch
from torch import Tensor, nn

from attention_transfer.models import build
from attention_transfer.models.untrained import settle_norms


def largest(model: nn.Module) -> float:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(images).abs().max().item()


def test_a_deep_network_gives_logits_of_a_usual_size():
    torch.manual_seed(0)
    model = build("resnet56", 10)
    assert largest(model) > 1000
    settle_norms(model, (32, 32))
    assert 0.01 < largest(model) < 100


@pytest.mark.parametrize("name", ["timm:resnet18", "vgg8", "timm:vit_tiny_patch16_224"])
def test_every_network_is_otherwise_left_as_it_was(name: str):
    model = build(name, 10, image_size=32)
    next(model.children()).eval()
    before = {key: value.clone() for key, value in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    settle_norms(model, (32, 32))
    assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 for norm in norms)
    assert not any(torch.equal(norm.running_var, torch.ones_like(norm.running_var)) for norm in norms)  # pyright: ignore[reportArgumentType]


class Fails(nn.Module):
    """A network that stops with an error of some kind, of many lines."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.error = error

    def forward(self, image: Tensor) -> Tensor:
        self.norm(image)
        raise self.error


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError, IndexError, TypeError, ZeroDivisionError])
def test_a_network_that_cannot_run_is_refused_in_one_sentence_and_left_as_it_was(kind: type[Exception]):
    model = Fails(kind("mat1 and mat2\nand 40 more lines"))
    with pytest.raises(ValueError, match=r"on images of 3 channels and 8×9 pixels: mat1 and mat2$"):
        settle_norms(model, (8, 9))
    assert model.training
    assert model.norm.momentum == 0.1
