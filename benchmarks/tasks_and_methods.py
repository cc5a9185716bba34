"""Which methods learn from which data and tasks: the table of docs/tasks-and-methods.md, each cell run.

Builds a small pair of networks for every task, takes a step of every method, and writes down the refusal where there is
one. Fails if anything but this package's own refusals is raised, or a loss is not finite.

    python benchmarks/tasks_and_methods.py > docs/tasks-and-methods.md
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import METHODS, Distiller, InputError, Method, SoftTargets
from attention_transfer.distiller.notes import unwarned

CLASSES, COUNT, SIDE, FRAMES = 5, 4, 16, 4
# Of images in lists and of what nobody describes, layers are named.
NAMED = {"student_layers": ("layer1",), "teacher_layers": ("layer1",)}


class Convolutions(nn.Module):
    """Two stages and a head, of images or of volumes."""

    def __init__(self, width: int, outputs: int, convolution: Any = nn.Conv2d, norm: Any = nn.BatchNorm2d) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(convolution(3, width, 3, 2, 1), norm(width), nn.ReLU())
        self.layer2 = nn.Sequential(convolution(width, 2 * width, 3, 2, 1), norm(2 * width), nn.ReLU())
        self.fc = nn.Linear(2 * width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(images)).flatten(2).mean(2))


class Segmenting(nn.Module):
    """Classes of every pixel, in a dict."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inside = Convolutions(width, CLASSES)
        self.layer1, self.layer2 = inside.layer1, inside.layer2
        self.scores = nn.Conv2d(2 * width, CLASSES, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        scores = self.scores(self.layer2(self.layer1(images)))
        return {"out": functional.interpolate(scores, images.shape[2:], mode="bilinear")}


class Detecting(Convolutions):
    """One box in each image of a list; losses while it is trained."""

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        batch = torch.stack([functional.interpolate(each[None], (SIDE, SIDE))[0] for each in images])
        boxes = super().forward(batch)
        if not self.training:
            return [{"boxes": each[None]} for each in boxes]
        wanted = torch.stack([each["boxes"][0] for each in targets])
        return {"loss_box": functional.l1_loss(boxes, wanted)}


@dataclass(frozen=True)
class Task:
    """A kind of data with its labels.

    Args:
        name: in the table.
        networks: makes a network of a width.
        images: of a batch.
        labels: of the batch.
        settings: of the distiller.
    """

    name: str
    networks: Callable[[int], nn.Module]
    images: Any
    labels: Any
    settings: dict[str, Any]


def tasks() -> list[Task]:
    """Every kind."""
    images, classes = torch.randn(COUNT, 3, SIDE, SIDE), torch.arange(COUNT) % CLASSES
    boxes = [{"boxes": torch.rand(1, 4)} for _ in range(COUNT)]
    three = {"convolution": nn.Conv3d, "norm": nn.BatchNorm3d}
    hot = (torch.arange(COUNT * CLASSES).reshape(COUNT, CLASSES) % 3 == 0).float()
    listed = [torch.rand(3, SIDE, SIDE + i) for i in range(COUNT)]
    by_sum = {"task_loss": lambda losses, targets: sum(losses.values()), "student_takes_labels": True}
    return [
        Task("classes", lambda width: Convolutions(width, CLASSES), images, classes, {}),
        Task("classes, transformer", transformer, images, classes, {}),
        Task(
            "several hot labels",
            lambda width: Convolutions(width, CLASSES),
            images,
            hot,
            {"task_loss": "binary-cross-entropy"},
        ),
        Task(
            "one logit", lambda width: Convolutions(width, 1), images, hot[:, :1], {"task_loss": "binary-cross-entropy"}
        ),
        Task("regression", lambda width: Convolutions(width, 2), images, torch.randn(COUNT, 2), {"task_loss": "mse"}),
        Task(
            "segmentation",
            Segmenting,
            images,
            torch.randint(0, CLASSES, (COUNT, SIDE, SIDE)),
            {},
        ),
        Task("detection, lists", lambda width: Detecting(width, 4), listed, boxes, by_sum),
        Task(
            "volumes",
            lambda width: Convolutions(width, CLASSES, **three),
            torch.randn(COUNT, 3, FRAMES, SIDE, SIDE),
            classes,
            {},
        ),
    ]


def transformer(width: int) -> nn.Module:
    """A small vision transformer, with a distillation token."""
    sizes = {
        "img_size": SIDE,
        "patch_size": 4,
        "embed_dim": 6 * width,
        "depth": 2,
        "num_heads": 3,
        "num_classes": CLASSES,
    }
    return timm.create_model("deit_tiny_distilled_patch16_224", **sizes)


def tried(task: Task, method: type[Method]) -> str:
    """What a step comes to: `yes`, or the refusal."""
    torch.manual_seed(0)
    example = (task.images, task.labels) if task.settings.get("student_takes_labels") else task.images[:2]
    others = {"train_labels": torch.arange(40) % CLASSES} if isinstance(task.labels, Tensor) else {}
    named = {name: value for name, value in NAMED.items() if name in method.__dataclass_fields__}
    refused = ""
    for settings in ({}, named):
        pair = task.networks(2), task.networks(4)
        with torch.no_grad():
            for module in pair[1].modules():
                if hasattr(module, "num_batches_tracked"):
                    module.num_batches_tracked += 1
        try:
            with unwarned():
                distiller = Distiller(*pair, [method(**settings)], example=example, **task.settings, **others)
            distiller.set_epoch(0)
            out = distiller.train()(task.images, task.labels, torch.arange(COUNT))
        except InputError as error:
            refused = refused or str(error)
            continue
        out.loss.backward()
        if not bool(torch.isfinite(out.loss)):
            raise SystemExit(f"{method.key} on {task.name}: the loss is {out.loss.item()}")
        return "yes" if not settings else "with layers named"
    return refused


def main() -> None:
    """Print the page."""
    warnings.simplefilter("ignore")
    kinds = tasks()
    print("# Which methods learn from which tasks\n")
    print(
        f"Written by `benchmarks/tasks_and_methods.py` (torch {torch.__version__.partition('+')[0]}): a step of every "
        "method on a small pair of\nnetworks for every task, each cell run. [What the tasks are](any-task.md).\n"
    )
    print(f"| method | {' | '.join(task.name for task in kinds)} |")
    print("| --- |" + " --- |" * len(kinds))
    reasons: list[str] = []
    for key, method in METHODS.items():
        cells: list[str] = []
        for task in kinds:
            found = tried(task, method)
            if not found.startswith(("yes", "with layers")):
                reason = f"{found.partition(': give')[0]}"
                if reason not in reasons:
                    reasons.append(reason)
                found = f"no ({reasons.index(reason) + 1})"
            cells.append(found)
        print(f"| `{key}` | {' | '.join(cells)} |")
    print("\nWhat is refused, in the words of the refusal:\n")
    for number, reason in enumerate(reasons, 1):
        print(f"{number}. {reason}")
    assert tried(kinds[0], SoftTargets) == "yes"


if __name__ == "__main__":
    main()
