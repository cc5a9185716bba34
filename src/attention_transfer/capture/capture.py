"""Reading one network while it runs.

>>> import torch
>>> from attention_transfer import build
>>> from attention_transfer.capture import Capture, Tap
>>> capture = Capture(build("resnet8", 4), [Tap("layer1")], "network")
>>> reading = capture.run(torch.rand(2, 3, 16, 16))
>>> reading.values[Tap("layer1")].shape
torch.Size([2, 16, 16, 16])
>>> capture.close()
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attention_transfer.capture.hooks import hooks_around, hooks_at
from attention_transfer.capture.opaque_modules import closed_around, left_uncompiled
from attention_transfer.capture.outputs import Images, LogitsAt, first_image
from attention_transfer.capture.proof import Proof
from attention_transfer.capture.reading import Reading
from attention_transfer.capture.recorder import Recorder, Replacement, Stop
from attention_transfer.capture.scoped_hooks import Attached, backward_passes_are_told_apart
from attention_transfer.capture.tap import CaptureError, Tap
from attention_transfer.capture.uncalled_modules import stand_ins


class Capture:
    """Reads one network at named places while it runs. The network stays what it is; `close()` leaves no trace.

    Args:
        model: any network.
        taps: places to read.
        role: `teacher` or `student`, for messages.
        logits: gives the logits in what the network returns; None takes them where they usually are.

    Raises:
        CaptureError: for a module that does not exist.
    """

    def __init__(self, model: nn.Module, taps: Iterable[Tap], role: str, logits: LogitsAt | None = None) -> None:
        self.model = model
        self.role = role
        self._logits = logits or LogitsAt.of(model, role)
        self.taps = tuple(dict.fromkeys(taps))
        self._recorder = Recorder()
        self._last: tuple[Tap, int] | None = None
        # A module that serves at several places has a path at each of them.
        modules = dict(model.named_modules(remove_duplicate=False))
        for tap in self.taps:
            self._prove_open(tap)
            if tap.module not in modules:
                raise CaptureError(_no_such_module(tap.module, modules, role))
        self._owners = {path: modules[path] for path in _owners(self.taps, modules)}
        self._places: dict[Tap, nn.Module] = {}
        self._hook({tap: modules[tap.module] for tap in self.taps})

    def run(
        self,
        image: Images,
        *labels: Any,
        until_last_tap: bool = False,
        replaced: Mapping[Tap, Replacement] | None = None,
    ) -> Reading:
        """Run the network once.

        Args:
            image: its input.
            labels: what it takes beside its images, if anything.
            until_last_tap: stop after the last tap; needs a `probe` before. Ignored while compiling, where what nothing
                reads is left out of the graph anyway.
            replaced: values that the network goes on with in place of its own.

        Raises:
            CaptureError: for what is of more or fewer images than were given.
        """
        reading = self._read(image, labels, until_last_tap=until_last_tap, replaced=replaced)
        self._check_rows(reading, image)
        return reading

    def _read(
        self,
        image: Images,
        labels: Sequence[Any],
        *,
        until_last_tap: bool,
        replaced: Mapping[Tap, Replacement] | None,
    ) -> Reading:
        recorder = self._recorder
        recorder.begin(replaced or {}, image, self._owners)
        if torch.compiler.is_compiling():
            return self._run_compiled(image, labels) if self._attached.compiles else _apart(self._run, image, labels)
        recorder.stop_after = self._last if until_last_tap else None
        return self._run(image, labels)

    def _check_rows(self, reading: Reading, image: Images) -> None:
        """Refuse what is of more or fewer images than were given: losses would compare others, or one with all."""
        found = {str(tap): value for tap, value in reading.values.items() if tap.layout != "raw"}
        if reading.logits is not None and self._logits.wanted_by:
            found["the output"] = reading.logits
        for place, value in found.items():
            if value.shape[0] != len(image):
                raise CaptureError(
                    f"{place} of the {self.role} is of {value.shape[0]} images where {len(image)} were given: it "
                    "takes batches apart or adds views of its own; give a module that runs each batch once, as it is"
                )

    def _run(self, image: Images, labels: Sequence[Any]) -> Reading:
        recorder, output, logits = self._recorder, None, None
        try:
            self._attached.attach()
            output = self.model(image, *labels)
            logits = self._logits(output)
            recorder.keep_for_backward(output, self._attached)
        except Stop:
            pass
        finally:
            self._attached.remove()
            recorder.leave_modes()
            # A compiled run takes no notice of where this one stopped.
            recorder.stop_after = None
            reading = self._take(output, logits)
        return reading

    def _run_compiled(self, image: Images, labels: Sequence[Any]) -> Reading:
        self._attached.exchange()
        try:
            output = self.model(image, *labels)
            logits = self._logits(output)
        finally:
            self._attached.give_back()
        return self._take(output, logits)

    def _take(self, output: Any, logits: Tensor | None) -> Reading:
        """What was read, out of the recorder's hands."""
        recorder = self._recorder
        recorder.active = False
        reading = Reading(logits, recorder.values, recorder.attention, recorder.sides, output=output)
        recorder.values, recorder.attention, recorder.replaced = {}, {}, {}
        return reading

    def probe(
        self, image: Images, *labels: Any, gradient: bool, replaced: Mapping[Tap, Replacement] | None = None
    ) -> Reading:
        """Run the network once and prove that every tap gives what it promises.

        Args:
            image: noise of the shape that training will have.
            labels: what it takes beside its images, if anything.
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
        proof, reading = self._run_noting(image, labels, replaced)
        unrun = proof.unrun(reading)
        if unrun:
            found = stand_ins(self.model, unrun, lambda: self._run_noting(image, labels, replaced))
            if found:
                self._hook(found)
                proof, reading = self._run_noting(image, labels, replaced)
        proof.check(reading, image, gradient=gradient, replaced=replaced or {})
        self._check_rows(reading, image)
        self._last = proof.last
        return reading

    def _run_noting(
        self, image: Images, labels: Sequence[Any], replaced: Mapping[Tap, Replacement] | None
    ) -> tuple[Proof, Reading]:
        proof = Proof(self.model, self.taps, self.role)
        counts, record = self._recorder.counts, self._recorder.record

        def count(tap: Tap) -> bool:
            counted = counts(tap)
            proof.count(tap, counted)
            return counted

        def note(tap: Tap, value: Any) -> None:
            proof.note(tap, value)
            record(tap, value)

        self._recorder.counts, self._recorder.record = count, note
        try:
            with proof.runs:
                return proof, self._read(image, labels, until_last_tap=False, replaced=replaced)
        except CaptureError:
            raise
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            # Whatever a network objects to: a size it was not built for, a number of channels.
            raise CaptureError(f"the {self.role} cannot run on {_images_in_words(image)}: {error}") from error
        finally:
            self._recorder.counts, self._recorder.record = counts, record

    def _hook(self, places: Mapping[Tap, nn.Module]) -> None:
        """Read from now on at these modules what is to be read at a tap, and everything else as before."""
        self._places.update(places)
        hooks = [hook for tap, module in self._places.items() for hook in hooks_at(module, tap, self._recorder)]
        hooks += [hook for path, each in self._owners.items() for hook in hooks_around(each, path, self._recorder)]
        self._attached = Attached(hooks)

    def _prove_open(self, tap: Tap) -> None:
        closed = closed_around(self.model, tap.module, within=tap.is_attention)
        if closed is not None:
            where, why = closed
            raise CaptureError(
                f"{tap} of the {self.role} cannot be read: {f'its module {where!r}' if where else 'the network'} {why}"
            )

    @property
    def modules(self) -> frozenset[nn.Module]:
        """Those at which something is read."""
        return self._attached.modules

    def close(self) -> None:
        """Take every hook off the network, that of a backward pass included."""
        self._attached.remove()


def _run_by_itself(run: Callable[[Images, Sequence[Any]], Reading], image: Images, labels: Sequence[Any]) -> Reading:
    return run(image, labels)


_apart = left_uncompiled(_run_by_itself, inside=False)
"""Runs by itself what a compiler cannot follow; what it calls is compiled still."""


def _images_in_words(images: Images) -> str:
    first = first_image(images)
    if isinstance(images, Tensor):
        return f"images of shape {tuple(first.shape)}, {first.dtype}"
    return (
        f"a list of {len(images)} images, the first of shape {tuple(first.shape)}, {first.dtype} (where it takes one "
        "tensor, give torch.stack of them)"
    )


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
