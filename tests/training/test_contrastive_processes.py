"""Two processes contrast as one does: the same negatives, memories and gradients."""

from pathlib import Path

import pytest
import torch
from tests.trained import as_trained
from tests.two_processes import TwoProcesses
from torch import Tensor, distributed, nn

from attention_transfer import Contrastive, Distiller, build
from attention_transfer.training.distributed import Process, wrap

LABELS = torch.arange(40) % 5
METHODS = {
    "bank": Contrastive(num_negatives=12, dimensions=8),
    "queue": Contrastive(memory="queue", num_negatives=12, dimensions=8),
}


def make(memory: str) -> Distiller:
    torch.manual_seed(0)
    networks = build("resnet8", 5), as_trained(build("resnet14", 5))
    example = torch.empty(2, 3, 16, 16)
    distiller = Distiller(*networks, [METHODS[memory]], task_weight=0, example=example, train_labels=LABELS)
    # Batch statistics differ between halves of a batch; the memory must not.
    distiller.eval()
    distiller.parts.train()
    return distiller


def steps(module: nn.Module, distiller: Distiller, share: slice, rank: int) -> dict[str, Tensor]:
    """State and gradients after two steps on a share of each batch."""
    for step in range(2):
        distiller.zero_grad()
        index = torch.arange(8 * step, 8 * step + 8)
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        torch.manual_seed(100 * rank + step)
        out = module(images[share], LABELS[index[share]], index[share])
        distiller.backward(out)
    gradients = {f"gradient of {name}": p.grad for name, p in distiller.named_parameters() if p.grad is not None}
    return gradients | {name: value.clone() for name, value in distiller.parts.state_dict().items()}


def run(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for memory in METHODS:
        distiller = make(memory)
        found = steps(wrap(distiller, Process(rank, 2)), distiller, slice(4 * rank, 4 * rank + 4), rank)
        torch.save(found, f"{folder}/{memory}-{rank}.pt")


@pytest.mark.filterwarnings("ignore:the student learns in evaluation mode")
def test_two_processes_remember_and_learn_what_one_does(two_processes: TwoProcesses, tmp_path: Path) -> None:
    two_processes.run(run, str(tmp_path))
    for memory in METHODS:
        distiller = make(memory)
        wanted = steps(distiller, distiller, slice(0, 8), 0)
        for rank in range(2):
            found = torch.load(tmp_path / f"{memory}-{rank}.pt", weights_only=True)
            assert set(found) == set(wanted)
            for name, value in wanted.items():
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_what_is_equal_by_itself_is_not_copied_in_every_step(tmp_path: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = wrap(make("bank"), Process(0, 2))
        left_out = wrapped.parameters_to_ignore
        assert {"parts.crd.normalisers", "parts.crd.memory.student", "parts.crd.memory.labels"} <= left_out
        assert "student.bn1.running_mean" not in left_out
    finally:
        distributed.destroy_process_group()
