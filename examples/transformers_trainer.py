"""A Distiller in the Trainer of transformers.

    python examples/transformers_trainer.py [FOLDER]

The Trainer has the loop: it is stopped, goes on from its checkpoint, and the bare student is kept at the end.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification

from attention_transfer import AttentionDistillation, Distiller, SoftTargets
from attention_transfer.methods.layers.layer_selection import Layers


class Digits(Dataset[dict[str, Tensor]]):
    """Images in -1…1 and labels, under the names that a Trainer hands on; they come with scikit-learn."""

    def __init__(self) -> None:
        found = load_digits()
        images = torch.as_tensor(found.images[:400], dtype=torch.float32).unsqueeze(1).expand(-1, 3, -1, -1) / 8 - 1
        self.images = nn.functional.interpolate(images, 16, mode="bilinear")
        self.labels = torch.as_tensor(found.target[:400], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.images[index], "labels": self.labels[index]}


class Epochs(TrainerCallback):
    """Schedules of weights, and phases, go by the epoch."""

    def __init__(self, distiller: Distiller) -> None:
        self.distiller = distiller

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.distiller.set_epoch(int(state.epoch or 0))


class DistillationTrainer(Trainer):
    """The distiller is the model; its loss is the loss."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *others: Any, **more: Any) -> Tensor:
        return model(inputs["images"], inputs["labels"]).loss


def vit(layers: int) -> nn.Module:
    sizes = {"image_size": 16, "patch_size": 4, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    return ViTForImageClassification(ViTConfig(num_hidden_layers=layers, num_labels=10, **sizes))


def trainer(teacher: nn.Module, folder: Path, epochs: int) -> DistillationTrainer:
    methods = [AttentionDistillation(weight=1.0, layers=Layers(match="spread")), SoftTargets()]
    distiller = Distiller(vit(2), teacher, methods, example=torch.empty(2, 3, 16, 16), task_weight=0.1)
    # The columns of the data set are the distiller's arguments, not a transformer's.
    names = {"remove_unused_columns": False, "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    settings = TrainingArguments(
        str(folder), num_train_epochs=epochs, save_strategy="epoch", learning_rate=3e-3, **names
    )
    return DistillationTrainer(distiller, settings, train_dataset=Digits(), callbacks=[Epochs(distiller)])


def main(folder: Path) -> nn.Module:
    torch.manual_seed(0)
    teacher, data = vit(4), Digits()
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for _ in range(80):
        index = torch.randint(0, len(data), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(teacher(data.images[index]).logits, data.labels[index]).backward()
        optimizer.step()
    trainer(teacher, folder, 1).train()  # as if stopped after one epoch
    again = trainer(teacher, folder, 2)
    again.train(resume_from_checkpoint=True)
    student = again.model.student
    save_file(
        {name: value.contiguous() for name, value in student.state_dict().items()}, folder / "student.safetensors"
    )
    print(f"epoch {again.state.epoch:g}, step {again.state.global_step}; student: student.safetensors")
    return student


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else folder))
