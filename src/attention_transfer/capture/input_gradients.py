"""How the loss of each image changes with its pixels.

>>> import torch
>>> from torch import nn
>>> image = torch.rand(1, 3, 2, 2, requires_grad=True)
>>> logits = nn.Linear(12, 4)(image.flatten(1))
>>> input_gradient(logits, image, torch.tensor([0]), twice=False).shape
torch.Size([1, 3, 2, 2])
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from attention_transfer.capture.reading import Provider, Reading, ReadNetwork
from attention_transfer.capture.tap import CaptureError, Tap
from attention_transfer.errors import InputError


@dataclass(frozen=True)
class InputGradient(Provider[Tensor]):
    """The gradient of each image's cross-entropy with respect to the image, as the student receives it, (b, c, h, w).

    The network is differentiated inside the step, a student so that it can be differentiated once more. The batch
    needs labels: ask for them, too.

    Example:
        >>> InputGradient().title, InputGradient(mirrored=True).title
        ('gradient of the image', 'gradient of the mirrored image')

    Args:
        mirrored: that of the image mirrored from left to right, mirrored back.
    """

    mirrored: bool = False

    @property
    def title(self) -> str:
        """What it is, for tables."""
        return f"gradient of the {'mirrored ' if self.mirrored else ''}image"

    def bound(self, network: ReadNetwork, taps: Sequence[Tap]) -> Callable[[Reading], Tensor]:
        """Find the gradient among what was computed while the network ran."""
        del network, taps
        return self._read

    def _read(self, reading: Reading) -> Tensor:
        if self not in reading.computed:
            raise InputError(
                f"the {self.title} is read, and this batch has no labels: give them, and let the method ask for them, "
                "Needs(labels=True)"
            )
        return reading.computed[self]


def input_gradient(
    logits: Float[Tensor, "b k"],
    image: Float[Tensor, "b c h w"],
    label: Int64[Tensor, " b"] | Float[Tensor, "b k"],
    *,
    twice: bool,
) -> Float[Tensor, "b c h w"]:
    """The gradient of each image's own cross-entropy with respect to its pixels.

    J of section 3.2, Zagoruyko & Komodakis (ICLR 2017, arXiv:1612.03928).

    Args:
        logits: computed from `image`; their graph is kept.
        image: requires a gradient.
        label: class indices or class probabilities.
        twice: whether the result must itself be differentiable.

    Departs from the paper: the cross-entropy is summed over the batch, so that J does not shrink with its size. Batch
    normalisation with statistics of the batch still lets images of one batch act on each other's gradient.
    """
    # As in a training step, only the forward pass is cast.
    with torch.autocast(image.device.type, enabled=False):
        wide = logits if logits.dtype == torch.float64 else logits.float()
        loss = functional.cross_entropy(wide, label, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, image, create_graph=twice, retain_graph=True)
    return gradient


@contextmanager
def no_recomputation(role: str) -> Generator[None]:
    """Nothing inside may run a module: what is differentiated must be what ran, by the kernels that it ran with.

    Raises:
        CaptureError: where a module runs again, as under gradient checkpointing.
    """

    def refuse(module: nn.Module, args: Any) -> None:
        raise CaptureError(
            f"the {role} is checkpointed: {type(module).__name__} runs again while it is differentiated, by kernels "
            "that may have no second derivative; switch gradient checkpointing off for gradient attention"
        )

    handle = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def twice_differentiable() -> Generator[None]:
    """Inside, what torch computes by kernels without a second derivative is computed by equal ones that have one.

    Fused attention, and the hard sigmoid (of MobileNetV3). The choice of attention's kernel is torch's own, for all
    threads of the process.
    """
    with sdpa_kernel(SDPBackend.MATH), _SmoothKernels():
        yield


def can_be_differentiated(value: Tensor) -> bool:
    """Whether nothing in the graph of a value was declared to have no further derivative.

    Such an end has no way on, so that asking for gradients behind it finds none, silently.
    """
    seen, waiting = set[Any](), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().rpartition("::")[2] in ("Error", "DelayedError", "NotImplemented"):
            return False
        waiting += [following for following, _ in node.next_functions]
    return True


class _SmoothKernels(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is functional.hardsigmoid:
            return functional.relu6((args[0] if args else (kwargs or {})["input"]) + 3) / 6
        return func(*args, **(kwargs or {}))
