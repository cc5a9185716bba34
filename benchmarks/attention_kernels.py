"""What attention costs on this processor in each of the ways a step can compute it.

    python benchmarks/attention_kernels.py

CPU time of one call forwards and backwards on one thread, under autocast in bfloat16: written out as runs on a CPU do,
against torch's own choice of kernel; the median of interleaved rounds, and the median of their ratios.
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from attention_transfer.analysis.step_cost import seconds_in_turns
from attention_transfer.capture.eager_attention import WrittenOutAttention

# Images, heads, tokens and width of a head.
SIZES = ((64, 4, 17, 32), (64, 4, 65, 32), (64, 3, 197, 64), (16, 6, 197, 64), (8, 3, 577, 64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print("| images × heads × tokens × width | torch's kernel | written out | ratio |\n| ---- | ---: | ---: | ---: |")
    for size in SIZES:
        images, heads, tokens, width = size
        packed = torch.randn(images, tokens, 3, heads, width, dtype=torch.bfloat16)
        query, key, value = packed.permute(2, 0, 3, 1, 4).requires_grad_().unbind(0)
        ways: dict[str, Callable[[], AbstractContextManager[Any]]] = {
            "fused": nullcontext,
            "written": WrittenOutAttention,
        }
        works = {name: partial(_step, way, query, key, value) for name, way in ways.items()}
        fused, written = seconds_in_turns(works, rounds, query.device, clock="cpu").values()
        ratio = statistics.median(one / other for one, other in zip(written, fused, strict=True))
        times = " | ".join(f"{statistics.median(each) * 1e3:.1f} ms" for each in (fused, written))
        print(f"| {' × '.join(map(str, size))} | {times} | {ratio:.2f} |", flush=True)


def _step(way: Callable[[], AbstractContextManager[Any]], query: Tensor, key: Tensor, value: Tensor) -> None:
    with way(), torch.autocast("cpu", torch.bfloat16):
        functional.scaled_dot_product_attention(query, key, value).sum().backward(retain_graph=True)


if __name__ == "__main__":
    main()
