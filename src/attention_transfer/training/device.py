"""Device, precision and memory format of a run."""

import os
import platform
import warnings
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from attention_transfer.capture.eager_attention import WrittenOutAttention
from attention_transfer.errors import InputError, first_line

if TYPE_CHECKING:
    from attention_transfer.experiment import Training

Precision = Literal["float32", "bfloat16", "float16"]

# Below 1.2e-38, the least normal number of float32.
_DENORMAL = 1e-40


@dataclass(frozen=True)
class Arithmetic:
    """A device with the arithmetic and memory format of a run.

    Args:
        device: device of networks and images.
        precision: precision of the networks; losses stay float32.
        memory_format: memory format of networks and images.
    """

    device: torch.device
    precision: Precision = "float32"
    memory_format: torch.memory_format = torch.contiguous_format

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which networks run."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.float16 if self.precision == "float16" else torch.bfloat16)

    def attention_kernel(self) -> AbstractContextManager[Any]:
        """The context in which a step runs, forwards and backwards (where checkpointed layers run again).

        Which of two equal ways computes attention.

        On a CPU torch's fused kernel is slow backwards in bfloat16: written out, attention takes 0.25 of its time for
        65 tokens, 0.4 to 0.5 for 197 and 0.6 for 577; in float32 fusing pays (torch 2.15, AMD EPYC, one thread, heads
        of 32 and 64; `benchmarks/attention_kernels.py`).
        """
        if self.device.type == "cpu" and self.precision == "bfloat16":
            return WrittenOutAttention()
        return nullcontext()


@contextmanager
def given_back() -> Generator[None]:
    """Torch's threads, and whether it flushes denormals, are afterwards as they were."""
    threads, flushes = torch.get_num_threads(), _flushes_denormals()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_flush_denormal(flushes)


def choose_arithmetic(training: "Training", convolutional: bool, local_rank: int = 0) -> Arithmetic:
    """Settle device, precision and memory format, and torch's threads.

    Raises:
        ValueError: for a device that is not there.
    """
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    # Denormals in decaying momentum buffers slow a CPU down tenfold.
    torch.set_flush_denormal(True)
    device = _device(training.device, local_rank)
    refuse_precision(training.precision, device)
    channels_last = convolutional if training.channels_last is None else training.channels_last
    return Arithmetic(device, training.precision, torch.channels_last if channels_last else torch.contiguous_format)


def refuse_precision(precision: Precision, device: torch.device) -> None:
    """Refuse half precision where a device cannot compute in it.

    Raises:
        InputError: naming precision and device.
    """
    if precision != "float16":
        return
    try:
        with warnings.catch_warnings():
            # Where it cannot, torch warns and goes on in float32.
            warnings.simplefilter("error")
            with torch.autocast(device.type, torch.float16):
                weight = torch.ones(4, 4, device=device, requires_grad=True)
                (weight @ weight).sum().backward()
                image = torch.ones(1, 4, 4, 4, device=device, requires_grad=True)
                torch.nn.functional.conv2d(image, weight.reshape(1, 4, 2, 2)).sum().backward()
            torch.amp.GradScaler(device.type)
    except Exception as error:  # whatever torch says there
        raise InputError(
            f"precision float16 cannot be used on {device.type} here ({first_line(error)}): take bfloat16 or float32"
        ) from error


def environment(place: Arithmetic) -> dict[str, Any]:
    """Versions and hardware, for the record of a run."""
    names = ("attention-transfer", "torch", "torchvision", "timm", "numpy", "transformers")
    versions: dict[str, str] = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    accelerated = place.device.type == "cuda"
    hardware = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(place.device) if accelerated else str(place.device),
        "platform": platform.platform(terse=True),
    }
    return {"versions": versions, "hardware": hardware}


def _flushes_denormals() -> bool:
    """Whether denormals are flushed: torch has a setter for it, and no getter."""
    return not float(torch.full((1,), _DENORMAL, dtype=torch.float32) * 1)


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device("cpu") if accelerator is None else torch.device(accelerator.type, local_rank)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # of those that hold no numbers too
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {name!r} cannot be used here: {first_line(error)}") from error
    return device


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
