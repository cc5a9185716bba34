"""Two processes equal one."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from attention_transfer import AttentionTransfer, Distiller, SoftTargets, build
from attention_transfer.training.distributed import Process, wrap


def make(methods: str) -> Distiller:
    torch.manual_seed(0)
    student, teacher = build("resnet8", 5), build("resnet8", 5)
    chosen = [AttentionTransfer()] if methods == "at" else [AttentionTransfer(), SoftTargets()]
    distiller = Distiller(
        student, teacher, chosen, task_weight=0.0 if methods == "at" else 1.0, example=torch.empty(2, 3, 16, 16)
    )
    # Batch statistics differ between halves of a batch; everything else must not.
    return distiller.eval()


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 5


def gradients(module: nn.Module, distiller: Distiller, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    distiller.backward(module(images, labels))
    return {name: p.grad for name, p in distiller.named_parameters() if p.grad is not None}


def run(rank: int, folder: str, methods: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    distiller = make(methods)
    half = slice(4 * rank, 4 * rank + 4)
    images, labels = data()
    module = wrap(distiller, Process(rank, 2))
    found = gradients(module, distiller, images[half], labels[half])
    # A second step: DistributedDataParallel complains there of parameters that the first did not reach.
    for parameter in distiller.parameters():
        parameter.grad = None
    found = gradients(module, distiller, images[half], labels[half])
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("methods", ["at+kd", "at"])
def test_two_processes_average_to_the_gradient_of_one(tmp_path: Path, methods: str) -> None:
    multiprocessing.start_processes(run, (str(tmp_path), methods), nprocs=2, start_method="spawn")
    distiller = make(methods)
    wanted = gradients(distiller, distiller, *data())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert set(found) == set(wanted)
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-5)
