"""A teacher's batch norms folded into its convolutions: the same values, and a network that nobody has touched."""

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tests.closeness import assert_near
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from attention_transfer import AttentionTransfer, Distiller, SoftTargets
from attention_transfer.capture import Folding
from attention_transfer.capture.batch_norm_folding import FoldingError
from attention_transfer.models import build

IMAGES = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(3))


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


def found(model: nn.Module) -> Folding:
    return Folding.found(model, lambda: result(model), len(IMAGES))


def result(model: nn.Module, folding: Folding | None = None) -> Tensor:
    images = IMAGES.to(next(model.parameters()).dtype)
    with torch.no_grad(), nullcontext() if folding is None else folding(len(images)):
        return model(images)


def assert_folded(model: nn.Module, folding: Folding, count: int) -> None:
    """So many norms are folded when it runs, and it gives the same."""
    kept: list[int] = []
    compute = functional.batch_norm

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        kept.append(1)
        return compute(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "batch_norm", counted)
        wanted = result(model)
        plain = len(kept)
        kept.clear()
        torch.testing.assert_close(result(model, folding), wanted, rtol=1e-4, atol=1e-4)
    assert plain - len(kept) == count
    assert_untouched(model)


def assert_untouched(model: nn.Module) -> None:
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "pairs", "worthwhile"),
    [
        ("resnet8", 9, 9),
        # Norms come first here: those of sums stay, and that of the first convolution, which the shortcut takes too.
        ("wrn_16_1", 6, 6),
        # Small maps of many channels: other weights would take longer than the norms.
        ("vgg8", 5, 3),
        ("mobilenetv2_half", 53, 35),
        ("shufflenetv1", 49, 49),
        ("torchvision:resnet18", 20, 6),
        ("timm:vit_tiny_patch16_224(img_size=32, patch_size=8, depth=1, embed_dim=12, num_heads=2)", 0, 0),
    ],
)
def test_networks_give_the_same(name: str, pairs: int, worthwhile: int) -> None:
    torch.manual_seed(0)
    model = settled(build(name, 5))
    folding = found(model)
    assert len(folding.pairs) == pairs
    assert_folded(model, folding, worthwhile)


class Odd(nn.Module):
    """A convolution whose values are taken in several ways."""

    def __init__(self, convolution: nn.Module, norm: nn.Module, how: str = "plain") -> None:
        super().__init__()
        self.convolution, self.norm, self.how = convolution, norm, how
        self.dropout, self.scale = nn.Dropout2d(0.5), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        values = self.convolution(x)
        match self.how:
            case "plain":
                return self.norm(values).relu()
            case "by name":
                return self.norm(input=self.convolution(input=x)).relu() if x is not None else values
            case "twice":
                return self.norm(values) + values
            case "hardly":
                return self.norm(values) + self.scale * values
            case "changed before":
                return self.norm(values.clamp_(-1e6, 1e6))
            case "changed between":
                return self.norm(values * 2)
            case "changed afterwards":
                self.norm(values)
                return values.relu_()
            case "norm twice":
                return self.norm(self.norm(values))
            case "norm elsewhere":
                return self.norm(values) + self.norm(x)
            case "dropped":
                return self.norm(self.dropout(values)).relu()
            case _:
                return self.norm(values + self.convolution(x.flip(3)))


def plain_convolution(**kwargs: Any) -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1, **kwargs)


@pytest.mark.parametrize(
    "how",
    [
        "twice",
        "hardly",
        "changed before",
        "changed between",
        "changed afterwards",
        "norm twice",
        "norm elsewhere",
        "convolution twice",
    ],
)
def test_what_is_taken_otherwise_stays(how: str) -> None:
    # Norms that have learned nothing change nothing: no values could tell.
    model = Odd(plain_convolution(), nn.BatchNorm2d(3), how).eval()
    assert not found(model).pairs
    assert_untouched(model)


def reflecting() -> nn.Module:
    return plain_convolution(padding_mode="reflect")


def parametrised() -> nn.Module:
    return parametrizations.weight_norm(plain_convolution())


def watched() -> nn.Module:
    convolution = plain_convolution()
    convolution.register_forward_hook(lambda *_: None)
    return convolution


def compiled() -> nn.Module:
    convolution = plain_convolution()
    convolution.compile(backend="eager")
    return convolution


@pytest.mark.parametrize("make", [reflecting, parametrised, watched, compiled])
def test_convolutions_of_another_kind_stay(make: Callable[[], nn.Module]) -> None:
    assert not found(Odd(make(), nn.BatchNorm2d(3)).eval()).pairs


class Own(nn.BatchNorm2d):
    """A norm of another kind."""


def watched_norm() -> nn.Module:
    norm = nn.BatchNorm2d(3)
    norm.register_forward_hook(lambda *_: None)
    return norm


@pytest.mark.parametrize("norm", [Own(3), nn.GroupNorm(1, 3), watched_norm()])
def test_norms_of_another_kind_stay(norm: nn.Module) -> None:
    assert not found(Odd(plain_convolution(), norm).eval()).pairs


