"""Proof that every place that is read of a network gives what it promises."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from attention_transfer.capture.attention import Attention
from attention_transfer.capture.module_calls import Runs
from attention_transfer.capture.outputs import Images
from attention_transfer.capture.patch_grid import fits
from attention_transfer.capture.private_names import state_of
from attention_transfer.capture.reading import Reading
from attention_transfer.capture.recorder import Replacement
from attention_transfer.capture.tap import CaptureError, Tap, tensors_in
from attention_transfer.capture.uncalled_modules import why_never_run


class Proof:
    """What one run on noise shows.

    Args:
        model: the network.
        taps: all that is read of it.
        role: `teacher` or `student`, for messages.

    Attributes:
        runs: to be entered while the network runs.
        last: the tap that was read last, and how often it had run by then.
    """

    def __init__(self, model: nn.Module, taps: Sequence[Tap], role: str) -> None:
        self._model, self._taps, self._role = model, taps, role
        self._states: dict[Tap, list[Hashable]] = {}
        self.runs = Runs(model, taps, role)
        self.last: tuple[Tap, int] | None = None

    def count(self, tap: Tap, counted: bool) -> None:
        """A run of the module of a place, whether it is one of those that are read or not."""
        self.runs.note(tap, counted)

    def note(self, tap: Tap, value: Any) -> None:
        """Look at what was read when it is read.

        Raises:
            CaptureError: if it is no tensor of floating-point numbers, or no attention that a method could use.
        """
        read = _tensors(value)
        if not read:
            raise CaptureError(_no_tensor(tap, value, self._role))
        if any(tensor.is_quantized for tensor in read):
            raise CaptureError(
                f"{tap} of the {self._role} gives quantised numbers; name a module after they are dequantised"
            )
        if isinstance(value, Attention):
            self._prove_attention(tap, value)
        self.last = tap, self.runs.seen(tap)
        self._states[tap] = [state_of(tensor) for tensor in read]

    def unrun(self, reading: Reading) -> list[Tap]:
        """Taps at which nothing was read."""
        return [tap for tap in self._taps if _at(tap, reading) is None]

    def check(self, reading: Reading, image: Images, *, gradient: bool, replaced: Mapping[Tap, Replacement]) -> None:
        """Look at everything once the network has run.

        Args:
            reading: of this run.
            image: of this run.
            gradient: whether what was read must carry one.
            replaced: what was replaced in this run.

        Raises:
            CaptureError: for a tap that never fired or fires several times, does not fit its layout, is overwritten in
                place or carries no gradient; for attention that a teacher drops some of.
        """
        self.runs.check(replaced, image)
        for tap in self._taps:
            value = _at(tap, reading)
            if value is None:
                raise CaptureError(f"{tap} of the {self._role} never ran: {why_never_run(self._model, tap)}")
            if self._role != "student" and isinstance(value, Attention) and value.dropout:
                raise CaptureError(
                    f"{tap} of the {self._role} drops {value.dropout:.0%} of its weights at random: put its attention "
                    "dropout to 0, so that every image has one attention map"
                )
            if isinstance(value, Tensor) and _turned(tap, value, reading.image):
                raise CaptureError(
                    f"{tap} of the {self._role} gives a value of shape {tuple(value.shape)}, which seems to have its "
                    f"channels {'last' if tap.layout == 'nchw' else 'first'} and would be read the wrong way: name "
                    "another layer"
                )
            if [state_of(tensor) for tensor in _tensors(value)] != self._states[tap]:
                raise CaptureError(
                    f"{tap} of the {self._role} is overwritten in place after it was read; read the input of the "
                    "module that overwrites it (pre-activation), or build that module with inplace=False"
                )
            if gradient and not all(tensor.requires_grad for tensor in _tensors(value)) and tap not in replaced:
                raise CaptureError(
                    f"{tap} of the {self._role} carries no gradient, so nothing could be learned there: its parameters "
                    "are frozen, it is detached, or checkpointed with use_reentrant=True (use use_reentrant=False)"
                )

    def _prove_attention(self, tap: Tap, attention: Attention) -> None:
        """Refuse what no method could use: calls of other dimensions, and queries that may see nothing."""
        for tensor in _tensors(attention):
            if tensor.ndim != 4:
                raise CaptureError(
                    f"{tap} of the {self._role} is computed on tensors of shape {tuple(tensor.shape)}; wanted are "
                    "(batch, heads, tokens, channels)"
                )
        if attention.bias is not None and bool((attention.bias == float("-inf")).all(-1).any()):
            raise CaptureError(
                f"{tap} of the {self._role} has queries that may see no key at all, so that they have no attention: "
                "give each query at least one key in its mask"
            )


def _at(tap: Tap, reading: Reading) -> Tensor | Attention | None:
    return reading.attention.get(tap) if tap.is_attention else reading.values.get(tap)


def _tensors(value: Any) -> list[Tensor]:
    """What must carry a gradient, and not change, of what was read."""
    if isinstance(value, Attention):
        return [each for each in (value.query, value.key, value.weights) if each is not None]
    return [value] if isinstance(value, Tensor) else []


def _no_tensor(tap: Tap, value: Any, role: str) -> str:
    found = [f"{replace(tap, item=item, call=None).name!r} {tuple(each.shape)}" for item, each in tensors_in(value)]
    kind = f"{tap} of the {role} gives a {type(value).__name__}"
    if not found:
        return f"{kind}, not a tensor; name a module inside it"
    return f"{kind} of {len(found)} tensors: name one of them ({', '.join(found)}), or a module inside it"


def _turned(tap: Tap, value: Tensor, image: tuple[int, int] | None) -> bool:
    """Whether the sides of the image are seen in a value where its layout says that one of them is channels."""
    if value.ndim != 4 or tap.layout not in ("nchw", "nhwc") or image is None:
        return False
    first, last = fits(tuple(value.shape[2:4]), image), fits(tuple(value.shape[1:3]), image)
    return (last and not first) if tap.layout == "nchw" else (first and not last)
