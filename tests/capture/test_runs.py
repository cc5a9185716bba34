"""Modules that run several times in one forward pass, and torch without its private names."""

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from tests.known import compiled_whole
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from attention_transfer import AttentionTransfer, DistillationWarning, Distiller
from attention_transfer.capture import Capture, CaptureError, Tap, batch_norm_folding, private_names
from attention_transfer.capture.batch_norm_folding import Folding
from attention_transfer.models import describe


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def read(model: nn.Module, tap: Tap, *, until_last_tap: bool = False) -> Tensor:
    capture = Capture(model, [tap], "student")
    proved = capture.probe(image(), gradient=True).values[tap]
    found = capture.run(image(), until_last_tap=until_last_tap).values[tap]
    torch.testing.assert_close(found, proved)
    capture.close()
    return found.detach()


class Twice(nn.Module):
    """One activation after both convolutions."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU(inplace)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.conv2(self.act(self.conv1(x)))).mean((2, 3)))


@pytest.mark.parametrize("site", ["output", "input"])
def test_a_module_that_runs_twice_is_refused_with_what_to_name_instead(site: str) -> None:
    tap = Tap("act", site)  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        CaptureError, match=r"act of the student runs 2 times .*'act#1' to 'act#2'.*that runs once, such as 'conv1'"
    ):
        Capture(Twice(), [tap], "student").probe(image(), gradient=True)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("until_last_tap", [False, True])
def test_a_run_that_is_named_is_the_one_that_is_read(inplace: bool, until_last_tap: bool) -> None:
    model = Twice(inplace)
    first = model.conv1(image())
    second = model.conv2(first.relu())
    for name, expected in (("act#1", first), ("act#2", second)):
        found = read(model, Tap("", "input").at(name), until_last_tap=until_last_tap)
        torch.testing.assert_close(found, expected.detach())
    torch.testing.assert_close(read(Twice(), Tap("").at("conv1"))[0, 0].shape, torch.Size([8, 8]))


def test_a_run_that_there_is_not_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"act of the student runs 2 times .* no 'act#3'"):
        Capture(Twice(), [Tap("").at("act#3")], "student").probe(image(), gradient=True)


class Block(nn.Module):
    """As torchvision writes them: one ReLU for both convolutions."""

    def __init__(self, relu: nn.Module) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu = relu
        self.downsample = None

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv2(self.relu(self.conv1(x))) + x)


class Shared(nn.Module):
    """A network with one ReLU for all of its layers."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layer1 = nn.Sequential(self.stem.__class__(4, 4, 3, padding=1), relu)
        self.layer2 = nn.Sequential(nn.Conv2d(4, 4, 3, 2, padding=1), relu, nn.Conv2d(4, 4, 3, padding=1), relu)
        self.fc = nn.Linear(4, 5)
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.stem(x))
        x = checkpoint(self.layer2, x, use_reentrant=False) if self.checkpointed else self.layer2(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_an_activation_that_serves_the_whole_network_is_read_in_its_own_stage(checkpointed: bool) -> None:
    torch.manual_seed(0)
    model = Shared(checkpointed)
    first = model.layer1[0](model.stem(image()))
    second = model.layer2[2](model.layer2[0](first.relu()).relu())
    stages = describe(model).stages
    assert len(stages) == 2
    for until_last_tap in (False, True):
        for stage, expected in zip(stages, (first, second), strict=True):
            assert stage.pre_activation is not None
            assert stage.pre_activation.site == "input"
            found = read(model, stage.pre_activation, until_last_tap=until_last_tap)
            torch.testing.assert_close(found, expected.detach())
            torch.testing.assert_close(read(model, stage.output), expected.relu().detach())


def test_an_activation_that_serves_all_blocks_is_read_in_its_own_block(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is known about blocks holds for the libraries that they are from.
    monkeypatch.setattr(Block, "__module__", "torchvision.models.resnet")
    torch.manual_seed(0)
    relu = nn.ReLU()
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 4, 3))
    for number in (1, 2):
        model.add_module(f"layer{number}", nn.Sequential(Block(relu), Block(relu)))
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(4, 5))
    x = model[0](image())
    for stage, layer in zip(describe(model).stages, (model[1], model[2]), strict=True):
        x = layer[0](x)
        before = layer[1].conv2(layer[1].conv1(x).relu()) + x
        x = before.relu()
        assert stage.pre_activation is not None
        torch.testing.assert_close(read(model, stage.pre_activation), before.detach())


class Siamese(nn.Module):
    """Looks at each image and at its mirror image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        both = [self.layer2(self.layer1(each)).mean((2, 3)) for each in (x, x.flip(3))]
        return self.fc(both[0] + both[1])


def test_branches_of_one_backbone_are_told_apart() -> None:
    student, teacher = Siamese(), Siamese()
    with pytest.raises(CaptureError, match=r"layer1 of the teacher runs 2 times .*'layer1#1' to 'layer1#2'"):
        Distiller(student, teacher, [AttentionTransfer()], example=image())
    layers = ("layer1#1", "layer2#2")
    distiller = Distiller(
        student, teacher, [AttentionTransfer(student_layers=layers, teacher_layers=layers)], example=image()
    )
    out = distiller(image(), torch.tensor([0, 1]))
    maps = [[m.layer1(image()), m.layer2(m.layer1(image().flip(3)))] for m in (student, teacher)]
    expected = torch.zeros(())
    for ours, theirs in zip(*maps, strict=True):
        unit = [nn.functional.normalize(each.square().mean(1).flatten(1)) for each in (ours, theirs)]
        expected = expected + (unit[0] - unit[1]).square().mean()
    torch.testing.assert_close(out.terms["at"].value, expected)


class Repeated(nn.Module):
    """A vision transformer with one block that runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)] * 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean(1))