def test_norms_without_statistics_stay() -> None:
    model = Odd(plain_convolution(), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    assert_folded(model, found(model), 0)


def test_a_network_that_cannot_be_watched_runs_as_it_is() -> None:
    model = Odd(plain_convolution(), nn.BatchNorm2d(3)).eval()

    def fail() -> None:
        raise TypeError

    assert not Folding.found(model, fail, 64).pairs
    assert found(model).pairs


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_norms_without_factors_and_convolutions_with_bias(affine: bool, bias: bool) -> None:
    model = settled(Odd(plain_convolution(bias=bias), nn.BatchNorm2d(3, affine=affine))).double()
    folding = found(model)
    assert_folded(model, folding, 1)
    assert_near(result(model, folding), result(model))


def load_others(model: Odd) -> None:
    model.load_state_dict({key: value + 1 for key, value in model.state_dict().items()})


def train(model: Odd) -> None:
    model.norm.train()


def watch(model: Odd) -> None:
    model.convolution.register_forward_hook(lambda *_: None)


def watch_norm(model: Odd) -> None:
    model.norm.register_forward_hook(lambda *_: None)


def halve(model: Odd) -> None:
    model.bfloat16()


@pytest.mark.parametrize(("change", "pairs"), [(load_others, 1), (train, 0), (watch, 0), (watch_norm, 0), (halve, 0)])
def test_what_changes_later_is_followed(change: Callable[[Odd], None], pairs: int) -> None:
    model = Odd(plain_convolution(), nn.BatchNorm2d(3))
    settled(model)
    folding = found(model)
    assert_folded(model, folding, 1)
    change(model)
    assert_folded(model, folding, pairs)


def exchange(model: Odd) -> None:
    model.norm = copy.deepcopy(model.norm)


def wrap(model: Odd) -> None:
    model.convolution = nn.Sequential(model.convolution)
    model.convolution.register_forward_hook(lambda _, __, output: output.relu())


def wrap_in_place(model: Odd) -> None:
    model.convolution = nn.Sequential(model.convolution)
    model.convolution.register_forward_hook(lambda _, __, output: output.relu_())


def run_twice(model: Odd) -> None:
    model.how = "convolution twice"


@pytest.mark.parametrize("change", [exchange, wrap, wrap_in_place, run_twice])
def test_a_network_that_runs_otherwise_is_not_believed(change: Callable[[Odd], None]) -> None:
    model = Odd(plain_convolution(), nn.BatchNorm2d(3))
    folding = found(settled(model))
    assert folding.pairs
    change(model)
    with pytest.raises(FoldingError):
        result(model, folding)
    assert_untouched(model)


def test_dropout_that_begins_to_drop_is_seen() -> None:
    model = Odd(plain_convolution(), nn.BatchNorm2d(3), "dropped")
    folding = found(settled(model))
    assert_folded(model, folding, 1)
    model.dropout.train()
    with pytest.raises(FoldingError):
        result(model, folding)


def test_modules_may_be_called_by_name() -> None:
    model = Odd(plain_convolution(), nn.BatchNorm2d(3), "by name").eval()
    assert not found(model).pairs
    model = nn.Sequential(plain_convolution(), nn.BatchNorm2d(3)).eval()
    folding = found(model)
    with torch.no_grad(), folding(len(IMAGES)):
        values = model[1](input=model[0](input=IMAGES))
    torch.testing.assert_close(values, result(model), rtol=1e-4, atol=1e-4)


def test_those_who_look_at_every_module_see_what_is_there() -> None:
    model = settled(Odd(plain_convolution(), nn.BatchNorm2d(3)))
    folding = found(model)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert_folded(model, folding, 0)
    finally:
        handle.remove()


def test_a_teacher_is_as_it_was_between_steps(small_pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = small_pair
    settled(teacher)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    distiller = Distiller(student, teacher, [AttentionTransfer(), SoftTargets()], example=IMAGES)
    assert len(distiller._both.teachers["teacher"]._folding.pairs) == 1
    plain = copy.deepcopy(distiller)
    plain._both.teachers["teacher"]._folding = Folding()
    labels = torch.arange(len(IMAGES)) % 5
    assert_near(distiller(IMAGES, labels).loss, plain(IMAGES, labels).loss)
    for model in (teacher, pickle.loads(pickle.dumps(teacher))):
        assert_untouched(model)
        torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_a_teacher_that_was_changed_runs_as_it_is(small_pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = small_pair
    settled(teacher)
    distiller = Distiller(student, teacher, [SoftTargets()], example=IMAGES)
    block = teacher.get_submodule("layer1.0")
    block.register_module("1", nn.BatchNorm2d(6).eval())
    logits = distiller(IMAGES, torch.arange(len(IMAGES)) % 5).teacher_logits
    torch.testing.assert_close(logits, result(teacher), rtol=0, atol=0)
    assert not distiller._both.teachers["teacher"]._folding.pairs


def test_an_error_on_the_way_leaves_nothing_behind() -> None:
    model = settled(build("resnet8", 5))
    folding = found(model)
    with pytest.raises(RuntimeError), folding(64):
        model(IMAGES[:, :2])
    assert_untouched(model)


@pytest.mark.parametrize("mode", ["train", "same noise"])
def test_teachers_that_do_not_rest_keep_their_norms(
    small_pair: tuple[nn.Module, nn.Module], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SoftTargets, "teacher_mode", mode)
    distiller = Distiller(*small_pair, [SoftTargets()], example=IMAGES)
    monkeypatch.setattr(SoftTargets, "teacher_mode", "eval")
    resting = Distiller(*small_pair, [SoftTargets()], example=IMAGES)
    assert not distiller._both.teachers["teacher"]._folding.pairs
    assert resting._both.teachers["teacher"]._folding.pairs
