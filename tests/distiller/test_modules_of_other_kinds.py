"""Modules that cannot be looked into serve where only their outputs are read; else they are refused with the reason."""

import copy
import re
from collections.abc import Callable

import pytest
import torch
from tests.conftest import SmallNet
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations

from attention_transfer import AttentionTransfer, Distiller, GradientAttention, SoftTargets

EXAMPLE = torch.empty(2, 3, 16, 16)
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(4)
# Torch warns that its older ways of recording networks will go.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore:.*torch.jit:FutureWarning",
    "ignore:.*torch.jit:UserWarning",
    "ignore::torch.jit.TracerWarning",
    # Its compiler asks itself for that.
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)
Make = Callable[[nn.Module], nn.Module]


class Wrapped(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def small(width: int = 6, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    network = SmallNet(width)
    for _ in range(3):
        network(2 * torch.randn(8, 3, 16, 16) + 1)
    return network


def scripted(network: nn.Module) -> nn.Module:
    return torch.jit.script(network)


def traced(network: nn.Module) -> nn.Module:
    return torch.jit.trace(network.eval(), IMAGES)


def frozen(network: nn.Module) -> nn.Module:
    return torch.jit.freeze(torch.jit.script(network.eval()))


def exported(network: nn.Module) -> nn.Module:
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    return torch.export.export(network.eval(), (IMAGES,), dynamic_shapes=(batch,)).module()


def recorded(network: nn.Module) -> nn.Module:
    return fx.symbolic_trace(network.eval())


def compiled(network: nn.Module) -> nn.Module:
    return torch.compile(network, backend="eager")


def compiled_in_place(network: nn.Module) -> nn.Module:
    network.compile(backend="eager")
    return network


def parallel(network: nn.Module) -> nn.Module:
    return nn.DataParallel(network)


def wrapped(make: Make) -> Make:
    def wrap(network: nn.Module) -> nn.Module:
        return Wrapped(make(network))

    wrap.__name__ = f"wrapped_{make.__name__}"
    return wrap


KINDS: dict[Make, str] = {
    scripted: "runs no hooks: give the module that it was made from",
    traced: "runs no hooks: give the module that it was made from",
    exported: "exported graph, .*: give the network that it was made from",
    recorded: "recorded graph .*: give the network that it was made from",
    compiled: "compile the distiller instead",
    compiled_in_place: "compile the distiller instead",
    parallel: "wrap the distiller instead",
}


@pytest.mark.parametrize("make", [*KINDS, frozen, wrapped(scripted), wrapped(exported)], ids=lambda make: make.__name__)
def test_a_teacher_of_any_kind_is_read_for_its_logits(make: Make) -> None:
    wanted = small().eval()(IMAGES)
    teacher = make(small())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    distiller = Distiller(small(4, 0), teacher, [SoftTargets()], example=EXAMPLE).train()
    for _ in range(2):
        out = distiller(IMAGES, LABELS)
        out.loss.backward()
        assert out.teacher_logits is not None
        torch.testing.assert_close(out.teacher_logits, wanted, rtol=1e-4, atol=1e-5)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    distiller.eval()
    distiller.detach()


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_student_of_any_kind_learns_from_logits(make: Make) -> None:
    student = make(small(4, 0))
    distiller = Distiller(student, small(), [SoftTargets()], example=EXAMPLE).train()
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
    losses: list[float] = []
    for _ in range(4):
        out = distiller(IMAGES, LABELS)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize(("make", "reason"), KINDS.items(), ids=[make.__name__ for make in KINDS])
def test_what_would_look_inside_is_refused_with_the_reason(make: Make, reason: str, role: str) -> None:
    networks = {"student": small(4, 0), "teacher": small()}
    networks[role] = make(networks[role])
    for method in (
        AttentionTransfer(),
        AttentionTransfer(student_layers=("layer1",), teacher_layers=("layer1",)),
    ):
        with pytest.raises(ValueError, match=reason):
            Distiller(networks["student"], networks["teacher"], [method], example=EXAMPLE)
        assert all(p.requires_grad for p in networks["teacher"].parameters())


@pytest.mark.parametrize("make", [traced, exported], ids=lambda make: make.__name__)
def test_a_teacher_that_was_recorded_in_training_mode_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Drops(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 196, 5))

    for network in (small(), Drops()):
        monkeypatch.setattr(type(network), "eval", lambda self: self)
        teacher = make(network.train()) if make is exported else torch.jit.trace(network, IMAGES, check_trace=False)
        with pytest.raises(ValueError, match=r"recorded in training mode.*call eval\(\)"):
            Distiller(small(4, 0), teacher, [SoftTargets()], example=EXAMPLE)


def test_beside_a_compiled_part_everything_else_is_read() -> None:
    method = AttentionTransfer(student_layers=("layer2",), teacher_layers=("layer2",))
    wanted = Distiller(small(4, 0), small(), [method], example=EXAMPLE)(IMAGES, LABELS)
    for how in (compiled, compiled_in_place):
        student = small(4, 0)
        student.layer1 = how(student.get_submodule("layer1"))
        found = Distiller(student, small(), [method], example=EXAMPLE)(IMAGES, LABELS)
        torch.testing.assert_close(found.loss, wanted.loss)
        inside = AttentionTransfer(student_layers=("layer1.0",), teacher_layers=("layer1",))
        with pytest.raises(ValueError, match=r"module 'layer1' is compiled|no module"):
            Distiller(student, small(), [inside], example=EXAMPLE)


def test_the_output_of_a_compiled_part_is_read() -> None:
    method = AttentionTransfer(student_layers=("layer1",), teacher_layers=("layer1",))
    wanted = Distiller(small(4, 0), small(), [method], example=EXAMPLE)(IMAGES, LABELS)
    student = small(4, 0)
    student.layer1 = compiled(student.get_submodule("layer1"))
    found = Distiller(student, small(), [method], example=EXAMPLE)(IMAGES, LABELS)
    torch.testing.assert_close(found.loss, wanted.loss)


def test_a_compiled_student_is_not_differentiated_twice() -> None:
    for how in (compiled, compiled_in_place):
        with pytest.raises(ValueError, match=re.escape("as it was before torch.compile")):
            Distiller(how(small(4, 0)), small(), [GradientAttention()], example=EXAMPLE)
        Distiller(small(4, 0), how(small()), [GradientAttention()], example=EXAMPLE)(IMAGES, LABELS).loss.backward()


def parametrised(network: nn.Module, how: Callable[..., nn.Module]) -> nn.Module:
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d):
            how(module)
    return network


