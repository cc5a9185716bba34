"""Two processes equal one."""

import os
import socket
from pathlib import Path

import pytest
import torch
from tests.distiller.test_distiller import Limited
from tests.pairs import pair
from tests.training.test_fit import TwoPhases
from tests.two_processes import TwoProcesses
from torch import Tensor, distributed, nn

from attention_transfer import (
    METHODS,
    AttentionTransfer,
    Data,
    Distiller,
    Experiment,
    Training,
    build,
)
from attention_transfer.runs import RunFolder
from attention_transfer.training.distributed import Process, wrap
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.progress import Reporter


def make(methods: str) -> Distiller:
    first = methods.partition("+")[0]
    student, teacher = pair(first, 5)
    chosen = [METHODS[key]() for key in methods.split("+")]
    alone = "+" not in methods and "copy" not in methods
    distiller = Distiller(
        student, teacher, chosen, task_weight=0.0 if alone else 1.0, example=torch.empty(2, 3, 16, 16)
    )
    # Batch statistics differ between halves of a batch; everything else must not.
    return distiller.eval()


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 5


def gradients(module: nn.Module, distiller: Distiller, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    distiller.backward(module(images, labels))
    return {name: p.grad for name, p in distiller.named_parameters() if p.grad is not None}


def run(rank: int, folder: str, methods: str) -> None:
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


@pytest.mark.filterwarnings("ignore:the student learns in evaluation mode")
@pytest.mark.parametrize(
    "methods",
    [
        "at+kd",
        "at",
        "cat",
        "gradient",
        "gradient+cat",
        "attention-distillation",
        "attention-copy",
        # With what it learns beside the student.
        "attention-links",
        # Images are compared with those of the other process too.
        "rkd+sp+pkt+dkd+fitnet",
    ],
)
def test_two_processes_average_to_the_gradient_of_one(
    two_processes: TwoProcesses, tmp_path: Path, methods: str
) -> None:
    two_processes.run(run, str(tmp_path), methods)
    distiller = make(methods)
    wanted = gradients(distiller, distiller, *data())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert set(found) == set(wanted)
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-5)


def run_limited(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    distiller = Distiller(build("resnet8", 5), None, [Limited()], example=torch.empty(2, 3, 16, 16))
    images, labels = data()
    half = slice(4 * rank, 4 * rank + 4)
    torch.save(
        gradients(wrap(distiller, Process(rank, 2)), distiller, images[half], labels[half]), f"{folder}/{rank}.pt"
    )


def test_limited_gradients_are_averaged_too(two_processes: TwoProcesses, tmp_path: Path) -> None:
    two_processes.run(run_limited, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)


def run_fit(rank: int, port: int, folder: str, images: str) -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    METHODS["two"] = TwoPhases
    experiment = Experiment(
        "test",
        "resnet8",
        "resnet14",
        methods=(TwoPhases(), AttentionTransfer()),
        untrained_teacher=True,
        data=Data(f"npz:{images}"),
        training=Training(epochs=1, batch_size=8, threads=1, device="cpu"),
    )
    fit_experiment(experiment, Path(folder), Reporter(silent=True))


def test_two_processes_train_in_phases_and_leave_a_finished_run_alone(
    two_processes: TwoProcesses, tmp_path: Path, images: Path
) -> None:
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = (port, str(tmp_path / "run"), str(images))
        two_processes.run(run_fit, *arguments)
    rows = RunFolder(tmp_path / "run").read_metrics()
    assert [row["phase"] for row in rows] == ["first", "first", "second"]
    assert RunFolder(tmp_path / "run").finished
