"""Two processes with a loop of their own around DistributedDataParallel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.closeness import assert_near
from tests.distiller.test_distiller import Limited
from tests.trained import as_trained
from tests.two_processes import TwoProcesses
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from attention_transfer import AttentionTransfer, Distiller, FitNet, Method, MultiHeadGraph, SoftTargets, build

# Methods, weight of the task, options of the wrapper, epochs.
LOOPS: Mapping[str, tuple[list[Method], float, dict[str, bool], int]] = {
    # The last layer of the student is reached by nothing but its logits.
    "without the task": ([AttentionTransfer()], 0.0, {"find_unused_parameters": True}, 1),
    "phases": ([FitNet(hint_epochs=1), SoftTargets()], 1.0, {"find_unused_parameters": True}, 3),
    "parts first": ([MultiHeadGraph(graph_epochs=2)], 1.0, {"find_unused_parameters": True}, 4),
    "graphs without the task": ([MultiHeadGraph(graph_epochs=1)], 0.0, {"find_unused_parameters": True}, 3),
    "limited": ([Limited(), SoftTargets()], 1.0, {}, 2),
    "static": ([AttentionTransfer(), SoftTargets()], 1.0, {"static_graph": True}, 3),
    "static and limited": ([Limited()], 1.0, {"static_graph": True}, 3),
}


def data(epoch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(epoch)
    return torch.randn(8, 3, 16, 16, dtype=torch.float64, generator=generator), torch.arange(8) % 5


def make(name: str) -> Distiller:
    methods, task_weight, _, _ = LOOPS[name]
    torch.manual_seed(0)
    # In double precision, as halves of a batch may round a value to the other side of a kink.
    student, teacher = build("resnet8", 5).double(), as_trained(build("resnet14", 5)).double()
    read = any(not isinstance(method, Limited) for method in methods)
    example = torch.empty(2, 3, 16, 16, dtype=torch.float64)
    distiller = Distiller(student, teacher if read else None, methods, task_weight=task_weight, example=example)
    # Batch statistics differ between halves of a batch; everything else must not.
    return distiller.eval()


def train(name: str, distiller: Distiller, module: torch.nn.Module, share: slice) -> dict[str, Tensor]:
    """The loop of the README."""
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    for epoch in range(LOOPS[name][3]):
        distiller.set_epoch(epoch)
        for step in range(2):
            images, labels = data(10 * epoch + step)
            out = module(images[share], labels[share])
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
    return {name: value for name, value in distiller.state_dict().items() if value.is_floating_point()}


def run(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for name, (_, _, options, _) in LOOPS.items():
        distiller = make(name)
        module = DistributedDataParallel(distiller, **options)  # pyright: ignore[reportArgumentType]
        found[name] = train(name, distiller, module, slice(4 * rank, 4 * rank + 4))
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.filterwarnings("ignore:the student learns in evaluation mode")
def test_two_processes_end_as_one_with_the_whole_batch(two_processes: TwoProcesses, tmp_path: Path) -> None:
    two_processes.run(run, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in LOOPS:
        distiller = make(name)
        wanted = train(name, distiller, distiller, slice(None))
        for key, value in wanted.items():
            assert torch.equal(first[name][key], second[name][key]), (name, key)
            # Some never move but by rounding, such as a bias under a softmax.
            scale = 1.0 + float(value.norm())
            assert_near(first[name][key], value, steps=1e6, scale=scale, msg=f"{name}: {key}")
