"""Feature distillation: the student's tokens are what the teacher's are, layer by layer.

>>> FeatureDistillation(weight=0.5).key
'feature-distillation'
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.batch import Batch
from attention_transfer.capture import Tap
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.layer_selection import Layers
from attention_transfer.methods.layers.maps import at_least_float32
from attention_transfer.methods.method import Method, Observed, Reads, Request, Term
from attention_transfer.models.introspection.description import Description


@dataclass(frozen=True)
class FeatureDistillation(Method):
    """Matches the residual stream of two transformers: every token after every block.

    The control of Li et al. (NeurIPS 2024, arXiv:2411.09702), section 4.2: does it help to hand over features, where
    attention distillation hands over only who looks at whom? They report 81.3 against 85.7 for attention.

    Args:
        weight: λ; the paper does not say which.
        layers: which blocks, and their partners.

    Departs from the paper: it says neither the layers nor the reduction; the squared error is averaged over batch,
    tokens and channels and summed over blocks. Where widths differ, a linear layer per block that is learned along
    brings the student's tokens to the teacher's width; the paper has equal widths only.
    """

    key: ClassVar[str] = "feature-distillation"

    weight: float = 1.0
    layers: Layers = field(default_factory=Layers)

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Tokens after every block of both networks."""
        if teacher is None:
            raise InputError("feature distillation needs a teacher")
        ours, theirs = self.layers.pairs(
            _blocks(student, "student", self.layers.student_modules),
            _blocks(teacher, "teacher", self.layers.teacher_modules),
        )
        return Reads(Request(theirs), Request(ours))

    def parts(self, teacher: Observed, student: Observed) -> nn.Module | None:
        """Projections, where the widths differ."""
        layers = list(zip(student.features, teacher.features, strict=True))
        for i, (ours, theirs) in enumerate(layers):
            if theirs.ndim != 3 or ours.ndim != 3 or theirs.shape[1] != ours.shape[1]:
                raise InputError(
                    f"feature distillation compares equally many tokens; at layer {i} the teacher gives "
                    f"{tuple(theirs.shape)}, the student {tuple(ours.shape)}: use images and patches of one size and "
                    "the same class and register tokens, or AttentionTransfer, which compares maps of any size"
                )
        widths = [
            (ours.shape[2], theirs.shape[2]) for ours, theirs in zip(student.features, teacher.features, strict=True)
        ]
        if all(ours == theirs for ours, theirs in widths):
            return None
        return nn.ModuleList(nn.Linear(ours, theirs) for ours, theirs in widths)

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The squared difference of tokens, averaged over layers."""
        del batch
        ours = [at_least_float32(value) for value in student.features]
        if parts is not None:
            widened = zip(cast(nn.ModuleList, parts), ours, strict=True)
            ours = [cast(Tensor, layer(value)) for layer, value in widened]
        errors = [
            functional.mse_loss(value, at_least_float32(wanted))
            for value, wanted in zip(ours, teacher.features, strict=True)
        ]
        return {self.key: Term(torch.stack(errors).sum())}


def _blocks(description: Description, role: str, named: tuple[str, ...] | None) -> tuple[Tap, ...]:
    """The outputs of a transformer's blocks, all tokens of them."""
    if named is not None:
        return tuple(replace(description.tap(name), layout="raw") for name in named)
    outputs = [stage.output for stage in description.stages]
    if not outputs or any(tap.layout != "tokens" for tap in outputs):
        raise InputError(
            f"feature distillation compares the tokens of transformers' blocks; the {role} has none that are known: "
            f"name modules that give (batch, tokens, channels) in layers.{role}_modules, or use AttentionTransfer for "
            "convolutional networks"
        )
    return tuple(replace(tap, layout="raw") for tap in outputs)
