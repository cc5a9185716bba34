"""The published networks, written out by the names in their checkpoints: ours compute the same under these names."""

from collections.abc import Callable, Mapping

import pytest
import torch
from tests.closeness import assert_near
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, batch_norm, conv2d, linear, max_pool2d, relu

from attention_transfer.models import build
from attention_transfer.models.zoo.deep_resnet import Basic, DeepResNet
from attention_transfer.models.zoo.mobilenet_v2 import MobileNetV2
from attention_transfer.models.zoo.shufflenet_v1 import ShuffleNetV1
from attention_transfer.models.zoo.shufflenet_v2 import ShuffleNetV2
from attention_transfer.models.zoo.vgg import VGG
from attention_transfer.models.zoo.wide_resnet import WideResNet


class Written:
    """Layers by the names that a checkpoint gives them; running statistics are used, never moved."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = dict(weights)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return self.weights[name]

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.weights

    def blocks(self, prefix: str) -> list[str]:
        numbers = {name.removeprefix(f"{prefix}.").split(".")[0] for name in self.weights if name.startswith(prefix)}
        return [f"{prefix}.{number}" for number in sorted(numbers, key=int)]

    def conv(self, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = self[f"{name}.weight"]
        bias = self[f"{name}.bias"] if f"{name}.bias" in self.weights else None
        return conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2, groups=groups)

    def bn(self, name: str, x: Tensor) -> Tensor:
        mean, variance = self[f"{name}.running_mean"], self[f"{name}.running_var"]
        return batch_norm(x, mean, variance, self[f"{name}.weight"], self[f"{name}.bias"])

    def conv_bn(self, number: int | str, block: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        return self.bn(f"{block}bn{number}", self.conv(f"{block}conv{number}", x, stride, groups))

    def head(self, name: str, x: Tensor) -> Tensor:
        return linear(adaptive_avg_pool2d(x, 1).flatten(1), self[f"{name}.weight"], self[f"{name}.bias"])


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel i of every group, then channel i + 1 of every group, …"""
    per_group = x.shape[1] // groups
    return x[:, [group * per_group + i for i in range(per_group) for group in range(groups)]]


def wide_resnet(net: Written, x: Tensor) -> Tensor:
    x = net.conv("conv1", x)
    for stage in (1, 2, 3):
        for i, block in enumerate(net.blocks(f"block{stage}.layer")):
            stride = 2 if stage > 1 and i == 0 else 1
            activated = relu(net.bn(f"{block}.bn1", x))
            out = relu(net.bn(f"{block}.bn2", net.conv(f"{block}.conv1", activated, stride)))
            if net.has(f"{block}.convShortcut"):
                x = net.conv(f"{block}.convShortcut", activated, stride)
            x = x + net.conv(f"{block}.conv2", out)
    return net.head("fc", relu(net.bn("bn1", x)))


def vgg(net: Written, x: Tensor) -> Tensor:
    for stage in range(5):
        for i in range(0, 12, 3):
            if net.has(f"block{stage}.{i}"):
                x = relu(net.bn(f"block{stage}.{i + 1}", net.conv(f"block{stage}.{i}", x)))
        x = max_pool2d(x, 2) if stage < 3 else x
    return net.head("classifier", x)


def mobilenet_v2(net: Written, x: Tensor) -> Tensor:
    x = relu(net.bn("conv1.1", net.conv("conv1.0", x, 2)))
    for stage, stride in zip(net.blocks("blocks"), (1, 1, 2, 2, 1, 2, 1), strict=True):
        for i, block in enumerate(net.blocks(stage)):
            out = relu(net.bn(f"{block}.conv.1", net.conv(f"{block}.conv.0", x)))
            out = net.conv(f"{block}.conv.3", out, 1 if i else stride, out.shape[1])
            out = net.bn(f"{block}.conv.7", net.conv(f"{block}.conv.6", relu(net.bn(f"{block}.conv.4", out))))
            x = x + out if out.shape == x.shape else out
    return net.head("classifier.0", relu(net.bn("conv2.1", net.conv("conv2.0", x))))


def shufflenet_v1(net: Written, x: Tensor) -> Tensor:
    x = relu(net.conv_bn(1, "", x))
    for stage in (1, 2, 3):
        for i, block in enumerate(net.blocks(f"layer{stage}")):
            groups = 1 if stage == 1 and i == 0 else 3
            out = shuffle(relu(net.conv_bn(1, f"{block}.", x, 1, groups)), groups)
            out = relu(net.conv_bn(2, f"{block}.", out, 1 if i else 2, out.shape[1]))
            out = net.conv_bn(3, f"{block}.", out, 1, 3)
            x = relu(out + x if i else torch.cat((out, avg_pool2d(x, 3, 2, padding=1)), 1))
    return net.head("linear", x)


