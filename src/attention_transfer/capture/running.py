"""Reading one network while it runs."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.capture.attached import Attached
from attention_transfer.capture.attention import Attention
from attention_transfer.capture.backward_pass import backward_passes_are_told_apart
from attention_transfer.capture.hooks import hooks_around, hooks_at
from attention_transfer.capture.outputs import tensors_in
from attention_transfer.capture.patches import fits
from attention_transfer.capture.private_names import state_of
from attention_transfer.capture.recorder import Recorder, Replacement, Stop
from attention_transfer.capture.runs import Runs
from attention_transfer.capture.tap import CaptureError, Tap, spatial


@dataclass(frozen=True)
class Reading:
    """What was read while a network ran once.

    Args:
        logits: its result; None where it was stopped after the last tap.
        values: one per tap of a value, as the network laid it out.
        attention: one per tap of an attention layer, as the network computed it itself, replaced or not.
        image: height and width of the images.
    """

    logits: Tensor | None
    values: Mapping[Tap, Tensor]
    attention: Mapping[Tap, Attention] = field(default_factory=dict[Tap, Attention])
    image: tuple[int, int] | None = None

    def spatial(self, tap: Tap) -> Float[Tensor, "b c h w"]:
        """What was read at a place as channels, rows and columns, see `spatial`."""
        return spatial(self.values[tap], tap, self.image)


class Capture:
    """Reads one network at named places while it runs. The network stays what it is; `close()` leaves no trace.

    Args:
        model: any network.
        taps: places to read.
        role: `teacher` or `student`, for messages.

    Raises:
        CaptureError: for a module that does not exist.
    """

    def __init__(self, model: nn.Module, taps: Iterable[Tap], role: str) -> None:
        self.model = model
        self.role = role
        self.taps = tuple(dict.fromkeys(taps))
        self._recorder = Recorder()
        self._last: tuple[Tap, int] | None = None
        # A module that serves at several places has a path at each of them.
        modules = dict(model.named_modules(remove_duplicate=False))
        for tap in self.taps:
            if tap.module not in modules:
                raise CaptureError(_no_such_module(tap.module, modules, role))
        self._owners = {path: modules[path] for path in _owners(self.taps, modules)}
        hooks = [hook for tap in self.taps for hook in hooks_at(modules[tap.module], tap, self._recorder)]
        hooks += [hook for path, each in self._owners.items() for hook in hooks_around(each, path, self._recorder)]
        self._attached = Attached(hooks)

    def run(
        self, image: Tensor, *, until_last_tap: bool = False, replaced: Mapping[Tap, Replacement] | None = None
    ) -> Reading:
        """Run the network once.

        Args:
            image: its input.
            until_last_tap: stop after the last tap; needs a `probe` before. Ignored while compiling, where what nothing
                reads is left out of the graph anyway.
            replaced: values that the network goes on with in place of its own.
        """
        recorder = self._recorder
        recorder.begin(replaced or {}, image, self._owners)
        if torch.compiler.is_compiling():
            return self._run_compiled(image) if self._attached.compiles else _apart(self._run, image)
        recorder.stop_after = self._last if until_last_tap else None
        return self._run(image)

    def _run(self, image: Tensor) -> Reading:
        recorder, logits = self._recorder, None
        try:
            self._attached.attach()
            logits = as_logits(self.model(image), self.role)
            recorder.keep_for_backward(logits, self._attached)
        except Stop:
            pass
        finally:
            self._attached.remove()
            recorder.leave_modes()
            # A compiled run takes no notice of where this one stopped.
            recorder.stop_after = None
            reading = self._take(logits)
        return reading

    def _run_compiled(self, image: Tensor) -> Reading:
        self._attached.exchange()
        try:
            logits = as_logits(self.model(image), self.role)
        finally:
            self._attached.give_back()
        return self._take(logits)

    def _take(self, logits: Tensor | None) -> Reading:
        """What was read, out of the recorder's hands."""
        recorder = self._recorder
        recorder.active = False
        assert recorder.images is not None
        reading = Reading(logits, recorder.values, recorder.attention, recorder.images[1:])
        recorder.values, recorder.attention, recorder.replaced = {}, {}, {}
        return reading

    def probe(self, image: Tensor, *, gradient: bool, replaced: Mapping[Tap, Replacement] | None = None) -> Reading:
        """Run the network once and prove that every tap gives what it promises.

        Args:
            image: noise of the shape that training will have.
            gradient: whether what is read must carry a gradient.
            replaced: as in `run`.

        Raises:
            CaptureError: for a tap that never fired, gives no tensor, is overwritten in place, does not fit its layout
                or carries no gradient; for attention whose queries may see nothing, or that a teacher drops some of.
        """
        if replaced and not backward_passes_are_told_apart():
            raise CaptureError(
                f"nothing in the {self.role} can be replaced with this version of torch, {torch.__version__}, which "
                "does not tell what a backward pass runs again: install one that this package was tested with"
            )
        runs = Runs(self.model, self.taps, self.role)
        last: tuple[Tap, int] | None = None
        versions: dict[Tap, list[Hashable]] = {}
        counts, record = self._recorder.counts, self._recorder.record

        def count(tap: Tap) -> bool:
            counted = counts(tap)
            runs.note(tap, counted)
            return counted

        def watch(tap: Tap, value: Any) -> None:
            read = _tensors(value)
            if not read:
                raise CaptureError(_no_tensor(tap, value, self.role))
            if isinstance(value, Attention):
                self._prove_attention(tap, value)
            nonlocal last
            last = tap, runs.seen(tap)
            versions[tap] = [state_of(tensor) for tensor in read]
            record(tap, value)

        self._recorder.counts, self._recorder.record = count, watch
        try:
            with runs:
                reading = self.run(image, replaced=replaced)
        except CaptureError:
            raise
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            # Whatever a network objects to: a size it was not built for, a number of channels.
            raise CaptureError(
                f"the {self.role} cannot run on images of shape {tuple(image.shape)}, {image.dtype}: {error}"
            ) from error
        finally:
            self._recorder.counts, self._recorder.record = counts, record
        runs.check(replaced or {}, image)
        for tap in self.taps:
            value = reading.attention.get(tap) if tap.is_attention else reading.values.get(tap)
            if value is None:
                raise CaptureError(
                    f"{tap} of the {self.role} never ran; its network was compiled before (compile the distiller "
                    "instead), or it does not use this module in its forward pass"
                    + (" or makes no such call there" if tap.is_attention else "")
                )
            if self.role == "teacher" and isinstance(value, Attention) and value.dropout:
                raise CaptureError(
                    f"{tap} of the teacher drops {value.dropout:.0%} of its weights at random: put its attention "
                    "dropout to 0, so that every image has one attention map"
                )
            if isinstance(value, Tensor) and _turned(tap, value, reading.image):
                raise CaptureError(
                    f"{tap} of the {self.role} gives a value of shape {tuple(value.shape)}, which seems to have its "
                    f"channels {'last' if tap.layout == 'nchw' else 'first'} and would be read the wrong way: name "
                    "another layer"
                )
            if [state_of(tensor) for tensor in _tensors(value)] != versions[tap]:
                raise CaptureError(
                    f"{tap} of the {self.role} is overwritten in place after it was read; read the input of the module "
                    "that overwrites it (pre-activation), or build that module with inplace=False"
                )
            if gradient and not all(tensor.requires_grad for tensor in _tensors(value)) and tap not in (replaced or {}):
                raise CaptureError(
                    f"{tap} of the {self.role} carries no gradient, so nothing could be learned there: its parameters "
                    "are frozen, it is detached, or checkpointed with use_reentrant=True (use use_reentrant=False)"
                )
        self._last = last
        return reading

    def _prove_attention(self, tap: Tap, attention: Attention) -> None:
        """Refuse what no method could use: calls of other dimensions, and queries that may see nothing."""
        for tensor in _tensors(attention):
            if tensor.ndim != 4:
                raise CaptureError(
                    f"{tap} of the {self.role} is computed on tensors of shape {tuple(tensor.shape)}; wanted are "
                    "(batch, heads, tokens, channels)"
                )
        if attention.bias is not None and bool((attention.bias == float("-inf")).all(-1).any()):
            raise CaptureError(
                f"{tap} of the {self.role} has queries that may see no key at all, so that they have no attention: "
                "give each query at least one key in its mask"
            )

    @property
    def modules(self) -> frozenset[nn.Module]:
        """Those at which something is read."""
        return self._attached.modules

    def close(self) -> None:
        """Take every hook off the network, that of a backward pass included."""
        self._attached.remove()


