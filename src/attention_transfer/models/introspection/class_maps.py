"""Class maps need no new head.

On a network of global average pooling and one linear layer, that layer applied at every position of what is pooled
gives them (section 3.1 of Guo et al., CVPR 2023, equations 1 to 4). Here it is found where to read, and proved on the
network itself that the maps' means are its logits.

>>> from attention_transfer import build, describe
>>> str(class_map_tap(describe(build("resnet8", 10)), "teacher"))
'input of avgpool'
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.capture import Capture, CaptureError, Provider, Reading, ReadNetwork, Tap, noise, undisturbed
from attention_transfer.errors import InputError
from attention_transfer.models.introspection.description import Description
from attention_transfer.models.introspection.pooling import between

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF_TOLERANCE = 2e-2
# Products of float32 with fewer bits, on devices where torch was told to allow them.
_FAST_TOLERANCE = 1e-2
# Enough for a norm to differ by more than any tolerance.
_MOVED = 1.1
# A parameter that acts on one side only has its whole gradient there; rounding leaves far less, of itself or of others.
_LEARNED, _NEGLIGIBLE = 0.1, 1e-4


@dataclass(frozen=True)
class Head:
    """The linear layer that makes a network's logits.

    Args:
        weight: live parameter, so that what is learned through it reaches it.
        bias: live parameter; None where there is none.
    """

    weight: Float[Tensor, "k c"]
    bias: Float[Tensor, " k"] | None


@dataclass(frozen=True)
class ClassMapHead(Provider[Head]):
    """A network's linear head, proved to act on the mean over positions of the taps and to give the logits.

    Example:
        >>> from attention_transfer import ClassAttention
        >>> from attention_transfer.models import build, describe
        >>> description = describe(build("resnet8", 4))
        >>> ClassAttention().reads(description, description).teacher.provide == (ClassMapHead(),)
        True
    """

    def bound(self, network: ReadNetwork, taps: Sequence[Tap]) -> Callable[[Reading], Head]:
        """The live parameters of the head."""
        del taps
        return partial(_head, network)

    def prove(self, network: ReadNetwork, taps: Sequence[Tap], images: Tensor) -> None:
        """Prove for each tap that its mean over positions is what the head takes."""
        if network.head is None:
            raise CaptureError(f"the {network.role} has no linear head that could be applied at every position")
        for tap in taps:
            prove_class_maps(network.model, tap, network.head, network.receives(images), network.role)


def _head(network: ReadNetwork, reading: Reading) -> Head:
    del reading
    assert network.head is not None
    layer = network.model.get_submodule(network.head)
    assert isinstance(layer, nn.Linear)
    bias = cast("Tensor | None", layer.bias)
    return Head(network.precise(layer.weight), None if bias is None else network.precise(bias))


def class_map_tap(description: Description, role: str, layer: str | None = None) -> Tap:
    """Where a network is read for its class maps: the value that is averaged over positions and given to the head.

    Args:
        description: of the network.
        role: `teacher` or `student`, for messages.
        layer: path of a module whose output that is, where the user knows better.

    Raises:
        ValueError: if there is no linear head, or what is averaged could not be determined.
    """
    if description.head is None:
        raise InputError(
            f"the {role} has no class maps: no single linear layer is known that makes its logits (they come from a "
            "convolution, from several heads, or from a layer not called fc, classifier, head or linear); take "
            "another network, or a method that reads features"
        )
    if layer is not None:
        return description.tap(layer)
    if description.pooled is None:
        raise InputError(
            f"could not locate global average pooling before the head {description.head!r} of the {role}: the head may "
            "read a class token, or more than a pooling may lie before it, and then there are no class maps; if it is "
            f"the mean of some module's output, name that module ({role}_layer=)"
        )
    return description.pooled


def prove_class_maps(model: nn.Module, tap: Tap, head_path: str, image: Float[Tensor, "b 3 h w"], role: str) -> None:
    """Prove that the mean of the head over all positions of a tap gives the logits; nothing is left changed.

    The network runs once (twice where its head is all zeros) in evaluation mode on noise. The mean of the tap must be
    what the head takes, weight · mean + bias what the head gives, and that what the network returns. The head is
    linear, so its mean over the positions is the head of their mean, and no map needs to be made. Only norms take the
    statistics of the noise: a fresh one between pooling and head does nothing yet, and would go unnoticed; and without
    them a fresh deep network may give nothing but zeros.

    Args:
        model: the network, on its device and in its type.
        tap: what is said to be pooled.
        head_path: path of the linear layer.
        image: gives shape, type and device only.
        role: `teacher` or `student`, for messages.

    Raises:
        CaptureError: with the measured difference and its likely reason.
    """
    takes, gives = Tap(head_path, "input"), Tap(head_path)
    capture = Capture(model, (tap, takes, gives), role)
    try:
        head = model.get_submodule(head_path)
        if not isinstance(head, nn.Linear):
            kind = type(head).__name__
            raise CaptureError(f"the {role} has no class maps: its head {head_path} is a {kind}, not a linear layer")
        image = noise(image[:2])
        with undisturbed(model), torch.no_grad():
            model.eval()
            _take_statistics_of_the_batch(model)
            reading = _read(capture, image)
            assert reading.logits is not None
            pooled, output, logits = reading.values[takes], reading.values[gives], reading.logits
            _prove_before(model, tap, reading, pooled, head_path, role)
            _prove_head(head, head_path, pooled, output, role)
            if not bool(output.any()):
                # Nothing shows what becomes of zeros.
                output = torch.linspace(-1, 1, output.numel()).to(output).view_as(output)
                logits = capture.run(image, replaced={gives: output}).logits
                assert logits is not None
            _prove_after(output, logits, head_path, role)
            _prove_for_training(model, capture, image)
    finally:
        capture.close()


def _read(capture: Capture, image: Tensor) -> Reading:
    try:
        return capture.probe(image, gradient=False)
    except CaptureError as error:
        raise CaptureError(f"the {capture.role} cannot be read for its class maps: {error}") from error


def _prove_before(model: nn.Module, tap: Tap, reading: Reading, pooled: Tensor, head_path: str, role: str) -> None:
    """That the head takes the mean of a value over its positions."""
    value = reading.values[tap]
    no_maps = f"the {role} has no class maps at {tap}"
    if pooled.ndim != 2:
        raise CaptureError(
            f"{no_maps}: its head {head_path} takes a value of shape {tuple(pooled.shape)}, so nothing was pooled "
            "before it; wanted is (batch, channels)"
        )
    if value.ndim == 2:
        raise CaptureError(f"{no_maps}: that value has no positions, it lies after the pooling; name one before it")
    features = reading.spatial(tap)
    count, channels, height, width = features.shape
    if (count, channels) != pooled.shape:
        raise CaptureError(
            f"{no_maps}: it has {channels} channels for {count} images, and the head {head_path} takes "
            f"{pooled.shape[1]} for {pooled.shape[0]}{_between(model, tap, head_path, role)}"
        )
    if height * width == 1:
        raise CaptureError(
            f"{no_maps}: it has one position only; it lies after the pooling, or the images are too small for this "
            "network: give larger ones"
        )
    if not bool(pooled.any()):
        raise CaptureError(f"{no_maps}: on noise it is all zeros, so nothing can be proved; are its weights in order?")
    difference, allowed = _difference(_exact(features).mean((2, 3)), pooled), _tolerance(value, pooled)
    if not difference <= allowed:
        raise CaptureError(
            f"{no_maps}: its mean over {height}×{width} positions differs from what the head {head_path} takes by "
            f"{difference:.1e} of the largest (allowed: {allowed:.0e}){_between(model, tap, head_path, role)}"
        )


def _prove_head(head: nn.Linear, head_path: str, pooled: Tensor, output: Tensor, role: str) -> None:
    """That the head gives weight · input + bias, as class maps do at every position."""
    bias = cast("Tensor | None", head.bias)
    expected = functional.linear(_exact(pooled), _exact(head.weight), _exact(bias) if bias is not None else None)
    difference, allowed = _difference(expected, output), _tolerance(pooled, output, product=True)
    if not difference <= allowed:
        raise CaptureError(
            f"the {role} has no class maps: its head {head_path} ({type(head).__name__}) gives something else than "
            f"weight · input + bias, by {difference:.1e} of the largest (allowed: {allowed:.0e})"
        )


def _prove_after(output: Tensor, logits: Tensor, head_path: str, role: str) -> None:
    """That what the head gives is what the network returns."""
    if output.shape != logits.shape:
        difference = f"have the shape {tuple(logits.shape)} where it has {tuple(output.shape)}"
    elif _difference(_exact(output), logits) <= _tolerance(output, logits):
        return
    else:
        difference = f"differ by {_difference(_exact(output), logits):.1e} of the largest"
    raise CaptureError(
        f"the {role} has no class maps: its logits are not what its head {head_path} gives, they {difference}; they "
        "are changed afterwards (a scale, an activation), or another head has a part in them"
    )


def _prove_for_training(model: nn.Module, capture: Capture, image: Tensor) -> None:
    """That no parameter tells the two sides of the equalities apart: a learned scale begins as an identity too."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        return
    tap, takes, gives = capture.taps
    with torch.enable_grad():
        reading = capture.run(image)
        assert reading.logits is not None
        mean = reading.spatial(tap).mean((2, 3))
        pairs = ((mean, reading.values[takes]), (reading.values[gives], reading.logits))
        whole, apart = (_gradients(values, parameters) for values in zip(*_told_apart(pairs), strict=True))
    largest = max((float(g.abs().max()) for g in whole if g is not None), default=0.0)
    for name, g, g0 in zip(parameters, apart, whole, strict=True):
        if g is None or g0 is None:
            continue
        found = float(g.abs().max())
        if found > _LEARNED * float(g0.abs().max()) and found > _NEGLIGIBLE * largest:
            raise CaptureError(
                f"the {capture.role} has no class maps at {tap}: {name} acts between it and the logits beside the "
                "head; it does nothing yet, but will once it has learned. Take another network or method"
            )


