"""Batch norms of a frozen network, folded into the convolutions before them."""

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Generator, Hashable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.capture.private_names import (
    DispatchMode,
    every_module_is_hooked,
    is_compiled,
    is_hooked,
    state_of,
    tensors_in,
)

# Below so many values, what is saved is not more than what it costs to compute other weights.
_LEAST_VALUES = 2**16
_VALUES_PER_WEIGHT = 2


class FoldingError(Exception):
    """A network that does not run as it did when it was looked at; its values are to be thrown away."""


@dataclass(frozen=True)
class Pair:
    """A convolution, and the batch norm that alone takes its values.

    Args:
        convolution: without a norm of its own.
        norm: with learned statistics.
        values: that the convolution gives for one image.
    """

    convolution: nn.Conv2d
    norm: nn.BatchNorm2d
    values: int

    def worthwhile(self, images: int) -> bool:
        """Whether folding can be done, and saves time for so many images."""
        weights = self.convolution.weight
        learned = self.norm.running_mean is not None and not self.norm.training
        exact = weights.dtype in (torch.float32, torch.float64)
        many = images * self.values > _LEAST_VALUES + _VALUES_PER_WEIGHT * weights.numel()
        return many and learned and exact and _plain(self.convolution) and _plain(self.norm)


class Folding:
    """Lets a network run faster with the same values, up to rounding.

    A batch norm that uses the statistics it has learned multiplies each channel by a number and adds another; the
    convolution before it can do both. That takes the time of batch norm off a forward pass, and puts there that of
    multiplying the weights, which is less for all but the smallest images and batches. The modules compute otherwise
    only while the network runs, and only in the thread that runs it; their tensors are never touched.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> image = torch.rand(64, 3, 32, 32)
        >>> folding = Folding.found(model, lambda: model(image), images=64)
        >>> with torch.no_grad(), folding(images=64):
        ...     folded = model(image)
        >>> len(folding.pairs), torch.allclose(folded, model(image), atol=1e-5)
        (1, True)

    Args:
        pairs: see `found`.
    """

    def __init__(self, pairs: Sequence[Pair] = ()) -> None:
        self.pairs = tuple(pairs)

    @classmethod
    def found(
        cls, model: nn.Module, run: Callable[[], object], images: int, read: Collection[nn.Module] = ()
    ) -> "Folding":
        """What can be folded in a network, seen by running it once: norms that alone take what a convolution gives.

        Args:
            model: in evaluation mode.
            run: the network, as far as it will be run.
            images: in that run.
            read: modules whose values are read; they stay as they are.
        """
        plain = [module for module in model.modules() if _plain(module) and module not in read]
        if len({type(module) for module in plain}) < 2:
            return cls()
        try:
            with _Watch(plain, images) as watch:
                run()
        except Exception:
            # Networks that cannot be watched run as they are; what is wrong with one shows where it runs in earnest.
            return cls()
        return cls(watch.pairs())

    @contextmanager
    def __call__(self, images: int) -> Generator[None]:
        """Inside, the network runs folded, wherever that saves time.

        Args:
            images: that it will be given.

        Raises:
            FoldingError: at the end, or on the way, if the network does not run as it did: modules were exchanged, or
                something else takes the values now. It must then be run again without folding.
        """
        # What looks at every module may look at what lies between two of a pair.
        pairs = () if every_module_is_hooked() else [_Folded(pair) for pair in self.pairs if pair.worthwhile(images)]
        with ExitStack() as stack:
            for pair in pairs:
                pair.enter(stack)
            yield
            if any(pair.waiting for pair in pairs):
                raise FoldingError("a batch norm was not run")


