"""Values of a device that the host looks at one step late."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Late:
    """Values on their way from a device to the host; looking at them waits for nothing that was asked of it since.

    Args:
        values: where they arrive.
        arrived: tells when they have; None where asking for them waits by itself.
        judge: is given them.
    """

    values: Tensor
    arrived: torch.cuda.Event | None
    judge: Callable[[Tensor], None]

    @classmethod
    def sent(cls, values: Tensor, judge: Callable[[Tensor], None]) -> "Late":
        """Send values to the host.

        Args:
            values: few, on any device.
            judge: is given them on a CPU when they are read; raises if they are wrong.
        """
        if values.device.type != "cuda":
            # Elsewhere a copy that waits for nothing is not safe. What somebody may write over in between is copied.
            return cls(values.clone(), None, judge)
        host = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(values.device))
        return cls(host, arrived, judge)

    def read(self) -> None:
        """Look at them; raises what the judge raises."""
        if self.arrived is not None:
            self.arrived.synchronize()
        self.judge(self.values.cpu())
