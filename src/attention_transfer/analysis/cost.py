"""Cost of networks: parameters, FLOPs, latency, throughput, memory and file size.

>>> layer = nn.Linear(10, 4)
>>> count_flops(layer, torch.zeros(3, 10))  # two for each of 3·10·4 multiply-adds
240
>>> inference_memory(layer, torch.zeros(3, 10)) == 4 * (10 * 4 + 4 + 3 * 10 + 3 * 4)
True
"""

import statistics
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attention_transfer.analysis.peak_memory import peak_bytes
from attention_transfer.analysis.step_cost import seconds_in_turns
from attention_transfer.capture import as_logits
from attention_transfer.errors import InputError, first_line
from attention_transfer.models import OpenedModel, save_model
from attention_transfer.runs import STUDENT_WEIGHTS
from attention_transfer.training.device import Arithmetic


@dataclass(frozen=True)
class Candidate:
    """A network to be measured.

    Args:
        name: name in the table.
        opened: the network; moved to the device and memory format of `place`, put into evaluation mode.
        image_size: side in pixels of its images.
        place: device and precision that it runs with.
    """

    name: str
    opened: OpenedModel
    image_size: int
    place: Arithmetic


@dataclass(frozen=True)
class Cost:
    """Cost of one network.

    Args:
        name: name in the table.
        image_size: side in pixels of its images.
        parameters: number of parameters, frozen ones included.
        multiply_adds: multiply-adds of convolutions, linear layers and attention in one forward pass of one image.
        flops: twice as many: a multiplication and an addition each.
        latency_seconds: one forward pass of one image, median.
        images_per_second: in forward passes of a whole batch, median.
        inference_bytes: peak memory of a forward pass of a batch, weights and images included.
        training_bytes: peak memory of a training step of a batch, weights, images, gradients and momentum included.
        file_bytes: size of its weights as `save_model` writes them.
    """

    name: str
    image_size: int
    parameters: int
    multiply_adds: int
    flops: int
    latency_seconds: float
    images_per_second: float
    inference_bytes: int
    training_bytes: int
    file_bytes: int

    def row(self) -> dict[str, Any]:
        """The fields, as JSON has them."""
        return asdict(self)


def measure_costs(candidates: Sequence[Candidate], batch_size: int = 64, repeats: int = 20) -> tuple[Cost, ...]:
    """Measure networks beside each other.

    Times are medians over rounds; in each round every network runs once, so that a busy machine slows
    down all alike. All run without autograd in evaluation mode, in float32, on seeded noise, after two runs that do not
    count. A training step is the second of two: forward, cross-entropy, backward and SGD with momentum.

    Args:
        candidates: in the order of the result.
        batch_size: images at a time, at least 2; for throughput and memory.
        repeats: rounds, at least 1.

    Raises:
        ValueError: nothing to measure, a number out of its range, or a network that cannot run on such images.
    """
    if not candidates:
        raise InputError("give at least one model")
    if batch_size < 2 or repeats < 1:
        raise InputError(f"batch_size must be at least 2 and repeats at least 1, not {batch_size} and {repeats}")
    # Batch norm may leave denormals, which slow a CPU down.
    torch.set_flush_denormal(True)
    for candidate in candidates:
        candidate.opened.module.eval().to(candidate.place.device)
        candidate.opened.module.to(memory_format=candidate.place.memory_format)  # pyright: ignore[reportCallIssue]
        _refuse_unfit(candidate)
    latencies = _interleaved(candidates, 1, repeats)
    batches = _interleaved(candidates, batch_size, repeats)
    return tuple(
        _cost(candidate, latency, batch_size / batch, batch_size)
        for candidate, latency, batch in zip(candidates, latencies, batches, strict=True)
    )


def count_flops(network: nn.Module, image: Float[Tensor, "b 3 h w"]) -> int:
    """Floating-point operations of convolutions, matrix products and attention in one forward pass.

    A multiplication and an addition count as two. Everything else (normalisation, activations, additions) is left out,
    as is usual.

    Args:
        network: in the mode that counts.
        image: its input; the count grows with the number of images.
    """
    # Fused kernels are unknown to the counter on some devices and versions, and would count as nothing: attention is
    # made to run as plain matrix products, and torch's fused encoder layer is switched off.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops())


def inference_memory(network: nn.Module, image: Float[Tensor, "b 3 h w"]) -> int:
    """Peak memory in bytes of a forward pass without autograd; weights and images count."""

    def run() -> None:
        with torch.no_grad():
            network(image)

    held = [*network.parameters(), *network.buffers(), image]
    return peak_bytes(held, image.device, prepare=run, work=run)


def training_memory(network: nn.Module, image: Float[Tensor, "b 3 h w"]) -> int:
    """Peak memory in bytes of a training step of SGD with momentum; weights, gradients and images count too.

    The network stays as it is: a copy is trained, all parameters of it.
    """
    trained = deepcopy(network).train().requires_grad_(True)
    labels = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(as_logits(trained(image), "network"), labels).backward()
        optimizer.step()

    held = [*trained.parameters(), *trained.buffers(), image, labels]
    # The first step makes the momentum; from the second on, all are alike.
    return peak_bytes(held, image.device, prepare=step, work=step)


def file_bytes(opened: OpenedModel) -> int:
    """Size of the weights as `save_model` writes them: safetensors, in the precision that they have."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(opened.module, Path(folder), opened.name, opened.num_classes, opened.image_size)
        return (Path(folder) / STUDENT_WEIGHTS).stat().st_size


def _cost(candidate: Candidate, latency: float, throughput: float, batch_size: int) -> Cost:
    network = candidate.opened.module
    flops = count_flops(network, _images(candidate, 1))
    return Cost(
        name=candidate.name,
        image_size=candidate.image_size,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        multiply_adds=flops // 2,
        flops=flops,
        latency_seconds=latency,
        images_per_second=throughput,
        inference_bytes=inference_memory(network, _images(candidate, batch_size)),
        training_bytes=training_memory(network, _images(candidate, batch_size)),
        file_bytes=file_bytes(candidate.opened),
    )


def _images(candidate: Candidate, count: int) -> Float[Tensor, "b 3 h w"]:
    side = candidate.image_size
    # Drawn on the CPU: generators of devices give other numbers for the same seed.
    noise = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return noise.to(candidate.place.device).contiguous(memory_format=candidate.place.memory_format)


def _refuse_unfit(candidate: Candidate) -> None:
    try:
        with torch.inference_mode():
            candidate.opened.module(_images(candidate, 1))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        # Networks raise whatever comes, mostly at a size that they were not built for.
        side = candidate.image_size
        raise InputError(
            f"{candidate.name} cannot run on images of {side}×{side}: {first_line(error)}; give another --image-size"
        ) from error


def _interleaved(candidates: Sequence[Candidate], batch_size: int, repeats: int) -> list[float]:
    """Median seconds of a forward pass of each network."""
    works = {
        str(number): partial(candidate.opened.module, _images(candidate, batch_size))
        for number, candidate in enumerate(candidates)
    }
    with torch.inference_mode():
        seconds = seconds_in_turns(works, repeats, candidates[0].place.device)
    return [statistics.median(measured) for measured in seconds.values()]
