"""How long pieces of work take, measured in turns."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from attention_transfer.errors import InputError

Clock = Literal["wall", "cpu"]
_CLOCKS: Mapping[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds_in_turns(
    works: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: torch.device,
    *,
    warm_ups: int = 2,
    clock: Clock = "wall",
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round; in a round each is done once, so that whatever else the machine does
    meets all alike.

    Args:
        works: by name, in their order.
        rounds: that count, at least 1.
        device: where they run; it has finished when a clock is read.
        warm_ups: rounds before, which do not count.
        clock: `wall` is the time that passes, `cpu` the time that cores work, for a machine that is busy otherwise.

    Raises:
        ValueError: for less than one round.
    """
    if rounds < 1:
        raise InputError(f"rounds must be at least 1, not {rounds}")
    now, accelerated = _CLOCKS[clock], device.type != "cpu"
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-warm_ups, rounds):
        for name, work in works.items():
            if accelerated:
                torch.accelerator.synchronize(device)
            started = now()
            work()
            if accelerated:
                torch.accelerator.synchronize(device)
            if number >= 0:
                seconds[name].append(now() - started)
    return seconds
