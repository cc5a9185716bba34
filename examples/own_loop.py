"""A Distiller in a training loop written by hand.

    python examples/own_loop.py

A network learns to read digits; then a smaller one learns them twice, from a tenth of the images: alone, and with the
help of the first. Some seconds on one core, no download.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import AttentionTransfer, Distiller, SoftTargets, build

BATCH = 20
RATE = 1e-2
FEW = 100  # images that the students learn from


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images in -1…1 and labels, to learn from and to measure on; they come with scikit-learn."""
    found = load_digits()
    images = torch.as_tensor(found.images, dtype=torch.float32).unsqueeze(1).expand(-1, 3, -1, -1) / 8 - 1
    images = functional.interpolate(images, 16, mode="bilinear")
    labels = torch.as_tensor(found.target, dtype=torch.int64)
    return images[:1000], labels[:1000], images[1000:], labels[1000:]


def train(distiller: Distiller, images: Tensor, labels: Tensor, epochs: int) -> None:
    """The loop. It is the same with and without a teacher, and right for every method."""
    optimizer = torch.optim.AdamW(distiller.trainable_parameters(), lr=RATE)
    total = distiller.num_epochs(epochs)  # with those of phases in which a method learns something beforehand
    for epoch in range(total):
        distiller.set_epoch(epoch)  # schedules of weights, and phases, go by it
        distiller.train()
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - epoch / total)
        for index in torch.randperm(len(images)).split(BATCH):
            out = distiller(images[index], labels[index], index)
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
        if epoch % 5 == 0 or epoch == total - 1:
            terms = ", ".join(f"{name} {term.weight:g}·{term.value.item():.4f}" for name, term in out.terms.items())
            print(f"  epoch {epoch:>2}: {terms}")


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose class is found."""
    return (network.eval()(images).argmax(1) == labels).float().mean().item()


def main(teacher_epochs: int = 3, student_epochs: int = 15) -> dict[str, float]:
    """Train the three networks and say how good they are."""
    torch.manual_seed(0)
    images, labels, test_images, test_labels = digits()

    print("teacher")
    teacher = build("resnet14", 10)
    train(Distiller(teacher, example=images[:2]), images, labels, teacher_epochs)

    found = {"teacher": accuracy(teacher, test_images, test_labels)}
    for name in ("alone", "with the teacher"):
        print(f"student, {name}")
        torch.manual_seed(1)
        student = build("resnet8", 10)
        if name == "alone":
            distiller = Distiller(student, example=images[:2])
        else:
            methods = [AttentionTransfer(weight=30.0), SoftTargets(weight=0.9, temperature=4.0)]
            distiller = Distiller(student, teacher, methods, task_weight=0.1, example=images[:2])
            print(distiller.summary())
        train(distiller, images[:FEW], labels[:FEW], student_epochs)
        distiller.detach()  # gives the teacher back as it came; the student is the object that went in
        found[name] = accuracy(student, test_images, test_labels)
    for name, share in found.items():
        print(f"{name:<17} {share:.1%}")
    return found


if __name__ == "__main__":
    main()
