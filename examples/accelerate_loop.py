"""A Distiller in a loop of accelerate: any number of processes, half precision, gradient accumulation.

    python examples/accelerate_loop.py [FOLDER]
    accelerate launch --cpu --num_processes 2 examples/accelerate_loop.py

The state is saved after an epoch, a second start goes on with it, and the bare student is kept at the end.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attention_transfer import AttentionTransfer, Distiller, SoftTargets, build


def digits() -> TensorDataset:
    """Images in -1…1 with labels; they come with scikit-learn."""
    found = load_digits()
    images = torch.as_tensor(found.images[:400], dtype=torch.float32).unsqueeze(1).expand(-1, 3, -1, -1) / 8 - 1
    images = nn.functional.interpolate(images, 16, mode="bilinear")
    return TensorDataset(images, torch.as_tensor(found.target[:400], dtype=torch.int64))


def taught(data: TensorDataset) -> nn.Module:
    """A teacher, the same in every process."""
    torch.manual_seed(0)
    teacher = build("resnet14", 10).train()
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-2)
    for _ in range(3):
        for images, labels in DataLoader(data, 40, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(teacher(images), labels).backward()
            optimizer.step()
    return teacher


def train(teacher: nn.Module, data: TensorDataset, folder: Path, epochs: int) -> nn.Module:
    # Some parameters are reached by no term, or frozen in a phase.
    wrapper = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(gradient_accumulation_steps=2, kwargs_handlers=[wrapper])
    methods = [AttentionTransfer(weight=100.0), SoftTargets()]
    distiller = Distiller(build("resnet8", 10), teacher, methods, example=torch.empty(2, 3, 16, 16), task_weight=0.1)
    optimizer = torch.optim.AdamW(distiller.trainable_parameters(), lr=1e-2)
    # The teacher goes along with the distiller; it is not prepared.
    model, optimizer, loader = accelerator.prepare(distiller, optimizer, DataLoader(data, 40, shuffle=True))
    begun = 0
    if (folder / "state").exists():
        accelerator.load_state(str(folder / "state"))
        begun = int((folder / "epoch").read_text())
    for epoch in range(begun, epochs):
        distiller.set_epoch(epoch)
        model.train()
        for images, labels in loader:
            with accelerator.accumulate(model):
                out = model(images, labels)
                accelerator.backward(out.loss)
                optimizer.step()
                optimizer.zero_grad()
        accelerator.print(f"epoch {epoch}: loss {out.loss.item():.3f}")
        accelerator.save_state(str(folder / "state"), safe_serialization=False)
        (folder / "epoch").write_text(str(epoch + 1))
    return distiller.student


def main(folder: Path) -> nn.Module:
    data = digits()
    teacher = taught(data)
    train(teacher, data, folder, 1)  # as if stopped after one epoch
    student = train(teacher, data, folder, 3).cpu().eval()
    save_file(student.state_dict(), folder / "student.safetensors")
    return student


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else folder))
