"""Where a network computes attention: found by running it once and watching.

>>> import torch
>>> from torch import nn
>>> block = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, batch_first=True))
>>> [found.module for found in find_attention(block, torch.rand(1, 3, 4, 4), "network")]
['1.self_attn']
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attention_transfer.capture.hooks import SOFTMAXES, fused_call, open_multi_head_attention
from attention_transfer.capture.isolation import undisturbed
from attention_transfer.capture.opaque_modules import uncompiled, why_closed
from attention_transfer.capture.tap import CaptureError, Site, Tap


@dataclass(frozen=True)
class FoundAttention:
    """A place where a network computes attention.

    Args:
        module: path of the innermost module that the computation happened in.
        site: how it can be read there.
        shape: batch (times windows), heads, queries and keys.
        calls: how often it happened in one run of the network.
        around: shape of what the innermost module around that one takes that has four dimensions and one entry for
            each image; None where there is none.
    """

    module: str
    site: Site
    shape: tuple[int, int, int, int]
    calls: int = 1
    around: tuple[int, ...] | None = None

    @property
    def is_self_attention(self) -> bool:
        """Whether every token looks at every token."""
        return self.shape[2] == self.shape[3]


def find_attention(model: nn.Module, image: Float[Tensor, "b 3 h w"], role: str) -> tuple[FoundAttention, ...]:
    """Every place where a network computes attention, in the order in which they run.

    Seen are calls of torch's fused attention, those that `nn.MultiheadAttention` makes included, softmaxes over four
    dimensions, and maps of four dimensions whose rows sum to 1 where they enter a dropout.

    Args:
        model: left as it was.
        image: what it runs on, once, without gradient.
        role: `teacher` or `student`, for messages.

    Raises:
        CaptureError: if it cannot run on such images, or runs no hooks.
    """
    why = why_closed(model)
    if why is not None:
        raise CaptureError(f"no attention of the {role} can be read: it {why}")
    watch = _Watch(len(image))
    handles = [
        handle
        for path, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
        for handle in (
            module.register_forward_pre_hook(_Into(watch, path), prepend=True),
            module.register_forward_hook(watch.leave, always_call=True),
        )
    ]
    try:
        with uncompiled(model), undisturbed(model), torch.no_grad(), watch:
            model(image)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise CaptureError(
            f"the {role} cannot run on images of shape {tuple(image.shape)}, {image.dtype}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return tuple(
        FoundAttention(*place, shapes[0], len(shapes), watch.around[place]) for place, shapes in watch.found.items()
    )


@dataclass
class _Watch(TorchFunctionMode):
    images: int
    path: list[str] = field(default_factory=list[str])
    taken: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    around: dict[tuple[str, Site], tuple[int, ...] | None] = field(default_factory=dict[Any, Any])
    found: dict[tuple[str, Site], list[tuple[int, int, int, int]]] = field(default_factory=dict[Any, Any])

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            with self:
                return open_multi_head_attention(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            call = fused_call(*args, **kwargs, tap=Tap(""))
            assert call.query is not None
            if call.query.ndim == 4:
                self.see("attention", call.shape)
        result = func(*args, **kwargs)
        if func in SOFTMAXES and result.ndim == 4:
            self.see("softmax", result.shape)
        return result

    def see(self, site: Site, shape: tuple[int, ...]) -> None:
        batch, heads, queries, keys = shape
        place = (self.path[-1] if self.path else "", site)
        self.found.setdefault(place, []).append((batch, heads, queries, keys))
        # The place itself may take maps, which have four dimensions too.
        spatial = (each for each in reversed(self.taken[:-1]) if len(each) == 4 and each[0] == self.images)
        self.around.setdefault(place, next(spatial, None))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.path:
            self.path.pop()
            self.taken.pop()


class _Into:
    def __init__(self, watch: _Watch, path: str) -> None:
        self.watch, self.path = watch, path

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.watch.path.append(self.path)
        self.watch.taken.append(tuple(args[0].shape) if args and isinstance(args[0], Tensor) else ())
        if isinstance(module, nn.Dropout) and args and _is_map(args[0]):
            self.watch.see("map", args[0].shape)


def _is_map(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
        return False
    rows = value.float().sum(-1)
    return bool((value >= 0).all()) and torch.allclose(rows, torch.ones_like(rows), atol=1e-2)
