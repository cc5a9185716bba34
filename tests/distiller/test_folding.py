"""A teacher's batch norms folded into its convolutions: the same values, and a network that nobody has touched."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from attention_transfer import AttentionTransfer, Distiller, SoftTargets
from attention_transfer.distiller.folding import Folding
from attention_transfer.methods import Overhaul
from attention_transfer.models import build

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def settled(model: nn.Module) -> nn.Module:
    """In evaluation mode, with norms that have learned something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    if tensor is not None:
                        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


def folding(model: nn.Module) -> Folding:
    def run() -> list[Tensor]:
        with torch.no_grad():
            return [model(IMAGES)]

    return Folding.proved(model, run)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("resnet8", 9),
        # Norms come first here: those of sums stay, and that of the first convolution, which the shortcut takes too.
        ("wrn_16_1", 6),
        ("vgg8", 5),
        ("mobilenetv2_half", 53),
        ("shufflenetv1", 49),
        ("timm:resnet18", 20),
        ("torchvision:resnet18", 20),
    ],
)
def test_networks_give_the_same(name: str, pairs: int) -> None:
    torch.manual_seed(0)
    model = settled(build(name, 5))
    found = folding(model)
    assert len(found.pairs) == pairs
    with torch.no_grad():
        wanted = model(IMAGES)
        norm = found.pairs[-1][1]
        seen: list[Tensor] = []
        handle = norm.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0], output)))
        with found():
            torch.testing.assert_close(model(IMAGES), wanted, rtol=1e-4, atol=1e-4)
        handle.remove()
    # The norm had nothing left to do.
    assert seen[0] is seen[1]


class Odd(nn.Module):
    """A convolution whose values are taken in several ways."""

    def __init__(self, convolution: nn.Module, norm: nn.Module, how: str) -> None:
        super().__init__()
        self.convolution, self.norm, self.how = convolution, norm, how

    def forward(self, x: Tensor) -> Tensor:
        values = self.convolution(x)
        match self.how:
            case "plain":
                return self.norm(values).relu()
            case "twice":
                return self.norm(values) + values
            case "changed before":
                return self.norm(values.relu_())
            case "changed between":
                return self.norm(values * 2)
            case "norm twice":
                return self.norm(self.norm(values))
            case "norm elsewhere":
                return self.norm(values) + self.norm(x)
            case _:
                return self.norm(values + self.convolution(x.flip(3)))


@pytest.mark.parametrize(
    "how", ["twice", "changed before", "changed between", "norm twice", "norm elsewhere", "convolution twice"]
)
def test_what_is_taken_otherwise_stays(how: str) -> None:
    # Norms that have learned nothing change nothing, so that only other numbers can tell.
    assert not folding(Odd(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), how).eval()).pairs


def reflecting() -> nn.Module:
    return nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")


def parametrised() -> nn.Module:
    return parametrizations.weight_norm(nn.Conv2d(3, 3, 3, padding=1))


def watched() -> nn.Module:
    convolution = nn.Conv2d(3, 3, 3, padding=1)
    convolution.register_forward_hook(lambda *_: None)
    return convolution


class Own(nn.BatchNorm2d):
    """A norm of another kind."""


@pytest.mark.parametrize("make", [reflecting, parametrised, watched])
def test_convolutions_of_another_kind_stay(make: Callable[[], nn.Module]) -> None:
    assert not folding(Odd(make(), nn.BatchNorm2d(3), "plain").eval()).pairs


@pytest.mark.parametrize("norm", [Own(3), nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3)])
def test_norms_of_another_kind_stay(norm: nn.Module) -> None:
    assert not folding(Odd(nn.Conv2d(3, 3, 3, padding=1), norm, "plain").eval()).pairs


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_norms_without_factors_and_convolutions_with_bias(affine: bool, bias: bool) -> None:
    model = settled(Odd(nn.Conv2d(3, 3, 3, padding=1, bias=bias), nn.BatchNorm2d(3, affine=affine), "plain")).double()
    with torch.no_grad():
        wanted = model(IMAGES.double())
        found = Folding.proved(model, lambda: [model(IMAGES.double())])
        assert found.pairs
        with found():
            torch.testing.assert_close(model(IMAGES.double()), wanted, rtol=1e-12, atol=1e-12)


def test_what_changes_later_is_followed() -> None:
    model = settled(Odd(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), "plain"))
    found = folding(model)

    def same() -> bool:
        with torch.no_grad():
            wanted = model(IMAGES)
            with found():
                return torch.allclose(model(IMAGES), wanted, rtol=1e-4, atol=1e-4)

    assert same()
    model.load_state_dict({key: value + 1 for key, value in model.state_dict().items()})
    assert same()
    model.train()
    assert same()
    model.eval()
    seen: list[Tensor] = []
    handle = model.convolution.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    assert same()
    torch.testing.assert_close(*seen, rtol=0, atol=0)
    handle.remove()
    model.bfloat16()
    with torch.no_grad(), found():
        assert "forward" not in vars(model.convolution)


def test_a_teacher_is_as_it_was_between_steps(small_pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = small_pair
    settled(teacher)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    distiller = Distiller(student, teacher, [AttentionTransfer(), SoftTargets()], example=IMAGES)
    assert distiller._teacher is not None
    assert len(distiller._teacher._folding.pairs) == 1
    plain = copy.deepcopy(distiller)
    assert plain._teacher is not None
    plain._teacher._folding = Folding()
    labels = torch.tensor([0, 1, 2])
    torch.testing.assert_close(distiller(IMAGES, labels).loss, plain(IMAGES, labels).loss, rtol=1e-5, atol=1e-6)
    for model in (teacher, pickle.loads(pickle.dumps(teacher))):
        assert not any("forward" in vars(module) for module in model.modules())
        torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_an_error_on_the_way_leaves_nothing_behind() -> None:
    model = settled(build("resnet8", 5))
    found = folding(model)
    with pytest.raises(RuntimeError), found():
        model(IMAGES[:, :2])
    assert not any("forward" in vars(module) for module in model.modules())


def test_teachers_in_training_mode_keep_their_norms(small_pair: tuple[nn.Module, nn.Module]) -> None:
    distiller = Distiller(*small_pair, [Overhaul()], example=IMAGES)
    assert distiller._teacher is not None
    assert not distiller._teacher._folding.pairs