def test_a_block_that_is_repeated_is_refused_and_its_runs_can_be_named() -> None:
    torch.manual_seed(0)
    model = Repeated()
    with pytest.raises(CaptureError, match=r"blocks\.0 of the student runs 3 times"):
        Capture(model, [Tap("blocks.0")], "student").probe(image(), gradient=True)
    model.eval()
    x = model.patches(image()).flatten(2).mT
    twice = model.blocks[0](model.blocks[0](x))
    torch.testing.assert_close(read(model, Tap("", layout="tokens").at("blocks.0#2")), twice.detach())


@compiled_whole
def test_named_runs_are_read_the_same_when_compiled() -> None:
    torch.manual_seed(0)
    student, teacher = Shared(), Siamese()
    method = AttentionTransfer(
        activation="pre", student_layers=("layer2.1#2", "layer2.1#3"), teacher_layers=("layer1.1#1", "layer2.1#2")
    )
    stages = AttentionTransfer(activation="pre", weight=1.0)
    distiller = Distiller(student, Shared(), [stages], example=image())
    with pytest.warns(DistillationWarning, match="the student is larger"):
        named = Distiller(student, teacher, [method], example=image())
    for each in (distiller, named):
        compiled = torch.compile(each, fullgraph=True, backend="eager")
        plain, found = each(image(), torch.tensor([0, 1])), compiled(image(), torch.tensor([0, 1]))
        for name, term in plain.terms.items():
            torch.testing.assert_close(found.terms[name].value, term.value)


# ---------------- without torch's private names everything works as with them, or says that it does not


def again() -> ModuleType:
    """The file of private names, imported once more."""
    spec = importlib.util.spec_from_file_location("private_names_again", private_names.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Uncounted(Tensor):
    """A tensor of a torch that does not count what is written."""

    @property
    def _version(self) -> int:
        raise AttributeError


@pytest.mark.parametrize("kind", [Tensor, Uncounted])
def test_a_tensor_that_was_written_into_is_known(kind: type[Tensor]) -> None:
    tensor = torch.arange(6.0).view(2, 3).mT.as_subclass(kind)
    before = private_names.state_of(tensor)
    assert private_names.state_of(tensor) == before
    tensor[0, 0] = 7
    assert private_names.state_of(tensor) != before
    with torch.inference_mode():
        assert private_names.state_of(torch.ones(2)) == 0


@pytest.mark.parametrize("tables", [private_names.HOOK_TABLES, ("_unknown", "_unknown")])
def test_hooks_of_a_module_are_seen(monkeypatch: pytest.MonkeyPatch, tables: tuple[str, str]) -> None:
    monkeypatch.setattr(private_names, "HOOK_TABLES", tables)
    module = nn.Linear(2, 2)
    for before, register in ((True, module.register_forward_pre_hook), (False, module.register_forward_hook)):
        assert not private_names.is_hooked(module, before=before)
        handle = register(lambda *_: None)
        assert private_names.is_hooked(module, before=before)
        assert not private_names.is_hooked(module, before=not before)
        handle.remove()
        assert not private_names.is_hooked(module, before=before)


@pytest.mark.parametrize(
    "register",
    [
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_forward_hook,
        lambda hook: nn.modules.module.register_module_forward_hook(hook, always_call=True),
        nn.modules.module.register_module_full_backward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
    ],
)
def test_hooks_of_all_modules_are_seen(register: Callable[..., torch.utils.hooks.RemovableHandle]) -> None:
    assert not private_names.every_module_is_hooked()
    handle = register(lambda *_: None)
    assert private_names.every_module_is_hooked()
    handle.remove()
    assert not private_names.every_module_is_hooked()


def test_compiled_modules_are_known() -> None:
    module = nn.Linear(2, 2)
    assert not private_names.is_compiled(module)
    assert private_names.is_compiled(torch.compile(module, backend="eager"))
    module.compile(backend="eager")
    assert private_names.is_compiled(module)


def test_without_sight_of_operations_nothing_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    images = torch.zeros(1, 3, 64, 64)
    assert Folding.found(network, lambda: network(images), 1).pairs
    monkeypatch.setitem(sys.modules, "torch.utils._python_dispatch", None)
    blind = again().DispatchMode
    with pytest.raises(NotImplementedError, match="does not show which operations run"):
        blind().__enter__()
    monkeypatch.setattr(batch_norm_folding._Watch, "__enter__", lambda _: blind().__enter__())
    assert not Folding.found(network, lambda: network(images), 1).pairs


def test_parameters_are_left_to_each_process_or_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(2, 2)
    assert private_names.left_out(module, ("bias",))
    monkeypatch.delattr(DistributedDataParallel, "_set_params_and_buffers_to_ignore_for_model")
    assert not private_names.left_out(module, ("bias",))


def test_a_torch_that_moves_modules_in_another_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Both(private_names.TakesAlong):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.others = nn.Linear(2, 2), (nn.Linear(2, 2),)

        def taken_along(self):
            yield self.own, lambda move: move
            yield self.others[0], lambda move: lambda value: move(value).float()

    moved = Both().double()
    assert (moved.own.weight.dtype, moved.others[0].weight.dtype) == (torch.float64, torch.float32)
    monkeypatch.setattr(nn.Module, "float", lambda module: module)
    with pytest.raises(NotImplementedError, match="does not tell a module that it is moved"):
        Both()


def test_tensors_are_found_in_whatever_holds_them() -> None:
    first, second, third = torch.zeros(1), torch.ones(1), nn.Parameter(torch.ones(2))
    held = (first, [None, 3, {"a": (second,)}], "text", (), third)
    assert [id(each) for each in private_names.tensors_in(held)] == [id(first), id(second), id(third)]
