"""A method of your own, outside the package.

    python examples/own_method.py

A method is a frozen dataclass: its settings, what it reads of both networks, and its loss terms. This one asks that the
student's attention has its centre where the teacher's has it. Nothing is enrolled anywhere: hand an object of it to a
Distiller, or name it on the command line by its import path.

    attention-transfer train digits --tiny --methods examples.own_method:CentreOfAttention
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer import Description, Distiller, InputError, Method, Observed, Reads, Request, Term, build
from attention_transfer.batch import Batch


def centre(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2"]:
    """Row and column around which a layer's activations lie, each in -1…1.

    Args:
        features: activations of one layer, any scale.
    """
    # Networks may run in bfloat16, losses do not; and what is in float64 stays there.
    maps = features.to(torch.promote_types(features.dtype, torch.float32)).square().mean(1)
    maps = maps / maps.sum((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    rows = torch.linspace(-1, 1, maps.shape[1], dtype=maps.dtype, device=maps.device)
    columns = torch.linspace(-1, 1, maps.shape[2], dtype=maps.dtype, device=maps.device)
    return torch.stack([maps.sum(2) @ rows, maps.sum(1) @ columns], 1)


@dataclass(frozen=True)
class CentreOfAttention(Method):
    """Matches where the centre of attention lies in the last stage.

    Args:
        weight: of the term; distances are squared, in half sides of an image.
        stage: which stage of both networks, counted from 0 (negative from the end).

    Raises:
        InputError: without a teacher, or for a network without such a stage.
    """

    key: ClassVar[str] = "centre"

    weight: float = 10.0
    stage: int = -1

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        if teacher is None:
            raise InputError("centre: needs a teacher")
        for role, network in (("teacher", teacher), ("student", student)):
            if not -len(network.stages) <= self.stage < len(network.stages):
                raise InputError(f"centre: the {role} has {len(network.stages)} stages and no stage {self.stage}")
        return Reads(Request((teacher.stages[self.stage].output,)), Request((student.stages[self.stage].output,)))

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        del batch, parts
        # The distiller runs the teacher without gradient; taps arrive in the order of `reads`.
        distance = centre(student.features[0]) - centre(teacher.features[0])
        return {self.key: Term(distance.square().sum(1).mean())}


def main(steps: int = 40) -> list[float]:
    """Let an untrained student put its attention where another network has it; the term of each step."""
    torch.manual_seed(0)
    images = torch.randn(32, 3, 16, 16)
    # One bright corner per image, so that there is something to look at.
    for place, image in enumerate(images):
        row, column = 8 * (place % 2), 8 * (place // 2 % 2)
        image[:, row : row + 8, column : column + 8] += 3
    teacher = build("resnet20", 10).train()
    with torch.no_grad():
        for _ in range(5):
            teacher(images)  # its norms have seen images; more does not matter here
    distiller = Distiller(build("resnet8", 10), teacher.eval(), [CentreOfAttention()], task_weight=0, example=images)
    print(distiller.summary())
    optimizer = torch.optim.Adam(distiller.trainable_parameters(), lr=1e-3)
    distances: list[float] = []
    for step in range(steps):
        out = distiller(images)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        distances.append(out.terms["centre"].value.item())
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step:>2}: squared distance of the centres {distances[-1]:.4f}")
    return distances


if __name__ == "__main__":
    main()
