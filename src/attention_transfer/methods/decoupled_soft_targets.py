"""Decoupled soft targets: what the teacher says of the right class and of the others, each with its own weight.

>>> import torch
>>> logits, labels = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0])
>>> [round(float(each), 6) for each in decoupled_divergences(logits, logits, labels, 4.0)]
[0.0, 0.0]
>>> DecoupledSoftTargets(temperature=4.0).key
'dkd'
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.batch import UNLABELLED, Batch
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import at_least_float32
from attention_transfer.methods.method import Method, Needs, Observed, Reads, Request, Term, require_same_classes
from attention_transfer.methods.soft_targets import check_temperature
from attention_transfer.models.introspection.description import Description
from attention_transfer.schedule import Schedule


def decoupled_divergences(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], label: Int64[Tensor, " b"], temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The two halves of T²·KL(teacher ‖ student): of target against the rest, and among the classes of the rest.

    Eq. 5 to 7 of Zhao et al. (CVPR 2022, arXiv:2203.08679), each averaged over the batch and times T². With p the
    teacher's softened probability of the right class, KL = target + (1 − p)·(others) for each image.

    Args:
        student: logits.
        teacher: logits, taken as constants.
        label: the right classes; images of -100 have none, and are left out.
        temperature: T, above 0.

    Returns:
        KL between (p, 1 − p) of teacher and student, and KL between their probabilities of the other classes, which
        sum to 1 without the right one.
    """
    labelled = label != UNLABELLED
    right = label.masked_fill(~labelled, 0)
    ours, theirs = (_decoupled(logits, right, temperature) for logits in (student, teacher.detach()))
    # The mean is over images with a label; the others have no right class, and differ in nothing.
    share = len(label) / labelled.sum().clamp_min(1)
    target, others = (
        share
        * temperature**2
        * functional.kl_div(
            torch.where(labelled[:, None], mine, wanted), wanted, reduction="batchmean", log_target=True
        )
        for mine, wanted in zip(ours, theirs, strict=True)
    )
    return target, others


@dataclass(frozen=True)
class DecoupledSoftTargets(Method):
    """Soft targets in two halves: how sure the teacher is of the right class, and how it ranks the others.

    Zhao et al. (CVPR 2022, arXiv:2203.08679): in plain soft targets the second half counts the less, the surer the
    teacher is; here it has a weight of its own. It goes with a task weight of 1.

    Labels must be class indices: of mixed images no class is the right one, and images without a label are left out.

    Args:
        weight: of both halves.
        schedule: the weight rises over the first 20 epochs, as on CIFAR-100; on ImageNet there is no warm-up.
        target_weight: α, of the right class against the rest; at least 0.
        other_weight: β, among the other classes; at least 0. It depends on the pair: 8 for ResNet32x4, 6 for wide
            ResNets and VGG, 2 for ResNet-56 → 20 and 110 → 32; on ImageNet 0.5 for ResNet-34 → 18.
        temperature: T, above 0; 1 on ImageNet.

    Raises:
        ValueError: for a negative weight, or a temperature of 0 or less.

    Departs from the paper: it does not print the warm-up of its code, which is the default here. The code leaves the
    right class out by lowering its logit by 1000 after the division by T; here it is left out exactly.
    """

    key: ClassVar[str] = "dkd"

    schedule: Schedule = field(default_factory=lambda: Schedule(warmup_epochs=20))
    target_weight: float = 1.0
    other_weight: float = 8.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, weight in (("target_weight", self.target_weight), ("other_weight", self.other_weight)):
            if not 0 <= weight < float("inf"):
                raise InputError(f"{name} must be a finite number of at least 0, not {weight}")
        check_temperature(self.temperature)

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Logits of the teacher, and class indices."""
        del student
        if teacher is None:
            raise InputError("decoupled soft targets need a teacher")
        return Reads(Request(logits=True), batch=Needs(class_indices=True, unlabelled=True))

    def check(self, teacher: Observed, student: Observed) -> None:
        """Refuse different classes, and fewer than three."""
        assert teacher.logits is not None
        assert student.logits is not None
        classes = teacher.logits.shape[1], student.logits.shape[1]
        require_same_classes("decoupled soft targets need", *classes, "a method without logits")
        if classes[0] < 3:
            raise InputError(
                f"decoupled soft targets rank the classes beside the right one, and of {classes[0]} classes there is "
                "nothing to rank: use soft targets (kd)"
            )

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The divergence of the target class and that of the others, each with its weight."""
        del parts
        assert teacher.logits is not None
        assert student.logits is not None
        assert batch.label is not None
        target, others = decoupled_divergences(student.logits, teacher.logits, batch.label, self.temperature)
        return {
            f"{self.key}-target": Term(target, self.target_weight),
            f"{self.key}-others": Term(others, self.other_weight),
        }


def _decoupled(logits: Tensor, label: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Logarithms of (p, 1 − p), and of the probabilities of the other classes among themselves."""
    scores = at_least_float32(logits) / temperature
    places = torch.arange(scores.shape[1] - 1, device=scores.device)
    # Places of the other classes: those from the right one on lie one further.
    others = scores.gather(1, places + (places >= label[:, None]))
    rest = others.logsumexp(1, keepdim=True)
    binary = torch.cat((scores.gather(1, label[:, None]), rest), 1).log_softmax(1)
    return binary, others - rest
