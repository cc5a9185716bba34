"""Multi-head graph distillation: the student relates the images of a batch as the teacher does.

>>> [phase.name for phase in MultiHeadGraph(graph_epochs=40).phases][-1]
'transfer'
>>> share_of_task(0)
0.5
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.stage_selection import Activation, check_stages, paired_layers
from attention_transfer.methods.method import GradientLimit, Method, Needs, Observed, Reads, Request, Term
from attention_transfer.methods.multi_head_graph.graphs import (
    Direction,
    Reduction,
    control_scores,
    graph_divergence,
    similarity_scores,
    squashed_graph,
)
from attention_transfer.methods.multi_head_graph.heads import Adapter, GraphHeads, GraphParts
from attention_transfer.methods.multi_head_graph.pretrained_heads import load_heads
from attention_transfer.methods.multi_head_graph.singular_vectors import aligned, oriented, singular_vectors
from attention_transfer.methods.relational import require_several
from attention_transfer.models.fingerprint import WeightFingerprint
from attention_transfer.models.introspection.description import Description
from attention_transfer.parallel import gathered
from attention_transfer.phases import Phase

HEADS_TERM = "mhgd-heads"


@dataclass(frozen=True)
class MultiHeadGraph(Method):
    """Multi-head graph distillation: matches graphs between the images of a batch, which attention heads have learned.

    Lee & Song, Graph-based Knowledge Distillation by Multi-head Attention Network (BMVC 2019, arXiv:1907.02226). Every
    layer becomes one vector per image: its first right singular vector. For each two neighbouring layers attention
    heads learn, on the teacher alone, to tell the later vectors of a batch from the earlier ones; which image attends
    to which is the graph. Then the heads are frozen, and the student learns to have the same graphs beside its task.
    Training therefore has two phases: `graph_epochs` in which the student does not even run, then those of the
    training.

    Args:
        weight: of the transfer; neither it nor the schedule multiplies the heads' own loss.
        graph: what the student's graphs, made by the learned heads, are held against: the `learned` one of the teacher,
            or as a control one that knows nothing of the images: `random`, drawn anew in each step, `constant` or
            `identity`. `similarity` has no heads: inner products between images within each later layer.
        heads: of each graph.
        student_vectors: so many of a student's singular vectors are compared with the teacher's first one, and the best
            match is taken; at least 1. Of a layer with fewer positions or channels, all that there are.
        direction: `student-first` is KL(student ‖ teacher), as the authors have it, `teacher-first` the other way.
        reduction: `sum` over images and heads, as the authors have it, or `mean`, with which the weight need not change
            with batch and heads; over graphs it is always the sum.
        scaled: divide scores by the root of the channels of a head; the authors do not.
        head_drop: leave out about half of the heads at random, for each image, while they learn.
        limit_gradient: bound the gradient of the transfer, for each parameter, by σ(epochs since the phase began) =
            1 / (1 + e^−epochs) times the norm of the cross-entropy's gradient.
        adapter: where the networks' widths differ, learn a 1×1 convolution with batch norm that brings the student's
            features to the teacher's width; without it such pairs are refused.
        graph_epochs: in which the heads learn; 0 leaves them as they were drawn.
        graph_learning_rate: in that time, constant.
        graph_weight_decay: in that time.
        graph_from: a finished run, or its parts.safetensors, whose heads are taken instead of learning new ones; it
            must have had the same teacher, read in the same way.
        activation: `post` reads stages as the next one receives them, `pre` before their last activation.
        stages: which top-level stages, counted from 0 (negative from the end), the same in both networks, at least two;
            None takes all, and where one network has more, as many of them as the other has, spread evenly over depth.
        student_layers: module paths in the student, instead of stages.
        teacher_layers: module paths in the teacher, one for each of `student_layers`.

    Raises:
        ValueError: for settings out of range, fewer than two layers, or layers that do not pair up.

    Departs from the paper: the teacher's vectors get the sign that makes their sum positive, where the authors leave
    that of the decomposition; the student's follow the teacher's. Decay in the first phase is that of the optimiser,
    and moves the shifts of batch norm too; 1e-3 is the authors' 5e-4 on the whole square. One head alone is never
    dropped. Different widths are the authors' later addition. In several processes the graph is that of all images of
    all of them. The authors train from post-ReLU features, which `activation` leaves to the network: the stages of
    wide ResNets end in sums.
    """

    key: ClassVar[str] = "mhgd"
    epoch_settings: ClassVar[tuple[str, ...]] = ("graph_epochs",)

    weight: float = 1.0
    graph: Literal["learned", "random", "constant", "identity", "similarity"] = "learned"
    heads: int = 8
    student_vectors: int = 4
    direction: Direction = "student-first"
    reduction: Reduction = "sum"
    scaled: bool = False
    head_drop: bool = True
    limit_gradient: bool = True
    adapter: bool = True
    graph_epochs: int = 40
    graph_learning_rate: float = 0.1
    graph_weight_decay: float = 1e-3
    graph_from: Path | None = None
    activation: Activation = "post"
    stages: tuple[int, ...] | None = None
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("heads", 1), ("student_vectors", 1), ("graph_epochs", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 < self.graph_learning_rate < math.inf or not 0 <= self.graph_weight_decay < math.inf:
            raise InputError(
                "graph_learning_rate must be above 0 and graph_weight_decay at least 0, both finite, not "
                f"{self.graph_learning_rate} and {self.graph_weight_decay}"
            )
        if self.graph == "similarity" and self.graph_from is not None:
            raise InputError("graph='similarity' has no heads: leave out graph_from")
        check_stages(self.stages, self.student_layers, self.teacher_layers)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """First the graph heads alone, then the transfer with heads that are frozen."""
        if self.graph == "similarity" or self.graph_from is not None or self.graph_epochs == 0:
            return ()
        learning = Phase(
            "graph",
            trains="parts",
            terms=(HEADS_TERM,),
            epochs=self.graph_epochs,
            learning_rate=self.graph_learning_rate,
            weight_decay=self.graph_weight_decay,
            runs_student=False,
            title="graph heads",
        )
        return learning, Phase("transfer", without=(HEADS_TERM,))

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Features of at least two layers of both networks, and the fingerprint of the teacher."""
        if teacher is None:
            raise InputError("multi-head graph distillation needs a teacher")
        theirs, ours = paired_layers(teacher, student, self, self.activation, self.activation)
        if len(theirs) < 2:
            raise InputError(
                f"a graph links two layers, and {len(theirs)} is read: give at least two stages, or module paths with "
                "student_layers= and teacher_layers="
            )
        return Reads(Request(theirs, provide=(WeightFingerprint(),)), Request(ours), Needs(minimum=2))

    def parts(self, teacher: Observed, student: Observed) -> GraphParts | None:
        """Attention heads between neighbouring layers, and adapters where widths differ."""
        theirs, ours = ([features.shape[1] for features in seen.features] for seen in (teacher, student))
        differing = [i for i, (wide, narrow) in enumerate(zip(theirs, ours, strict=True)) if wide != narrow]
        if differing and not self.adapter:
            raise InputError(
                f"the vectors of layer {differing[0]} have {theirs[differing[0]]} channels in the teacher and "
                f"{ours[differing[0]]} in the student, and the heads take the teacher's: leave adapter on, or choose "
                "networks or layers of the same widths"
            )
        if self.graph == "similarity" and not differing:
            return None
        teacher_mark = teacher[WeightFingerprint()]
        pairs = [] if self.graph == "similarity" else pairwise(theirs)
        heads = [GraphHeads(front, back, self.heads, scaled=self.scaled) for front, back in pairs]
        adapters = {i: Adapter(ours[i], theirs[i]) for i in differing}
        reading = hashlib.blake2b(teacher_mark.reading + bytes([self.scaled]), digest_size=32).digest()
        parts = GraphParts(heads, adapters, teacher_mark.weights, reading)
        if self.graph_from is not None:
            load_heads(parts, self.graph_from, self.key)
        elif self.graph_epochs == 0:
            parts.heads.requires_grad_(False)
        return parts

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """How far graphs of student and teacher are apart, or what the heads learn by."""
        assert parts is None or isinstance(parts, GraphParts)
        own = teacher_embedding(teacher.features)
        theirs = [gathered(vectors) for vectors in own]
        require_several(theirs[0], "multi-head graph distillation")
        terms: dict[str, Term] = {}
        # First of all: the transfer goes by the running statistics that this moves.
        if parts is not None and parts.learning:
            drop = self.head_drop and parts.training
            losses = [parts.graph(i).loss(*pair, drop=drop) for i, pair in enumerate(pairwise(theirs))]
            # How fast the heads learn does not depend on how much the student is to learn from them.
            terms[HEADS_TERM] = Term(torch.stack(losses).sum(), scales=False)
        if student.features:
            ours = [gathered(vectors) for vectors in self.student_embedding(student.features, own, parts)]
            with torch.no_grad():
                wanted = self.scores(theirs, parts)
            if self.graph not in ("learned", "similarity"):
                wanted = [control_scores(self.graph, like=scores) for scores in wanted]
            divergences = [
                graph_divergence(squashed_graph(mine), squashed_graph(other), self.direction, self.reduction)
                for mine, other in zip(self.scores(ours, parts), wanted, strict=True)
            ]
            limit = GradientLimit(share_of_task) if self.limit_gradient else None
            terms[self.key] = Term(torch.stack(divergences).sum(), limit=limit)
        return terms

    def student_embedding(
        self,
        features: Sequence[Float[Tensor, "b _ h w"]],
        targets: Sequence[Float[Tensor, "b _"]],
        parts: GraphParts | None,
    ) -> list[Float[Tensor, "b _"]]:
        """One vector per image for each layer of the student, the one that agrees best with the teacher's.

        Args:
            features: of the student.
            targets: the teacher's vectors of the same images.
            parts: what `parts` returned.
        """
        found: list[Tensor] = []
        for i, (layer, target) in enumerate(zip(features, targets, strict=True)):
            adapted = layer if parts is None else parts.adapted(i, layer)
            found.append(aligned(singular_vectors(adapted, self.student_vectors), target))
        return found

    def scores(self, vectors: Sequence[Float[Tensor, "b _"]], parts: GraphParts | None) -> list[Float[Tensor, "a b b"]]:
        """Scores of every graph of one network, made by frozen heads.

        Args:
            vectors: of each layer, in the teacher's widths.
            parts: what `parts` returned.
        """
        if self.graph == "similarity":
            return [similarity_scores(each, self.heads) for each in vectors[1:]]
        assert parts is not None
        return [parts.graph(i).scores(*pair, frozen=True) for i, pair in enumerate(pairwise(vectors))]


@torch.no_grad()
def teacher_embedding(features: Sequence[Float[Tensor, "b _ h w"]]) -> list[Float[Tensor, "b _"]]:
    """One vector per image for each layer of the teacher.

    Args:
        features: of the teacher.
    """
    return [oriented(singular_vectors(layer, 1)[:, :, 0]) for layer in features]


def share_of_task(epochs: int) -> float:
    """How large the transfer's gradient may be beside that of the task: σ(epochs), from one half up to one.

    Args:
        epochs: since the phase began, from 0.
    """
    return 1 / (1 + math.exp(-epochs))
