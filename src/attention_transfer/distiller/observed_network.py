"""One of the two networks of a distiller, run with everything that the methods read of it."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, cast

import torch
from torch import Tensor, nn

from attention_transfer.capture import (
    Capture,
    CaptureError,
    Reading,
    Replacement,
    Tap,
    as_logits,
    input_gradient,
    left_uncompiled,
    no_recomputation,
    own_buffers,
    twice_differentiable,
)
from attention_transfer.capture.private_names import is_compiled, state_of
from attention_transfer.distiller.fingerprint import fingerprint, fingerprint_of_reading
from attention_transfer.distiller.received_images import Given
from attention_transfer.errors import InputError
from attention_transfer.methods import Fingerprint, Head, Norm, Observed
from attention_transfer.models.introspection.batch_norms import batch_norm_before
from attention_transfer.models.introspection.class_maps import prove_class_maps
from attention_transfer.models.renormalise import Renormalise

Role = Literal["teacher", "student"]


@dataclass(frozen=True)
class Wanted:
    """What all methods together, or one of them, read of one network.

    Args:
        taps: places, in the order in which the method receives them.
        logits: whether it must run to its end.
        pooled: those of the taps whose mean the linear head must take; where there are any, the head is read too.
        gradient: whether the gradient of the loss with respect to the image is.
        flipped_gradient: whether that of the mirrored image is.
        attention: attention layers, in the order in which the method receives them.
        fingerprint: whether the network's weights must be known from others.
        norms: whether the batch norms that make the values of the taps are read.
    """

    taps: tuple[Tap, ...] = ()
    logits: bool = False
    pooled: tuple[Tap, ...] = ()
    gradient: bool = False
    flipped_gradient: bool = False
    attention: tuple[Tap, ...] = ()
    fingerprint: bool = False
    norms: bool = False

    @property
    def anything(self) -> bool:
        return bool(self.taps or self.attention) or self.logits or self.differentiated

    @property
    def differentiated(self) -> bool:
        """Whether the network is differentiated inside the step already."""
        return self.gradient or self.flipped_gradient

    @classmethod
    def together(cls, each: Sequence["Wanted"]) -> "Wanted":
        """Everything that any of them wants."""
        return cls(
            tuple(dict.fromkeys(tap for wanted in each for tap in wanted.taps)),
            any(wanted.logits for wanted in each),
            tuple(dict.fromkeys(tap for wanted in each for tap in wanted.pooled)),
            any(wanted.gradient for wanted in each),
            any(wanted.flipped_gradient for wanted in each),
            tuple(dict.fromkeys(tap for wanted in each for tap in wanted.attention)),
            norms=any(wanted.norms for wanted in each),
        )


@dataclass(frozen=True)
class Seen:
    """Everything that was read of one network in one step.

    Args:
        reading: values of the taps, and the logits where they were reached.
        gradient: of the loss with respect to the image.
        flipped_gradient: of the mirrored image, mirrored back.
    """

    reading: Reading
    gradient: Tensor | None = None
    flipped_gradient: Tensor | None = None


class Network:
    """Teacher or student as the distiller runs it.

    Args:
        model: the network; stays what it is.
        role: a teacher is read without a graph, a student with one.
        wanted: by all methods together.
        head: path of its linear head.
        transform: what becomes of the student's images before this network receives them.
        beside: the student, where this is its teacher.

    Raises:
        CaptureError: for a tap that does not exist.
    """

    def __init__(
        self,
        model: nn.Module,
        role: Role,
        wanted: Wanted,
        head: str | None,
        transform: Callable[[Tensor], Tensor] | None = None,
        beside: nn.Module | None = None,
    ) -> None:
        self.model, self.role, self.wanted, self.head = model, role, wanted, head
        self._transform = transform or nn.Identity()
        self._given = Given(model, self._transform, beside)
        if role == "student" and wanted.differentiated and any(map(is_compiled, model.modules())):
            raise CaptureError(
                "the gradient of the student is differentiated again, which compiled networks cannot be: give it as it "
                "was before torch.compile"
            )
        self._proving = False
        self._fingerprints: dict[tuple[Tap, ...], Fingerprint] = {}
        self._capture = Capture(model, (*wanted.taps, *wanted.attention), role)
        self._norms = {tap: _norm_before(model, tap) for tap in wanted.taps} if wanted.norms else {}

    def read(self, image: Tensor, label: Tensor | None, replaced: Mapping[Tap, Replacement] | None = None) -> Seen:
        """Run it once, and differentiate it if that is wanted.

        Args:
            image: as the student receives it.
            label: class numbers or probabilities; None where no gradient is wanted this time.
            replaced: values that it goes on with in place of its own.
        """
        before = _state(image)
        seen = self._run(
            image, label, lambda x: self._capture.run(x, until_last_tap=not self._to_its_end, replaced=replaced)
        )
        if _state(image) != before:
            raise CaptureError(
                f"the {self.role} wrote into its images, which it did not when the distiller was built: build it "
                "without operations in place (inplace=False)"
            )
        return seen

    def probe(self, image: Tensor, label: Tensor | None, replaced: Mapping[Tap, Replacement] | None = None) -> Seen:
        """The same on noise, with proof of everything that is read.

        Raises:
            CaptureError: if something does not hold what it promises.
        """
        for tap in self.wanted.pooled:
            if self.head is None:
                raise CaptureError(f"the {self.role} has no linear head that could be applied at every position")
            prove_class_maps(self.model, tap, self.head, self._given(image), self.role)
        if self.wanted.flipped_gradient and replaced:
            raise CaptureError("a mirrored pass of the student cannot be combined with a method that replaces values")
        self._proving = self._given.copies = True
        writes = False

        def probe(given: Tensor) -> Reading:
            nonlocal writes
            before = given.detach().clone()
            reading = self._capture.probe(given, gradient=self.role == "student", replaced=replaced)
            writes = not torch.equal(given, before)
            return reading

        try:
            seen = self._run(image, label, probe)
            # Nothing may write into the very tensor that it is differentiated for.
            self._given.copies = writes or self.wanted.differentiated
            return seen
        except RuntimeError as error:
            raise CaptureError(
                f"the {self.role} cannot be differentiated with respect to its image: {error}"
            ) from error
        finally:
            self._proving = False

    def observed(self, seen: Seen, wanted: Wanted) -> Observed:
        """What one method sees of it."""
        reading = seen.reading
        head = None
        if wanted.pooled:
            assert self.head is not None
            layer = self.model.get_submodule(self.head)
            assert isinstance(layer, nn.Linear)
            bias = cast("Tensor | None", layer.bias)
            precise = self._given.precise
            head = Head(precise(layer.weight), None if bias is None else precise(bias))
        return Observed(
            reading.logits if wanted.logits else None,
            tuple(reading.spatial(self._that_ran(tap, reading)) for tap in wanted.taps),
            head,
            seen.gradient if wanted.gradient else None,
            seen.flipped_gradient if wanted.flipped_gradient else None,
            tuple(reading.attention[self._that_ran(tap, reading)] for tap in wanted.attention),
            self._fingerprint(wanted.taps) if wanted.fingerprint else None,
            tuple(self._norm(tap) for tap in wanted.taps) if wanted.norms else (),
            (*wanted.taps, *wanted.attention),
        )

    @property
    def modules_read(self) -> frozenset[nn.Module]:
        """Modules at which something is read."""
        return self._capture.modules

    def close(self) -> None:
        """Take every hook off the network."""
        self._capture.close()

    def _that_ran(self, tap: Tap, reading: Reading) -> Tap:
        if tap not in reading.values and tap not in reading.attention:
            raise CaptureError(
                f"{tap} of the {self.role} did not run this time, though it did when the distiller was built: gradient "
                "checkpointing was switched since, a module was exchanged or compiled in place, or it runs for some "
                "batches or in one mode only"
            )
        return tap

    def _norm(self, tap: Tap) -> Norm | None:
        norm = self._norms[tap]
        return norm and Norm(self._given.precise(norm.scale), self._given.precise(norm.shift))

    def _fingerprint(self, taps: tuple[Tap, ...]) -> Fingerprint:
        # Made by the probe first of all, so of the weights as they came, whatever device or type they go to.
        if taps not in self._fingerprints:
            expects = self._transform.teacher if isinstance(self._transform, Renormalise) else None
            self._fingerprints[taps] = Fingerprint(self._weights, fingerprint_of_reading(taps, expects))
        return self._fingerprints[taps]

    @cached_property
    def _weights(self) -> bytes:
        return fingerprint(self.model)

    @property
    def _to_its_end(self) -> bool:
        return self.role == "student" or self.wanted.logits or self.wanted.differentiated

    def _run(self, image: Tensor, label: Tensor | None, run: Callable[[Tensor], Reading]) -> Seen:
        if self.wanted.differentiated and label is not None:
            return self._run_differentiated(image, label, run)
        with nullcontext() if self.role == "student" else torch.no_grad():
            return Seen(self._given.run(image, run))

    # Compiled graphs cannot be differentiated twice; inside a compiled distiller this part runs as it is.
    @left_uncompiled
    def _run_differentiated(self, image: Tensor, label: Tensor, run: Callable[[Tensor], Reading]) -> Seen:
        if torch.is_inference_mode_enabled():
            raise InputError(
                "gradient attention cannot be computed in inference mode: use torch.no_grad() to measure it"
            )
        twice = self.role == "student" and torch.is_grad_enabled()
        with torch.enable_grad(), twice_differentiable() if twice else nullcontext():
            image = image.detach().requires_grad_()
            reading = self._given.run(image, run)
            gradient = self._gradient(reading.logits, image, label, twice) if self.wanted.gradient else None
            flipped = self._flipped_gradient(image, label, twice) if self.wanted.flipped_gradient else None
        if not twice:
            # Nothing may reach into a graph that ends here.
            reading = replace(
                reading,
                logits=None if reading.logits is None else reading.logits.detach(),
                values={tap: value.detach() for tap, value in reading.values.items()},
                attention={tap: attention.detach() for tap, attention in reading.attention.items()},
            )
        return Seen(reading, gradient, flipped)

    def _flipped_gradient(self, image: Tensor, label: Tensor, twice: bool) -> Tensor:
        mirrored = image.detach().flip(3).requires_grad_()
        with own_buffers(self.model):
            logits = as_logits(self.model(self._given(mirrored)), self.role)
        return self._gradient(logits, mirrored, label, twice).flip(3)

    def _gradient(self, logits: Tensor | None, image: Tensor, label: Tensor, twice: bool) -> Tensor:
        assert logits is not None
        with no_recomputation(self.role) if self._proving else nullcontext():
            gradient = input_gradient(logits, image, label, twice=twice)
        return gradient if twice else gradient.detach()


def _norm_before(model: nn.Module, tap: Tap) -> Norm | None:
    path = batch_norm_before(model, tap)
    norm = None if path is None else model.get_submodule(path)
    if not isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) or not norm.affine:
        return None
    return Norm(norm.weight, norm.bias)


def _state(image: Tensor) -> Hashable:
    """Something that differs after the images were written into."""
    return None if torch.compiler.is_compiling() else state_of(image)