def shufflenet_v2(net: Written, x: Tensor) -> Tensor:
    x = relu(net.conv_bn(1, "", x))
    for stage in (1, 2, 3):
        for i, name in enumerate(net.blocks(f"layer{stage}")):
            block = f"{name}."
            if i == 0:
                left = net.conv_bn(1, block, x, 2, x.shape[1])
                left = relu(net.conv_bn(2, block, left))
                right = relu(net.conv_bn(3, block, x))
                right = net.conv_bn(4, block, right, 2, right.shape[1])
                right = relu(net.conv_bn(5, block, right))
            else:
                left, right = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
                right = relu(net.conv_bn(1, block, right))
                right = net.conv_bn(2, block, right, 1, right.shape[1])
                # Ours has this ReLU after the shuffle, over both halves.
                right = relu(net.conv_bn(3, block, right))
            x = shuffle(torch.cat((left, right), 1), 2)
    return net.head("linear", relu(net.conv_bn(2, "", x)))


def deep_resnet(net: Written, x: Tensor) -> Tensor:
    x = relu(net.conv_bn(1, "", x))
    for stage in (1, 2, 3, 4):
        for i, name in enumerate(net.blocks(f"layer{stage}")):
            block, stride = f"{name}.", 2 if stage > 1 and i == 0 else 1
            three = net.has(f"{block}conv3")
            out = relu(net.conv_bn(1, block, x, 1 if three else stride))
            out = net.conv_bn(2, block, out, stride if three else 1)
            out = net.conv_bn(3, block, relu(out)) if three else out
            if net.has(f"{block}shortcut.0"):
                x = net.bn(f"{block}shortcut.1", net.conv(f"{block}shortcut.0", x, stride))
            x = relu(out + x)
    return net.head("linear", x)


PUBLISHED: dict[str, Callable[[Written, Tensor], Tensor]] = {
    "wrn_16_1": wide_resnet,
    "wrn_16_2": wide_resnet,
    "vgg8": vgg,
    "vgg13": vgg,
    "mobilenetv2_half": mobilenet_v2,
    "shufflenetv1": shufflenet_v1,
    "shufflenetv2": shufflenet_v2,
    "resnet18_cifar": deep_resnet,
    "resnet50_cifar": deep_resnet,
}


def trained(name: str) -> nn.Module:
    """A network whose norms have something to do, as after a training."""
    torch.manual_seed(0)
    model = build(name, 7).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_computes_what_the_published_network_does_with_the_same_checkpoint(name: str) -> None:
    model = trained(name)
    net = Written(model.state_dict())
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        wanted, came = PUBLISHED[name](net, image), model(image)
    assert_near(came, wanted, steps=2**20)
    assert {n for n in net.weights if not n.endswith("num_batches_tracked")} == net.read


def test_one_relu_over_both_halves_gives_shufflenet_v2_the_published_gradients() -> None:
    model = trained("shufflenetv2")
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    ours = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    theirs = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    direction = torch.randn(2, 7, dtype=torch.float64)
    (functional_call(model, ours, (image,)) * direction).sum().backward()
    (shufflenet_v2(Written({**model.state_dict(), **theirs}), image) * direction).sum().backward()
    for name, value in theirs.items():
        assert value.grad is not None
        assert value.grad.abs().max() > 0
        assert_near(ours[name].grad, value.grad, steps=2**20, msg=name)


@pytest.mark.parametrize("name", ["wrn_16_2", "vgg8", "mobilenetv2_half", "resnet18_cifar"])
def test_convolutions_start_as_normal_as_published(name: str) -> None:
    torch.manual_seed(0)
    for module in build(name, 10).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            side, _ = module.kernel_size
            wanted = (2 / (side * side * module.out_channels)) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(wanted, rel=0.05)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("name", ["vgg8", "mobilenetv2_half"])
def test_small_last_layers_start_small(name: str) -> None:
    last = [module for module in build(name, 100).modules() if isinstance(module, nn.Linear)]
    assert len(last) == 1
    assert float(last[0].weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert not last[0].bias.any()


def test_a_network_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"6n \+ 4 layers.*not 20"):
        WideResNet(20, 1, 10)
    with pytest.raises(ValueError, match="at least 1 time as wide"):
        WideResNet(16, 0, 10)
    with pytest.raises(ValueError, match=r"five blocks.*\(1, 1\)"):
        VGG((1, 1), 10)
    with pytest.raises(ValueError, match="channels in every block"):
        MobileNetV2(0.01, 10)
    with pytest.raises(ValueError, match=r"four groups.*\(2, 2\)"):
        DeepResNet(Basic, (2, 2), 10)
    with pytest.raises(ValueError, match=r"three groups.*\(240, 480\)"):
        ShuffleNetV1((240, 480), (4, 8, 4), 3, 10)
    with pytest.raises(ValueError, match=r"three groups.*\(3, 7\)"):
        ShuffleNetV2((116, 232, 464, 1024), (3, 7), 10)
    with pytest.raises(ValueError, match=r"even number.*117"):
        ShuffleNetV2((117, 232, 464, 1024), (3, 7, 3), 10)
