"""`fit` with networks, a data set and DataLoaders of one's own: a run folder, interrupted and gone on with.

    python examples/fit_with_data_loader.py [FOLDER]

Crosses, squares and bars in noise are learned by a teacher, then by a small student under it. The student's training is
stopped on its way, and the same call goes on. Some seconds on one core; nothing but torch is needed.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from attention_transfer import AttentionTransfer, Distiller, Fitted, SoftTargets, fit

SIDE = 16


class Shapes(Dataset[tuple[Tensor, Tensor]]):
    """A cross, a square or a bar somewhere in an image of noise, which is drawn anew each time."""

    def __init__(self, count: int, seed: int) -> None:
        draws = torch.Generator().manual_seed(seed)
        self.places = torch.randint(0, SIDE - 7, (count, 2), generator=draws)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        image, (top, left) = 0.4 * torch.randn(SIDE, SIDE), self.places[item].tolist()
        inside = image[top : top + 7, left : left + 7]
        label = item % 3
        if label == 0:
            inside[3] += 1.5
            inside[:, 3] += 1.5
        elif label == 1:
            inside[1:6, 1:6] += 1
        else:
            inside[2:5] += 1
        return image.expand(3, -1, -1), torch.tensor(label)


def network(width: int) -> nn.Sequential:
    """Two stages, `0` and `1`, and a head."""

    def stage(inner: int, outer: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.ReLU())

    return nn.Sequential(
        stage(3, width), stage(width, 2 * width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 3)
    )


def loaders(count: int) -> tuple[DataLoader[tuple[Tensor, Tensor]], DataLoader[tuple[Tensor, Tensor]]]:
    """To learn from, and to measure on. `fit` seeds what shuffles, so that order and noise are the same again."""
    return DataLoader(Shapes(count, 0), 32, shuffle=True), DataLoader(Shapes(count, 1), 64)


def train_student(teacher: nn.Module, folder: Path, epochs: int, count: int, stop_after: int | None = None) -> Fitted:
    """One call, the same each time it is made; `stop_after` so many measurements stands for a power failure."""
    train, test = loaders(count)
    torch.manual_seed(1)
    distiller = Distiller(
        network(6),
        teacher,
        [AttentionTransfer(weight=10.0, student_layers=("0", "1"), teacher_layers=("0", "1")), SoftTargets()],
        example=torch.empty(2, 3, SIDE, SIDE),
    )

    measured: list[float] = []

    def measure(student: nn.Module) -> dict[str, float]:
        if len(measured) == stop_after:
            raise KeyboardInterrupt
        with torch.no_grad():
            hits = [(student(images).argmax(1) == labels).float() for images, labels in test]
        measured.append(100 * torch.cat(hits).mean().item())
        return {"top1": measured[-1]}

    return fit(
        distiller,
        train,
        epochs=epochs,
        optimizer=torch.optim.SGD(distiller.trainable_parameters(), lr=0.05, momentum=0.9),
        schedule="cosine",
        evaluate=measure,
        clip_gradient_norm=1.0,
        folder=folder,
    )


def main(folder: Path, epochs: int = 6, count: int = 480) -> dict[str, float]:
    """Train the teacher, then the student in two calls."""
    train, test = loaders(count)
    torch.manual_seed(0)
    teacher = network(16)
    alone = Distiller(teacher, example=torch.empty(2, 3, SIDE, SIDE))
    optimizer = torch.optim.AdamW(alone.trainable_parameters(), lr=1e-2)
    found = fit(alone, train, epochs=epochs, optimizer=optimizer, schedule="cosine", evaluate=test)  # writes nothing
    alone.detach()
    try:
        train_student(teacher, folder, epochs, count, stop_after=epochs // 2)
    except KeyboardInterrupt:
        print("stopped; and once more:")
    fitted = train_student(teacher, folder, epochs, count)
    print("in the folder:", *sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")))
    return {"teacher": found.rows[-1]["test"]["top1"], "student": fitted.rows[-1]["test"]["top1"]}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch, "run"))
