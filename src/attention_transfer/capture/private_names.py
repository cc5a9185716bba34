"""Names that torch promises to nobody: all that are used are here, each with what is done where a version lacks it."""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch.utils._python_dispatch import TorchDispatchMode

    DispatchMode = TorchDispatchMode
else:
    try:
        from torch.utils._python_dispatch import TorchDispatchMode as DispatchMode
    except ImportError:

        class DispatchMode:
            """In place of what sees every operation that runs."""

            def __enter__(self) -> None:
                raise NotImplementedError(f"torch {torch.__version__} does not show which operations run")

            def __exit__(self, *error: object) -> None:
                """Nothing was entered."""


Move = Callable[[Tensor], Tensor]

ask_number: Callable[[], int] | None = getattr(torch._C, "_current_graph_task_id", None)  # pyright: ignore[reportPrivateUsage]
"""Tells the number of the backward pass that a thread is in, -1 outside; see `backward_pass`."""

ask_end: Callable[[Callable[[], object]], None] | None = getattr(
    getattr(torch.autograd.Variable, "_execution_engine", None), "queue_callback", None
)
"""Has a function called when the backward pass ends that a thread is in; see `backward_pass`."""

HOOK_TABLES = ("_forward_pre_hooks", "_forward_hooks")
"""Where a module keeps the hooks that run before and after it; see `attached`."""


def state_of(tensor: Tensor) -> Hashable:
    """Something that differs after a tensor was written into."""
    if tensor.is_inference():
        # Those of inference mode do not count their changes.
        return 0
    number = getattr(tensor, "_version", None)
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if number is None else number


def is_hooked(module: nn.Module, *, before: bool) -> bool:
    """Whether hooks of its own run before a module, or after it."""
    table = getattr(module, HOOK_TABLES[0 if before else 1], None)
    if table is None:
        handle = (module.register_forward_pre_hook if before else module.register_forward_hook)(_nothing)
        table = handle.hooks_dict_ref()
        handle.remove()
    return bool(table)


def _tables_of_all_modules() -> tuple[Any, ...]:
    """Torch's own dictionaries of the hooks that watch every module, which live as long as it does."""
    registrations: Iterable[Callable[[Any], Any]] = (
        modules.register_module_forward_pre_hook,
        modules.register_module_forward_hook,
        modules.register_module_full_backward_pre_hook,
        modules.register_module_full_backward_hook,
    )
    handles = [register(_nothing) for register in registrations]
    tables = tuple(handle.hooks_dict_ref() for handle in handles)
    for handle in handles:
        handle.remove()
    return tables


def _nothing(*_: object) -> None:
    """Watches nothing."""


_OF_ALL_MODULES = _tables_of_all_modules()


def every_module_is_hooked() -> bool:
    """Whether some hook watches every module that runs."""
    return any(_OF_ALL_MODULES)


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is another one compiled, or was compiled in place."""
    return is_another_compiled(module) or getattr(module, "_compiled_call_impl", None) is not None


def is_another_compiled(module: nn.Module) -> bool:
    """Whether a module is what `torch.compile` gave for another one."""
    return hasattr(module, "_orig_mod")


def left_out(module: nn.Module, names: Collection[str]) -> bool:
    """Whether parameters and buffers of a module were left to each process by itself when it is wrapped for several.

    Where they cannot be, find_unused_parameters=True does without the parameters, and equal buffers stay equal.
    """
    leave_out = getattr(DistributedDataParallel, "_set_params_and_buffers_to_ignore_for_model", None)
    if leave_out is None:
        return False
    leave_out(module, tuple(names))
    return True


class TakesAlong(nn.Module):
    """A module that says what goes with it to another device, type or memory format.

    Raises:
        NotImplementedError: when it is made, where this version of torch would not ask it.
    """

    def __init__(self) -> None:
        super().__init__()
        if not modules_are_asked():
            raise NotImplementedError(f"torch {torch.__version__} does not tell a module that it is moved")

    def taken_along(self) -> Iterable[tuple[nn.Module, Callable[[Move], Move]]]:
        """Modules that go along, its own included, each with what becomes of the move for it."""
        raise NotImplementedError

    def _apply(self, fn: Move, recurse: bool = True) -> Self:
        for module, adapted in self.taken_along():
            module._apply(adapted(fn), recurse)
        return self


def modules_are_asked() -> bool:
    """Whether torch moves modules by the method that `TakesAlong` overrides."""

    class Asked(nn.Module):
        asked = False

        def _apply(self, fn: Move, recurse: bool = True) -> Self:
            self.asked = True
            return self

    return Asked().float().asked


def tensors_in(value: object) -> Iterator[Tensor]:
    """Tensors in nested tuples, lists and dictionaries, as operations of torch take and give them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in cast("Mapping[Any, object]", value).values():
            yield from tensors_in(each)
    elif isinstance(value, tuple | list):
        for each in cast("Sequence[object]", value):
            yield from tensors_in(each)
