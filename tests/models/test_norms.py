"""The batch norm that makes what an activation takes."""

import pytest
import timm
import torchvision
from torch import nn

from attention_transfer import build, describe
from attention_transfer.models.introspection.pre_activations import batch_norm_before

FOUND = {
    "resnet14": ["layer1.1.bn2", "layer2.1.bn2", "layer3.1.bn2"],
    "resnet50_cifar": ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"],
    "wrn_16_1": ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"],
    "vgg8": ["block1.1", "block2.1", "block3.1", "block4.1"],
    "mobilenetv2_half": ["blocks.1.1.conv.7", "blocks.2.2.conv.7", "blocks.4.2.conv.7", "blocks.6.0.conv.7"],
    "shufflenetv1": ["layer1.3.bn3", "layer2.7.bn3", "layer3.3.bn3"],
    # Half of the channels come from elsewhere, and all are shuffled.
    "shufflenetv2": [None, None, None],
}


def found(model: nn.Module) -> list[str | None]:
    return [batch_norm_before(model, stage.pre_activation) for stage in describe(model).stages]


@pytest.mark.parametrize("name", FOUND)
def test_it_is_found_in_the_networks_of_this_library(name: str) -> None:
    model = build(name, 5)
    assert found(model) == FOUND[name]
    for path in filter(None, FOUND[name]):
        assert isinstance(model.get_submodule(path), nn.BatchNorm2d)


def test_it_is_found_where_one_activation_serves_all_convolutions() -> None:
    last = {"resnet18": "bn2", "resnet50": "bn3"}
    for name, norm in last.items():
        paths = found(torchvision.models.get_model(name))
        assert [path.rpartition(".")[2] for path in paths] == [norm] * 4
        assert all(path.startswith(f"layer{i}.") for i, path in enumerate(paths, start=1))
    assert [path.rpartition(".")[2] for path in found(timm.create_model("resnet26"))] == ["bn3"] * 4


def test_networks_without_batch_norm_have_none() -> None:
    assert set(found(timm.create_model("convnext_atto"))) == {None}
    assert set(found(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2))) == {None}
