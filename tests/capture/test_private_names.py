"""Without torch's private names everything works as with them, or says that it does not."""

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attention_transfer.capture import batch_norm_folding, private_names
from attention_transfer.capture.batch_norm_folding import Folding


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
