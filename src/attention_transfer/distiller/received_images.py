"""Images as one network of a distiller is given them: in its own precision, and its own where it writes into them."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from attention_transfer.capture import Images, Reading
from attention_transfer.capture.outputs import first_image, for_each


class Given:
    """What becomes of the student's images before a network receives them.

    Args:
        model: the network.
        transform: as it expects them.
        beside: the student, whose precision the images have; None of the student itself.
        device: where the network stays, if that need not be where the student is.

    Attributes:
        copies: whether it must not have the images themselves, for it changes them.
    """

    def __init__(
        self,
        model: nn.Module,
        transform: Callable[[Tensor], Tensor],
        beside: nn.Module | None,
        device: torch.device | None = None,
    ) -> None:
        self._model, self._transform, self._beside, self._device = model, transform, beside, device
        self.copies = False

    def __call__(self, image: Images) -> Images:
        """Images as the network receives them."""
        return for_each(image, self._received)

    def _received(self, image: Tensor) -> Tensor:
        given = self._transform(image)
        if self._beside is not None:
            given = cast_for(self._model, given, self._beside)
        if self._device is not None:
            given = given.to(self._device, non_blocking=True)
        return given.clone() if self.copies else given

    def run(self, image: Images, run: Callable[[Images], Reading]) -> Reading:
        """Run the network, and give what was read as losses take it beside the student.

        Args:
            image: as the student receives it.
            run: reads the network once.
        """
        if not self.casts and self._device is None:
            return run(self(image))
        # Its precision was chosen for it; that of the step is the student's.
        device = first_image(image).device
        with torch.autocast((self._device or device).type, enabled=False) if self.casts else nullcontext():
            reading = run(self(image))
        if self._device is None:
            return each_tensor(reading, self.precise)
        return each_tensor(reading, lambda value: self.precise(value.to(device, non_blocking=True)))

    @property
    def casts(self) -> bool:
        """Whether the network has another precision than the student."""
        return self._beside is not None and _precision(self._model) not in (None, _precision(self._beside))

    def precise(self, value: Tensor) -> Tensor:
        """A value or parameter of a network of another precision in that of the student's losses."""
        if self._beside is None or not self.casts or not value.is_floating_point():
            return value
        return value.to(torch.promote_types(_precision(self._beside) or torch.float32, torch.float32))


def each_tensor(reading: Reading, change: Callable[[Tensor], Tensor]) -> Reading:
    """What was read, with every tensor of it changed; the output stays as it came."""
    return replace(
        reading,
        logits=None if reading.logits is None else change(reading.logits),
        values={tap: change(value) for tap, value in reading.values.items()},
        attention={
            tap: replace(call, **{name: change(tensor) for name, tensor in call.tensors.items()})
            for tap, call in reading.attention.items()
        },
    )


def cast_for(model: nn.Module, images: Tensor, beside: nn.Module) -> Tensor:
    """Images in the precision of a network, where that is another than the student's.

    Of a network of several precisions it is that of its first parameter.

    Args:
        model: the network.
        images: in the precision of the student; what are no floating-point numbers stays as it is.
        beside: the student.
    """
    kind = _precision(model)
    if kind in (None, _precision(beside)) or not images.is_floating_point():
        return images
    return images.to(kind)


def _precision(model: nn.Module) -> torch.dtype | None:
    return next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), None)
