"""`fit` in two processes: each with its share of the images, and gone on with by as many as began."""

import os
import socket
from pathlib import Path

import pytest
import torch
from tests.training.test_fit_own_loader import SILENT, StoppedError, Stopper, make, sgd
from tests.two_processes import TwoProcesses
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from attention_transfer import InputError, fit
from attention_transfer.runs import RunFolder


def images() -> TensorDataset:
    draws = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(24, 3, 8, 8, generator=draws), torch.arange(24) % 3)


def run_fit(rank: int, port: int, folder: str, stop_before: int | None) -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distiller, data = make(), images()
    # Each of its own start: the first process's weights count.
    if rank:
        with torch.no_grad():
            next(distiller.student.parameters()).add_(1)
    try:
        fitted = fit(
            distiller,
            DataLoader(data, 4, sampler=DistributedSampler(data, 2, rank)),
            epochs=2,
            optimizer=sgd(distiller, 0.01),
            accumulate_steps=2,
            evaluate=DataLoader(data, 8),
            folder=folder,
            checkpoint_every_steps=1,
            reporter=SILENT if stop_before is None else Stopper(stop_before),
        )
    except StoppedError:
        return
    weights = torch.cat([value.flatten().double() for value in distiller.student.parameters()])
    torch.save({"weights": weights, "seen": fitted.summary["samples_seen"]}, f"{folder}-{rank}.pt")


def started(two_processes: TwoProcesses, folder: Path, stop_before: int | None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    two_processes.run(run_fit, port, str(folder), stop_before)


def test_two_processes_share_the_images_and_go_on(two_processes: TwoProcesses, tmp_path: Path) -> None:
    started(two_processes, tmp_path / "whole", None)
    # Three batches an epoch, two of them a step: inside the second epoch, after its first step.
    started(two_processes, tmp_path / "broken", 5)
    assert not RunFolder(tmp_path / "broken").finished
    distiller = make()
    with pytest.raises(InputError, match=r"is of 2 processes, .* and now there is 1: start as many"):
        fit(
            distiller,
            DataLoader(images(), 4, sampler=DistributedSampler(images(), 2, 0)),
            epochs=2,
            optimizer=sgd(distiller, 0.01),
            accumulate_steps=2,
            evaluate=DataLoader(images(), 8),
            folder=tmp_path / "broken",
            checkpoint_every_steps=1,
            reporter=SILENT,
        )
    started(two_processes, tmp_path / "broken", None)
    found = [torch.load(f"{tmp_path / name}-{rank}.pt") for name in ("whole", "broken") for rank in (0, 1)]
    for each in found[1:]:
        assert torch.equal(each["weights"], found[0]["weights"])
        assert each["seen"] == 48
    whole, broken = (RunFolder(tmp_path / name).read_metrics() for name in ("whole", "broken"))
    assert [row["terms"] for row in whole] == [row["terms"] for row in broken]
    assert [row["test"] for row in whole] == [row["test"] for row in broken]
