"""Functions that a compiler leaves as they are, at no cost to those who compile nothing."""

import sys
from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, cast

import torch

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