class _Folded:
    """A pair while it is folded; what the convolution gives must reach the norm as it is."""

    def __init__(self, pair: Pair) -> None:
        self._convolution, self._norm = pair.convolution, pair.norm
        self._thread = threading.get_ident()
        self._output: Tensor | None = None
        self._state: Hashable = 0

    @property
    def waiting(self) -> bool:
        return self._output is not None

    def enter(self, stack: ExitStack) -> None:
        for module, forward in ((self._convolution, self._convolve), (self._norm, self._pass_on)):
            vars(module)["forward"] = forward
            stack.callback(vars(module).pop, "forward")

    def _convolve(self, input: Tensor) -> Tensor:
        if threading.get_ident() != self._thread:
            return nn.Conv2d.forward(self._convolution, input)
        if self.waiting:
            raise FoldingError("a convolution was run twice before its batch norm")
        convolution, (scale, shift) = self._convolution, _affine(self._norm)
        if convolution.bias is not None:
            shift = shift + convolution.bias * scale
        self._output = functional.conv2d(
            input,
            convolution.weight * scale[:, None, None, None],
            shift,
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.groups,
        )
        self._state = state_of(self._output)
        return self._output

    def _pass_on(self, input: Tensor) -> Tensor:
        if threading.get_ident() != self._thread:
            return nn.BatchNorm2d.forward(self._norm, input)
        if input is not self._output or state_of(input) != self._state:
            raise FoldingError("a batch norm was given something else than its convolution's values")
        self._output = None
        return input


class _Watch(DispatchMode):
    """Sees every operation of a network that takes what a plain convolution gives."""

    def __init__(self, plain: Sequence[nn.Module], images: int) -> None:
        super().__init__()
        self._images, self._plain = images, plain
        self._made: dict[int, tuple[nn.Conv2d, weakref.ref[Tensor]]] = {}
        self._takers: dict[nn.Conv2d, list[nn.Module | None]] = {}
        self._values: dict[nn.Conv2d, int] = {}
        self._runs: Counter[nn.Module] = Counter()
        self._inside: nn.BatchNorm2d | None = None
        self._hooks = ExitStack()

    def __enter__(self) -> "_Watch":
        for module in self._plain:
            if isinstance(module, nn.Conv2d):
                self._hooks.callback(module.register_forward_hook(self._after_convolution).remove)
            else:
                self._hooks.callback(module.register_forward_pre_hook(self._before_norm).remove)
                self._hooks.callback(module.register_forward_hook(self._after_norm).remove)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hooks.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tensors_in((args, kwargs)):
            convolution, made = self._made.get(id(value), (None, None))
            # Another tensor may have the number of one that is gone.
            if convolution is not None and made is not None and made() is value:
                self._takers[convolution].append(self._inside)
        return func(*args, **(kwargs or {}))

    def pairs(self) -> list[Pair]:
        """Convolutions that were run once, each with the norm that was run once and alone took what it gave."""
        return [
            Pair(convolution, norm, self._values[convolution])
            for convolution, takers in self._takers.items()
            for norm in set(takers)
            if isinstance(norm, nn.BatchNorm2d) and set(takers) == {norm}
            if self._runs[convolution] == self._runs[norm] == 1
        ]

    def _after_convolution(self, convolution: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(convolution, nn.Conv2d)
        self._made[id(output)] = (convolution, weakref.ref(output))
        self._takers[convolution], self._values[convolution] = [], output.numel() // self._images
        self._runs[convolution] += 1

    def _before_norm(self, norm: nn.Module, _: object) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        self._inside = norm
        self._runs[norm] += 1

    def _after_norm(self, *_: object) -> None:
        self._inside = None


def _plain(module: nn.Module) -> bool:
    """Whether a module computes what its type says, is not compiled, and nobody looks at what it takes or gives."""
    if type(module) not in (nn.Conv2d, nn.BatchNorm2d) or "forward" in vars(module):
        return False
    if is_compiled(module) or is_hooked(module, before=False):
        return False
    return module.padding_mode == "zeros" if isinstance(module, nn.Conv2d) else not is_hooked(module, before=True)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What it multiplies each channel by, and what it adds."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = cast("Tensor | None", norm.weight), cast("Tensor | None", norm.bias)
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if weight is None else scale * weight
    shift = -norm.running_mean * scale
    return scale, shift if bias is None else shift + bias