@torch.compiler.disable(recursive=False)  # pyright: ignore[reportUntypedFunctionDecorator]
def _apart(run: Callable[[Tensor], Reading], image: Tensor) -> Reading:
    """Run by itself what a compiler cannot follow; what it calls is compiled still."""
    return run(image)


def as_logits(output: Any, role: str) -> Tensor:
    """The logits in what a network returns: the tensor itself, or its `logits`.

    Raises:
        CaptureError: if there is no tensor of (batch, classes) in it.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = f" of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
        raise CaptureError(
            f"the {role} returns a {type(output).__name__}{shape}; wanted is a tensor (batch, classes): give it in a "
            "module whose forward takes the logits out of that output"
        )
    return logits


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


def _owners(taps: Sequence[Tap], modules: Mapping[str, nn.Module]) -> set[str]:
    """Modules in whose run something is read that also runs elsewhere."""
    return {
        tap.within
        for tap in taps
        if tap.within is not None
        and any(
            module is modules[tap.module] and not path.startswith(f"{tap.within}.") for path, module in modules.items()
        )
    }


def _no_such_module(path: str, modules: Mapping[str, nn.Module], role: str) -> str:
    parent = path
    while parent and parent not in modules:
        parent = parent.rpartition(".")[0]
    children = [name for name, _ in modules[parent].named_children()]
    listed = ", ".join(children[:20]) + (", …" if len(children) > 20 else "") if children else "no submodules"
    return f"the {role} has no module {path!r}; {repr(parent) if parent else 'its top level'} has {listed}"
