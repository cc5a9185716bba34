"""A network and a data set of your own, both plain PyTorch.

    python examples/own_network_and_data.py

The networks are modules that nobody has described, so the layers that are compared are named by their paths. The data
set is a torch Dataset that gives its index too, which some methods (here contrastive transfer) need.
"""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from attention_transfer import AttentionTransfer, Contrastive, Distiller

CLASSES = 4


class Stripes(Dataset[tuple[Tensor, int, int]]):
    """Noise with a patch of stripes at a random place, whose direction is the class."""

    def __init__(self, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(CLASSES, (size,), generator=generator)
        self._images = torch.randn(size, 3, 24, 24, generator=generator)
        rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
        for image, label in zip(self._images, self.labels.tolist(), strict=True):
            top, left = torch.randint(13, (2,), generator=generator).tolist()
            angle = torch.tensor(torch.pi * label / CLASSES)
            image[:, top : top + 12, left : left + 12] += 2 * torch.sin(
                1.6 * (rows * angle.cos() + columns * angle.sin())
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self._images[index], int(self.labels[index]), index


def block(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """A convolution with norm and activation."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


class Eye(nn.Module):
    """A network with names of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.retina = block(3, width, 1)
        self.nerve = block(width, 2 * width, 2)
        self.cortex = block(2 * width, 4 * width, 2)
        self.verdict = nn.Linear(4 * width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.verdict(self.cortex(self.nerve(self.retina(images))).mean((2, 3)))


def train(distiller: Distiller, data: Stripes, epochs: int) -> float:
    """Train and give the loss of the last step."""
    loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(distiller.trainable_parameters(), lr=3e-3)
    loss = float("nan")
    for epoch in range(distiller.num_epochs(epochs)):
        distiller.set_epoch(epoch)
        distiller.train()
        for images, labels, index in loader:
            out = distiller(images, labels, index)
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            loss = out.loss.item()
    return loss


@torch.no_grad()
def accuracy(network: nn.Module, data: Stripes) -> float:
    """Share of images whose class is found."""
    network.eval()
    hits = [
        (network(images).argmax(1) == labels).float().sum() for images, labels, _ in DataLoader(data, batch_size=256)
    ]
    return (torch.stack(hits).sum() / len(data)).item()


def main(teacher_epochs: int = 6, student_epochs: int = 6) -> dict[str, float]:
    """Train a teacher, then a student that learns from it; their accuracies."""
    torch.manual_seed(0)
    learned_from, measured_on = Stripes(768, seed=0), Stripes(512, seed=1)
    example = torch.empty(64, 3, 24, 24)  # only its shape, dtype and device matter

    teacher = Eye(16)
    train(Distiller(teacher, example=example), learned_from, teacher_epochs)

    student = Eye(4)
    layers = ("nerve", "cortex")
    methods = [
        AttentionTransfer(student_layers=layers, teacher_layers=layers),
        Contrastive(num_negatives=128, student_layer="cortex", teacher_layer="cortex"),
    ]
    distiller = Distiller(student, teacher, methods, example=example, train_labels=learned_from.labels)
    print(distiller.summary())
    train(distiller, learned_from, student_epochs)
    distiller.detach()
    found = {"teacher": accuracy(teacher, measured_on), "student": accuracy(student, measured_on)}
    for name, share in found.items():
        print(f"{name} {share:.1%}")
    return found


if __name__ == "__main__":
    main()
