"""Logits in what a network returns, and images as it takes them: a tensor, or a list of images of several sizes.

>>> import torch
>>> logits = torch.zeros(2, 10)
>>> LogitsAt("student")({"out": logits, "aux": logits}).shape
torch.Size([2, 10])
>>> LogitsAt("student", "heads.1")({"heads": [logits, logits[:, :4]]}).shape
torch.Size([2, 4])
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from attention_transfer.capture.tap import CaptureError

Images = Tensor | Sequence[Tensor]
"""A batch of images in one tensor, or a list of images where a network takes lists."""

Where = str | int | Callable[[Any], Any]
"""Where the logits are in an output: a key, an index, a path of both and of attributes, or a function of the output."""

# Keys of transformers (which has attributes of these names, too) and of torchvision's segmentation.
_KEYS = ("logits", "out")


@dataclass(frozen=True)
class LogitsAt:
    """Where the logits are in what a network returns.

    Args:
        role: of the network, for messages.
        where: a key, an index, or a path of these and of attributes such as `decoder.logits`; or a function of the
            output. None knows tensors, `logits` of transformers and of networks with auxiliary heads, and the keys
            `logits` and `out`.
        wanted_by: what reads them, for messages; empty where nobody does, so that outputs without logits are fine.
        averages: whether the network returns a pair while it is trained, whose mean it returns later (DeiT).
    """

    role: str
    where: Where | None = None
    wanted_by: str = ""
    averages: bool = False

    @classmethod
    def of(cls, model: nn.Module, role: str, where: Where | None = None, wanted_by: Sequence[str] = ()) -> "LogitsAt":
        """Those of a network."""
        pair = any(getattr(module, "distilled_training", False) for module in model.modules())
        return cls(role, where, " and ".join(wanted_by), pair)

    def __call__(self, output: Any) -> Tensor | None:
        """The logits; None where nothing reads them and none are found.

        Raises:
            CaptureError: for an output that has none where they are said to be, or where they are read.
        """
        if self.where is None:
            found = _usual(output, self.averages)
            if found is None and self.wanted_by:
                raise CaptureError(
                    f"the {self.role} returns {described(output)}, and {self.wanted_by} reads its logits: say where "
                    f"they are with {self._argument}, a key or a path such as 'out', or a function of the output"
                )
            return found
        found = self.where(output) if callable(self.where) else self._at(output, str(self.where))
        if not isinstance(found, Tensor):
            raise CaptureError(
                f"{self._argument} gives {described(found)}, where the logits are wanted, which are one tensor: name "
                "it, or give a function of the output that returns it"
            )
        return found

    @property
    def _argument(self) -> str:
        return f"{self.role.partition(' ')[0]}_logits="

    def _at(self, output: Any, path: str) -> Any:
        value = output
        for step in path.split("."):
            found = _step(value, step)
            if found is None:
                raise CaptureError(
                    f"{self._argument}{self.where!r} is not in the output of the {self.role}: there is no {step!r} in "
                    f"{described(value)}"
                )
            value = found
        return value


def as_logits(output: Any, role: str) -> Tensor:
    """The logits in what a classifier returns: the tensor itself, or one in a usual form.

    Example:
        >>> as_logits(torch.zeros(2, 10), "teacher").shape
        torch.Size([2, 10])

    Args:
        output: of the network.
        role: which network, for messages.

    Raises:
        CaptureError: if there is no tensor of (batch, classes) in it.
    """
    logits = _usual(output)
    if logits is None or logits.ndim != 2:
        raise CaptureError(
            f"the {role} returns {described(output)}; wanted is a tensor (batch, classes): give it in a module whose "
            "forward takes the logits out of that output"
        )
    return logits


def described(output: Any) -> str:
    """What an output is, in words: its type and, of each part, name and shape."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    name = type(output).__name__
    if isinstance(output, Mapping):
        parts = [f"{key!r}: {_shape(value)}" for key, value in cast("Mapping[Any, Any]", output).items()]
    elif isinstance(output, Sequence) and not isinstance(output, str | bytes):
        parts = [f"{place}: {_shape(value)}" for place, value in enumerate(cast("Sequence[Any]", output))]
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        parts = [f"{field.name}: {_shape(getattr(output, field.name))}" for field in dataclasses.fields(output)]
    else:
        parts = [f"{key}: {_shape(value)}" for key, value in getattr(output, "__dict__", {}).items()]
    listed = ", ".join(parts[:6]) + (", …" if len(parts) > 6 else "")
    return f"a {name}" + (f" of {listed}" if parts else "")


def tensors_of(output: Any, depth: int = 4) -> Iterator[Tensor]:
    """All tensors in an output, in its lists, dicts and dataclasses too.

    Args:
        output: of a network.
        depth: how far down it is looked.
    """
    if isinstance(output, Tensor):
        yield output
        return
    if depth == 0 or isinstance(output, str | bytes | int | float | None):
        return
    parts: Sequence[Any] = ()
    if isinstance(output, Mapping):
        parts = list(cast("Mapping[Any, Any]", output).values())
    elif isinstance(output, Sequence):
        parts = cast("Sequence[Any]", output)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        parts = [getattr(output, field.name) for field in dataclasses.fields(output)]
    for part in parts:
        yield from tensors_of(part, depth - 1)


def first_image(images: Images) -> Tensor:
    """A tensor that has the device and the type of some images: all of them, or the first of a list."""
    return images if isinstance(images, Tensor) else images[0]


def sides(images: Images) -> tuple[int, int] | None:
    """Height and width of some images; None of images of several sizes."""
    if isinstance(images, Tensor):
        return images.shape[-2], images.shape[-1]
    found = {(each.shape[-2], each.shape[-1]) for each in images}
    return found.pop() if len(found) == 1 else None


def for_each(images: Images, change: Callable[[Tensor], Tensor]) -> Images:
    """Images of which each was changed.

    Args:
        images: a batch, or a list.
        change: of a batch of images of one size.
    """
    if isinstance(images, Tensor):
        return change(images)
    return [change(each[None])[0] for each in images]


def copied(images: Images) -> Images:
    """The same images, which nothing that writes into the others reaches."""
    return images.detach().clone() if isinstance(images, Tensor) else [each.detach().clone() for each in images]


def same_images(images: Images, others: Images) -> bool:
    """Whether two batches hold the same values."""
    if isinstance(images, Tensor) and isinstance(others, Tensor):
        return torch.equal(images, others)
    return all(torch.equal(one, other) for one, other in zip(images, others, strict=True))


def _usual(output: Any, averages: bool = False) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if averages and isinstance(output, tuple):
        return torch.stack(cast("tuple[Tensor, ...]", output)).mean(0)
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        mapping = cast("Mapping[Any, Any]", output)
        found = next((mapping[key] for key in _KEYS if key in mapping), None)
    return found if isinstance(found, Tensor) else None


def _step(value: Any, step: str) -> Any:
    """What a key, an attribute or an index leads to; None where it leads nowhere."""
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        for key in (step, int(step)) if step.lstrip("-").isdigit() else (step,):
            if key in mapping:
                return mapping[key]
    elif isinstance(value, Sequence) and not isinstance(value, str) and step.lstrip("-").isdigit():
        sequence = cast("Sequence[Any]", value)
        return sequence[int(step)] if -len(sequence) <= int(step) < len(sequence) else None
    return None if isinstance(value, Tensor) else getattr(value, step, None)


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
