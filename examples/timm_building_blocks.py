"""A Distiller with the building blocks of timm's training script: optimiser, schedule, average, mixup, checkpoints.

    python examples/timm_building_blocks.py [FOLDER]

The state is saved after an epoch, a second start goes on with it, and the bare averaged student is kept at the end.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from timm import create_model
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from attention_transfer import AttentionTransfer, Distiller, SoftTargets

BATCH = 40


def digits() -> tuple[Tensor, Tensor]:
    """Images in -1…1 and labels; they come with scikit-learn."""
    found = load_digits()
    images = torch.as_tensor(found.images[:200], dtype=torch.float32).unsqueeze(1).expand(-1, 3, -1, -1) / 8 - 1
    return nn.functional.interpolate(images, 32, mode="bilinear"), torch.as_tensor(
        found.target[:200], dtype=torch.int64
    )


def train(teacher: nn.Module, folder: Path, stop_after: int, epochs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    images, labels = digits()
    student = create_model("resnet10t", num_classes=10)
    methods = [AttentionTransfer(weight=100.0, stages=(0, 1, 2)), SoftTargets()]
    distiller = Distiller(student, teacher, methods, example=images[:2], task_weight=0.1)
    # Of the distiller, not of the student: methods may learn something beside it.
    optimizer = create_optimizer_v2(distiller, opt="adamw", lr=2e-3, weight_decay=0.05)
    schedule = CosineLRScheduler(optimizer, t_initial=epochs, warmup_t=1, warmup_lr_init=1e-4)
    average = ModelEmaV3(student, decay=0.9)
    mixup = Mixup(mixup_alpha=0.2, num_classes=10)
    begun, file = 0, folder / "last.pt"
    if file.exists():
        state = torch.load(file, weights_only=True)
        distiller.load_state_dict(state["distiller"])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        begun = state["epoch"]
    for epoch in range(begun, min(stop_after, epochs)):
        distiller.set_epoch(epoch)  # schedules of weights, and phases, go by it
        schedule.step(epoch)
        distiller.train()
        for index in torch.randperm(len(images)).split(BATCH):
            # Mixed labels are probabilities, which the distiller takes as they are.
            out = distiller(*mixup(images[index].clone(), labels[index]))
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            average.update(student)
        print(f"epoch {epoch}: loss {out.loss.item():.3f}, rate {optimizer.param_groups[0]['lr']:.1e}")
        state = {"distiller": distiller.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
        torch.save(state | {"average": average.state_dict()}, file)
    return average.module


def main(folder: Path) -> nn.Module:
    torch.manual_seed(1)
    teacher = create_model("resnet18", num_classes=10).train()
    with torch.no_grad():
        for part in digits()[0].split(BATCH):
            teacher(part)  # its norms have seen images; more does not matter here
    train(teacher, folder, stop_after=1)
    student = train(teacher, folder, stop_after=3)
    save_file(
        {name: value.contiguous() for name, value in student.state_dict().items()}, folder / "student.safetensors"
    )
    return student


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else folder))