@pytest.mark.parametrize("how", [parametrizations.spectral_norm, parametrizations.weight_norm])
def test_parametrised_networks_teach_and_learn(how: Callable[..., nn.Module]) -> None:
    teacher = parametrised(small(), how)
    wanted = copy.deepcopy(teacher).eval()(IMAGES)
    distiller = Distiller(
        parametrised(small(4, 0), how), teacher, [AttentionTransfer(), SoftTargets()], example=EXAMPLE
    )
    before = copy.deepcopy(teacher.state_dict())
    for _ in range(2):
        out = distiller.train()(IMAGES, LABELS)
        out.loss.backward()
    torch.testing.assert_close(out.teacher_logits, wanted, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_student_may_be_scripted_and_exported_while_it_is_read() -> None:
    student = small(4, 0)
    distiller = Distiller(student, small(), [AttentionTransfer(), SoftTargets()], example=EXAMPLE)
    distiller(IMAGES, LABELS).loss.backward()
    student.eval()
    for make in (torch.jit.script, exported):
        torch.testing.assert_close(make(copy.deepcopy(student))(IMAGES), student(IMAGES), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.jit.script(student)(IMAGES), student(IMAGES), rtol=1e-4, atol=1e-5)
    distiller.train()(IMAGES, LABELS)
