"""One of the two networks of a distiller, run with everything that the methods read of it."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from attention_transfer.capture import Capture, CaptureError, Images, LogitsAt, Reading, Replacement, Tap
from attention_transfer.capture.input_gradients import input_gradient, no_recomputation, twice_differentiable
from attention_transfer.capture.isolation import own_buffers
from attention_transfer.capture.opaque_modules import left_uncompiled
from attention_transfer.capture.outputs import copied, same_images
from attention_transfer.capture.private_names import is_compiled, state_of
from attention_transfer.capture.reading import Provider
from attention_transfer.distiller.received_images import Given
from attention_transfer.errors import InputError
from attention_transfer.methods.method import Observed, Request
from attention_transfer.models.introspection.description import Input
from attention_transfer.models.preprocessing import Renormalise

Role = str
"""`student`, or `teacher` with the name of it where it has one; for messages."""
STUDENT = "student"
# Dimensions of logits that are not of every position.
_OF_IMAGES = 2


def together(requests: Sequence[Request]) -> Request:
    """Everything that any of some requests asks for; each thing once."""
    return Request(
        tuple(dict.fromkeys(tap for request in requests for tap in request.taps)),
        any(request.logits for request in requests),
        tuple(dict.fromkeys(tap for request in requests for tap in request.attention)),
        tuple(dict.fromkeys(each for request in requests for each in request.provide)),
    )


class Network:
    """Teacher or student as the distiller runs it.

    Args:
        model: the network; stays what it is.
        role: a teacher is read without a graph, a student with one.
        requests: of all methods.
        head: module path of its linear head.
        logits: where they are in its output.
        transform: what becomes of the student's images before this network receives them.
        beside: the student, where this is its teacher.
        device: where it stays, if that need not be where the student is.
        takes_labels: whether its forward pass takes the labels beside the images.

    Raises:
        CaptureError: for a tap that does not exist.
    """

    def __init__(
        self,
        model: nn.Module,
        role: Role,
        requests: Sequence[Request],
        head: str | None,
        logits: LogitsAt,
        transform: Callable[[Tensor], Tensor] | None = None,
        beside: nn.Module | None = None,
        device: torch.device | None = None,
        takes_labels: bool = False,
    ) -> None:
        self.model, self.role, self.head = model, role, head
        self.request = together(requests)
        self._gradients = sorted(self.request.gradients, key=lambda gradient: gradient.mirrored)
        self._transform = transform or nn.Identity()
        self._given = Given(model, self._transform, beside, device)
        self._takes_labels = takes_labels
        if takes_labels and self._gradients:
            raise CaptureError(
                "the gradient of the student's logits is read, and it takes labels beside its images: gradient "
                "attention is for networks that take images alone"
            )
        if role == STUDENT and self._gradients and any(map(is_compiled, model.modules())):
            raise CaptureError(
                "the gradient of the student is differentiated again, which compiled networks cannot be: give it as it "
                "was before torch.compile"
            )
        self._proving = False
        self.logits = logits
        self._capture = Capture(model, (*self.request.taps, *self.request.attention), role, logits)
        self._providers = {
            (each, request.taps): each.bound(self, request.taps) for request in requests for each in request.provide
        }

    def read(self, image: Images, label: Any, replaced: Mapping[Tap, Replacement] | None = None) -> Reading:
        """Run it once, and differentiate it if that is wanted.

        Args:
            image: as the student receives it.
            label: class indices or probabilities; None where no gradient is wanted this time. Whatever they are where
                the network takes them.
            replaced: values that it goes on with in place of its own.
        """
        before, also = _state(image), self._beside(label)
        to_the_end = self._to_its_end
        reading = self._run(
            image, label, lambda x: self._capture.run(x, *also, until_last_tap=not to_the_end, replaced=replaced)
        )
        if _state(image) != before:
            raise CaptureError(
                f"the {self.role} wrote into its images, which it did not when the distiller was built: build it "
                "without operations in place (inplace=False)"
            )
        return reading

    def probe(self, image: Images, label: Any, replaced: Mapping[Tap, Replacement] | None = None) -> Reading:
        """The same on noise, with proof of everything that is read.

        Raises:
            CaptureError: if something does not hold what it promises.
        """
        for provider, taps in self._providers:
            if not isinstance(image, Tensor):
                raise InputError("a method proves what it reads on images in one tensor, not on a list of images")
            provider.prove(self, taps, image)
        if replaced and any(gradient.mirrored for gradient in self._gradients):
            raise CaptureError("a mirrored pass of the student cannot be combined with a method that replaces values")
        strange = sorted(str(tap) for tap in (replaced or {}).keys() - {*self.request.taps, *self.request.attention})
        if strange:
            raise CaptureError(
                f"{', '.join(strange)} of the {self.role} shall be replaced, and nothing is read there: ask for it in "
                "reads, too"
            )
        self._proving = self._given.copies = True
        writes = False

        def probe(given: Images) -> Reading:
            nonlocal writes
            before = copied(given)
            gradient = self.role == STUDENT
            reading = self._capture.probe(given, *self._beside(label), gradient=gradient, replaced=replaced)
            writes = not same_images(given, before)
            return reading

        try:
            reading = self._run(image, label, probe)
            # Nothing may write into the very tensor that it is differentiated for.
            self._given.copies = writes or self.differentiated
            return reading
        except RuntimeError as error:
            raise CaptureError(
                f"the {self.role} cannot be differentiated with respect to its image: {error}"
            ) from error
        finally:
            self._proving = False

    def observed(self, reading: Reading, request: Request) -> Observed:
        """What one method sees of it."""
        return Observed(
            reading.logits if request.logits else None,
            tuple(reading.spatial(self._that_ran(tap, reading)) for tap in request.taps),
            tuple(reading.attention[self._that_ran(tap, reading)] for tap in request.attention),
            (*request.taps, *request.attention),
            {each: self._providers[each, request.taps](reading) for each in request.provide},
        )

    @property
    def differentiated(self) -> bool:
        """Whether the network is differentiated inside the step already."""
        return bool(self._gradients)

    def receives(self, images: Tensor) -> Tensor:
        """The student's images as this network receives them."""
        return cast(Tensor, self._given(images))

    def _beside(self, label: Any) -> tuple[Any, ...]:
        """What the network takes beside its images."""
        return (label,) if self._takes_labels and label is not None else ()

    def precise(self, value: Tensor) -> Tensor:
        """A parameter of it in the precision of the losses."""
        return self._given.precise(value)

    @property
    def expects(self) -> Input | None:
        """How its images are normalised; None where it was not said."""
        return self._transform.teacher if isinstance(self._transform, Renormalise) else None

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

    @property
    def _to_its_end(self) -> bool:
        return self.role == STUDENT or self.request.logits or self.differentiated

    def _run(self, image: Images, label: Any, run: Callable[[Images], Reading]) -> Reading:
        if self._gradients and label is not None:
            if not isinstance(image, Tensor):
                raise InputError("gradient attention is of images in one tensor, not of a list of images")
            return self._run_differentiated(image, label, run)
        with nullcontext() if self.role == STUDENT else torch.no_grad():
            return self._given.run(image, run)

    # Compiled graphs cannot be differentiated twice; inside a compiled distiller this part runs as it is.
    @left_uncompiled
    def _run_differentiated(self, image: Tensor, label: Tensor, run: Callable[[Images], Reading]) -> Reading:
        if torch.is_inference_mode_enabled():
            raise InputError(
                "gradient attention cannot be computed in inference mode: use torch.no_grad() to measure it"
            )
        twice = self.role == STUDENT and torch.is_grad_enabled()
        with torch.enable_grad(), twice_differentiable() if twice else nullcontext():
            image = image.detach().requires_grad_()
            reading = self._given.run(image, run)
            computed: dict[Provider[Any], Any] = {
                each: self._mirrored_gradient(image, label, twice)
                if each.mirrored
                else self._gradient(reading.logits, image, label, twice)
                for each in self._gradients
            }
        if not twice:
            # Nothing may reach into a graph that ends here.
            reading = replace(
                reading,
                logits=None if reading.logits is None else reading.logits.detach(),
                values={tap: value.detach() for tap, value in reading.values.items()},
                attention={tap: attention.detach() for tap, attention in reading.attention.items()},
            )
        return replace(reading, computed=computed)

    def _mirrored_gradient(self, image: Tensor, label: Tensor, twice: bool) -> Tensor:
        mirrored = image.detach().flip(3).requires_grad_()
        with own_buffers(self.model):
            logits = self.logits(self.model(self._given(mirrored)))
        return self._gradient(logits, mirrored, label, twice).flip(3)

    def _gradient(self, logits: Tensor | None, image: Tensor, label: Tensor, twice: bool) -> Tensor:
        assert logits is not None
        if logits.ndim != _OF_IMAGES:
            raise InputError(
                f"the gradient of the {self.role}'s loss is read, which is of logits of one row per image, not of "
                f"shape {tuple(logits.shape)}: take a method without gradients such as at"
            )
        with no_recomputation(self.role) if self._proving else nullcontext():
            gradient = input_gradient(logits, image, label, twice=twice)
        return gradient if twice else gradient.detach()


def _state(images: Images) -> Hashable:
    """Something that differs after the images were written into."""
    if torch.compiler.is_compiling():
        return None
    return state_of(images) if isinstance(images, Tensor) else tuple(map(state_of, images))
