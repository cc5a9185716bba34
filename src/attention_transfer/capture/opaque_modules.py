"""Modules that nothing inside can be read of: compiled, scripted, or run elsewhere; and calls left uncompiled.

>>> from torch import nn
>>> closed_in(nn.Linear(2, 2)), is_graph(nn.Linear(2, 2))
((None, None), False)
"""

import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import fx, nn
from torch.nn.parallel import DistributedDataParallel
from torch.torch_version import TorchVersion

from attention_transfer.capture.private_names import is_another_compiled, is_compiled

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
_COMPILER = "torch._dynamo"


def left_uncompiled(function: Callable[_Given, _Result], *, inside: bool = True) -> Callable[_Given, _Result]:
    """The function, which runs as it is written where the code that calls it is compiled.

    `torch.compiler.disable` loads the compiler where it decorates, which takes longer than loading everything else of
    this package. Here it is asked for once somebody else has loaded the compiler, as `torch.compile` does.

    Args:
        function: also a method, where it is defined.
        inside: whether what it calls is left as it is too.
    """
    disabled: Callable[_Given, _Result] | None = None

    @wraps(function)
    def left(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        nonlocal disabled
        # Not whether something is being compiled: what a compiler gave up must not be taken up again further inside.
        if disabled is None and _COMPILER in sys.modules:
            disabled = cast("Any", torch.compiler.disable(function, recursive=inside))
        return (disabled or function)(*args, **kwargs)

    # Compilers count by code how often they had to compile again, and give up: functions do not share that count.
    own = cast("FunctionType", left)
    own.__code__ = own.__code__.replace(co_name=own.__name__)
    return left


COMPILES_FROM = "2.10"
"""The first version of torch that compiles a distiller to what it computes.

Compilers before it cannot look up dataclasses, run `nn.MultiheadAttention` in one piece that nobody can look into, and
where they give up half-way, what a method puts in place of attention can get lost without a word.
"""

# Classes whose forward pass is left to run as it is written.
_LEFT: set[type[nn.Module]] = set()


def compiles() -> bool:
    """Whether the installed torch compiles a distiller; others run it as it is."""
    return TorchVersion(torch.__version__) >= TorchVersion(COMPILES_FROM)


def leave_uncompiled_where_it_must_be(kind: type[nn.Module]) -> None:
    """Let the forward pass of a class run as it is written inside of compiled code, where torch cannot compile it.

    Done when the first object is made and not where the class is defined, for `torch.compiler.disable` loads the
    compiler, which takes longer than the rest of this package.
    """
    if not compiles() and kind not in _LEFT:
        _LEFT.add(kind)
        kind.forward = torch.compiler.disable(kind.forward)  # pyright: ignore[reportAttributeAccessIssue]


# Named, not imported: loading it takes longer than loading this package.
_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def why_closed(module: nn.Module) -> str | None:
    """Why nothing inside of a module can be read or replaced, and what to do; None where it can.

    What a closed module takes and gives is as usable as that of any other.
    """
    if is_compiled(module):
        return "is compiled, and hooks in it would never fire: compile the distiller instead"
    if isinstance(module, torch.jit.ScriptModule):
        return "is scripted or traced (torch.jit), and runs no hooks: give the module that it was made from"
    if isinstance(module, fx.GraphModule) and not _calls_modules(module):
        return "is an exported graph, which calls none of its modules: give the network that it was made from"
    if isinstance(module, nn.DataParallel | DistributedDataParallel):
        return "is wrapped for several devices or processes: wrap the distiller instead"
    if any(kind.__name__ in _SHARDED for kind in type(module).__mro__):
        return "is sharded (FSDP), and its parameters are elsewhere: shard the distiller instead"
    return None


def is_graph(module: nn.Module) -> bool:
    """Whether a module runs a graph that was recorded: as it ran then, in the mode that it had then."""
    return isinstance(module, fx.GraphModule | torch.jit.ScriptModule)


def closed_around(model: nn.Module, path: str, *, within: bool = False) -> tuple[str, str] | None:
    """The outermost closed module that a place lies in, and why it is closed; None where there is none.

    Args:
        model: the network.
        path: dotted path in it, as far as it exists.
        within: whether what is read lies inside of that module; else it is what the module takes or gives, which a
            closed module can be asked for unless its own hooks never fire either.
    """
    module, above, names = model, "", path.split(".") if path else []
    for name in (*names, None):
        why = why_closed(module)
        if why is not None and (name is not None or within or _runs_no_hooks(module)):
            return above, why
        children = dict(module.named_children())
        if name not in children:
            return None
        module, above = children[name], f"{above}.{name}".lstrip(".")
    return None


def closed_in(model: nn.Module) -> tuple[str, str] | tuple[None, None]:
    """Path of the outermost closed module of a network, and why it is closed; nothing where there is none."""
    for path, module in model.named_modules():
        why = why_closed(module)
        if why is not None:
            return path, why
    return None, None


@contextmanager
def uncompiled(*models: nn.Module) -> Generator[None]:
    """Inside, networks run as they are written, those that are compiled included.

    Nothing is compiled only to look at it, and what runs can be differentiated several times.
    """
    compiled = any(is_compiled(module) for model in models for module in model.modules())
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield


@contextmanager
def apart(*models: nn.Module) -> Generator[None]:
    """Inside, networks that are wrapped for several processes do not wait for a backward pass of every run."""
    with ExitStack() as stack:
        for model in models:
            for module in model.modules():
                if isinstance(module, DistributedDataParallel):
                    stack.enter_context(module.no_sync())
        yield


def _calls_modules(graph: fx.GraphModule) -> bool:
    """Whether a graph calls modules that have parameters; those of an exported one hold them for others."""
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    return any(next(graph.get_submodule(target).parameters(), None) is not None for target in called)


def _runs_no_hooks(module: nn.Module) -> bool:
    return (is_compiled(module) and not is_another_compiled(module)) or isinstance(module, torch.jit.ScriptModule)
