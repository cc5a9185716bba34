"""A Distiller inside a LightningModule.

    python examples/lightning_loop.py [FOLDER]

Lightning's Trainer has the loop: it is stopped, goes on from its checkpoint, and the bare student is kept at the end.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from attention_transfer import AttentionTransfer, Distiller, SoftTargets, build


class Distillation(lightning.LightningModule):
    """Only the distiller is an attribute: a teacher beside it would land in checkpoints, and in training mode."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        methods = [AttentionTransfer(weight=100.0), SoftTargets()]
        self.distiller = Distiller(student, teacher, methods, example=torch.empty(2, 3, 16, 16), task_weight=0.1)

    def on_train_epoch_start(self) -> None:
        self.distiller.set_epoch(self.current_epoch)  # schedules of weights, and phases, go by it

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        out = self.distiller(*batch)
        self.log_dict({name: term.value for name, term in out.terms.items()})
        return out.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.distiller.trainable_parameters(), lr=1e-2)


def digits() -> TensorDataset:
    """Images in -1…1 with labels; they come with scikit-learn."""
    found = load_digits()
    images = torch.as_tensor(found.images[:400], dtype=torch.float32).unsqueeze(1).expand(-1, 3, -1, -1) / 8 - 1
    images = nn.functional.interpolate(images, 16, mode="bilinear")
    return TensorDataset(images, torch.as_tensor(found.target[:400], dtype=torch.int64))


def trainer(folder: Path, epochs: int) -> lightning.Trainer:
    keep = ModelCheckpoint(folder, save_last=True)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, callbacks=[keep], **quiet)


def main(folder: Path) -> nn.Module:
    torch.manual_seed(0)
    data = digits()
    teacher = build("resnet14", 10).train()
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-2)
    for _ in range(3):
        for images, labels in DataLoader(data, 40, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(teacher(images), labels).backward()
            optimizer.step()
    loader = DataLoader(data, 40, shuffle=True)
    trainer(folder, 1).fit(Distillation(build("resnet8", 10), teacher), loader)  # as if stopped after one epoch
    module = Distillation(build("resnet8", 10), teacher)
    trainer(folder, 3).fit(module, loader, ckpt_path=folder / "last.ckpt")
    student = module.distiller.student.eval()
    save_file(student.state_dict(), folder / "student.safetensors")
    with torch.no_grad():
        right = (student(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean()
    print(f"epoch {module.current_epoch}: {right:.0%} of the images it has learned; student: student.safetensors")
    return student


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else folder))
