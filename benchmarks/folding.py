"""What a teacher's forward pass takes with its batch norms folded into its convolutions, and without.

Both are the same network, which runs in turns in one process.

    python benchmarks/folding.py [--network resnet56] [--precision bfloat16] [--rounds 20]
"""

import statistics
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from attention_transfer.analysis.step_cost import Clock, seconds_in_turns
from attention_transfer.capture import Folding
from attention_transfer.models import build
from beside_networks import Precision


@dataclass(frozen=True)
class Flags:
    """Measure a forward pass with and without batch norms.

    Args:
        network: as on the command line, without weights.
        batch_size: images.
        image_size: side in pixels.
        precision: of the network.
        threads: of torch.
        rounds: interleaved measurements; medians are reported.
        clock: `wall` is the time that passes, `cpu` the time that cores work, for a machine that is busy otherwise.
    """

    network: str = "resnet56"
    batch_size: int = 64
    image_size: int = 32
    precision: Precision = "float32"
    threads: int = 1
    rounds: int = 20
    clock: Clock = "cpu"


def main(flags: Flags) -> None:
    """Measure and print."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    network = build(flags.network, 100).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    images = torch.randn(flags.batch_size, 3, flags.image_size, flags.image_size)
    images = images.to(memory_format=torch.channels_last)

    def forward() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16) if flags.precision == "bfloat16" else nullcontext():
            return network(images)

    folding = Folding.found(network, forward, len(images))

    def folded() -> Tensor:
        with folding(len(images)):
            return forward()

    seconds = seconds_in_turns({"plain": forward, "folded": folded}, flags.rounds, images.device, clock=flags.clock)
    folded_norms = sum(pair.worthwhile(len(images)) for pair in folding.pairs)
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    print(f"{flags.network}, batch {flags.batch_size}, {flags.precision}: {folded_norms} of {norms} norms folded")
    for name, values in seconds.items():
        print(f"  {name:9} {statistics.median(values) * 1e3:9.2f} ms ({flags.clock})")
    ratios = [ours / plain for plain, ours in zip(*seconds.values(), strict=True)]
    print(f"  ratio     {statistics.median(ratios):9.3f}   median over {flags.rounds} rounds")


if __name__ == "__main__":
    main(tyro.cli(Flags))
