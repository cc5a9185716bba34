"""Networks for images of other channels than data sets deliver."""

import pytest
import torch
from torch import Tensor, nn

from attention_transfer.models import build, check_channels


class Late(nn.Module):
    """A network whose first convolution in name is not the first in order, or that makes colours grey itself."""

    def __init__(self, grey: bool) -> None:
        super().__init__()
        self.later = nn.Conv2d(1 if grey else 4, 5, 1)
        self.stem = nn.Identity() if grey else nn.Conv2d(3, 4, 1)
        self.grey = grey

    def forward(self, image: Tensor) -> Tensor:
        image = image.mean(1, keepdim=True) if self.grey else self.stem(image)
        return self.later(image).mean((2, 3))


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:test_vit", "timm:test_mambaout"])
def test_other_channels_are_refused_by_their_number(name: str, channels: int) -> None:
    model = build(f"{name}(in_chans={channels})", 3, image_size=32)
    plural = "s" if channels > 1 else ""
    with pytest.raises(ValueError, match=rf"'x' takes images of {channels} channel{plural}, and data sets .* in 3"):
        check_channels(model, "x", (32, 32))


@pytest.mark.parametrize("name", ["resnet8", "timm:resnet10t", "timm:test_vit", "torchvision:squeezenet1_1"])
def test_networks_for_colours_are_not_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name, 3, image_size=32)
    monkeypatch.setattr(model, "forward", lambda image: pytest.fail("was run"))
    check_channels(model, name, (32, 32))


@pytest.mark.parametrize("grey", [True, False])
def test_a_network_that_takes_colours_all_the_same_passes_and_is_left_alone(grey: bool) -> None:
    model = Late(grey).train()
    before = torch.get_rng_state()
    check_channels(model, "x", (8, 8))
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_configuration_of_transformers_is_read() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, num_channels=1))
    with pytest.raises(ValueError, match="takes images of 1 channel, "):
        check_channels(model, "x", (32, 32))
