"""Peak memory of the tensors of a computation."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from attention_transfer.capture.private_names import DispatchMode, tensors_in


def peak_bytes(
    held: Iterable[Tensor], device: torch.device, prepare: Callable[[], object], work: Callable[[], object]
) -> int:
    """Peak memory in bytes of the tensors of some work.

    Example:
        >>> image = torch.zeros(100)  # 400 bytes
        >>> peak_bytes([image], image.device, prepare=lambda: None, work=lambda: image + 1)
        800

    On CUDA it is what the allocator reports, less what others hold there. Elsewhere tensors are counted: storages, once
    each, for as long as anything refers to them; scratch memory inside a kernel is not seen.

    Args:
        held: tensors that exist before and count, such as parameters and inputs.
        device: device of all tensors.
        prepare: runs first; what it leaves behind counts, its own peak does not.
        work: what is measured.
    """
    tensors = list(held)
    if device.type == "cuda":
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        others = torch.cuda.memory_allocated(device) - sum(storages.values())
        prepare()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - others
    with LiveTensors(tensors) as live:
        prepare()
        live.restart()
        work()
        return live.peak


class LiveTensors(DispatchMode):
    """Counts the bytes of tensors that are alive while it is entered.

    Args:
        held: tensors that exist before and count too.

    Attributes:
        now: bytes alive.
        peak: most bytes alive at once since the last `restart`.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, int] = {}
        for tensor in held:
            self._take(tensor)

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak = self.now

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tensors_in(result):
            self._take(value)
        return result

    def _take(self, tensor: Tensor) -> None:
        # A storage outlives the tensors that share it: views, and what autograd keeps for the backward pass.
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self._known or not storage.nbytes():
            return
        self._known[key] = storage.nbytes()
        self.now += self._known[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._known.pop(key)