def _told_apart(pairs: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each pair of equal values, something that depends on the second, and the same of their difference."""
    for first, second in pairs:
        mixed = torch.arange(second.numel(), device=second.device).cos().view_as(second).to(second.dtype)
        yield (mixed * second).sum(), (mixed * (second - first)).sum()


def _gradients(values: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> Sequence[Tensor | None]:
    total = torch.stack(list(values)).sum()
    return torch.autograd.grad(total, list(parameters.values()), retain_graph=True, allow_unused=True)


def _take_statistics_of_the_batch(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            # Statistics shared between processes would wait for the others; moved ones show the norm too.
            if module.running_var is not None:
                module.running_var.mul_(_MOVED)
        elif hasattr(module, "running_var"):
            module.training = True


def _difference(expected: Tensor, found: Tensor) -> float:
    """Largest difference, as a part of the largest value found."""
    found = _exact(found)
    difference, largest = float((expected - found).abs().max()), float(found.abs().max())
    return difference / largest if largest else difference


def _exact(value: Tensor) -> Tensor:
    # On the host, because some devices have no float64.
    return value.detach().cpu().double()


def _tolerance(*values: Tensor, product: bool = False) -> float:
    fast = product and values[0].device.type != "cpu" and torch.get_float32_matmul_precision() != "highest"
    return max(_FAST_TOLERANCE if fast else 0.0, *(_TOLERANCES.get(value.dtype, _HALF_TOLERANCE) for value in values))


def _between(model: nn.Module, tap: Tap, head_path: str, role: str) -> str:
    """Words about what stands between a tap and the head, and what to do."""
    found = between(model, tap, head_path)
    reason = "no module shows why: a function between them, a class token, or a pooling that is no average"
    if found:
        reason = f"between them {'lies' if len(found) == 1 else 'lie'} {', '.join(found[:5])}"
    return (
        f"; {reason}. Class maps need global average pooling and then the linear head, with nothing but dropout "
        f"between them: name the module whose output is averaged ({role}_layer=), or take another network or method"
    )
