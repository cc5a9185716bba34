"""Contrastive transfer: both networks see the same image in the same way, and others differently.

>>> Contrastive(memory="queue", num_negatives=4096).key
'crd'
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.errors import InputError
from attention_transfer.methods.contrastive.memory_bank import Bank, Others, Queue, Role, check_classes
from attention_transfer.methods.layers.maps import unit
from attention_transfer.methods.layers.stage_selection import embedding, embedding_tap
from attention_transfer.methods.method import Method, Needs, Observed, Reads, Request, Term
from attention_transfer.methods.soft_targets import check_temperature
from attention_transfer.models.introspection.description import Description
from attention_transfer.parallel import gathered

_LEAST = 1e-7  # added to denominators, as in the authors' code


def contrastive_loss(
    positive: Float[Tensor, " b"],
    negative: Float[Tensor, "b k"],
    other: Bool[Tensor, "b k"],
    num_images: int,
) -> Float[Tensor, ""]:
    """Noise-contrastive loss of telling the same image from others, averaged over the batch.

    Section 3 of Tian, Krishnan & Isola (ICLR 2020, arXiv:1910.10699), with noise that is uniform over the
    training images. With P of an image and N negatives: −log P₊/(P₊ + N/M) − Σ log (N/M)/(P₋ + N/M).

    Args:
        positive: likeness to the same image, exp(u·v/τ)/Z.
        negative: likeness to other images.
        other: which of them count, for each image.
        num_images: M, of the training set.
    """
    count = other.sum(1)
    noise = count.clamp_min(1) / num_images
    told = (positive / (positive + noise + _LEAST)).log()
    missed = torch.log1p((negative + _LEAST) / noise[:, None])
    return (torch.where(other, missed, 0.0).sum(1) - told).mean()


class Contrast(nn.Module):
    """What contrastive transfer learns and remembers.

    Args:
        student_channels: of its vectors.
        teacher_channels: of its vectors.
        dimensions: of an embedding.
        temperature: τ.
    """

    equal_in_all_processes = True

    def __init__(self, student_channels: int, teacher_channels: int, dimensions: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.student = nn.Linear(student_channels, dimensions)
        self.teacher = nn.Linear(teacher_channels, dimensions)
        self.memory: Bank | Queue | None = None
        # Z of both directions; 0 until the first batch has been seen.
        self.normalisers: Tensor
        self.register_buffer("normalisers", torch.zeros(2))

    def forward(self, student: Float[Tensor, "b c"], teacher: Float[Tensor, "b e"], batch: Batch) -> Float[Tensor, ""]:
        """The loss in both directions; in training, the batch is remembered."""
        assert self.memory is not None
        embeddings: dict[Role, Tensor] = {
            "student": unit(self.student(student)),
            "teacher": unit(self.teacher(teacher)),
        }
        value = self.loss(embeddings, self.memory.others(batch, embeddings), self.memory.num_images)
        if self.training:
            self.memory.remember(batch, embeddings)
        return value

    def check_memory(self, images: int, device: torch.device) -> None:
        """Refuse a memory that a device cannot hold, see `device_memory.ChecksMemory`."""
        del images
        if isinstance(self.memory, Bank):
            self.memory.check_memory(device)

    def loss(
        self, embeddings: Mapping[Role, Float[Tensor, "b d"]], others: Others, num_images: int
    ) -> Float[Tensor, ""]:
        """Each network's embeddings against what is remembered of the other; the first batch fixes Z.

        Args:
            embeddings: of unit norm.
            others: what they are compared with.
            num_images: of which the remembered ones are a sample.
        """
        pairs: tuple[tuple[Role, Role], ...] = (("student", "teacher"), ("teacher", "student"))
        same = torch.stack([(embeddings[own] * others.same[other]).sum(1) for own, other in pairs])
        drawn = torch.stack([embeddings[own] @ others.drawn[other].T for own, other in pairs])
        same, drawn = (same / self.temperature).exp(), (drawn / self.temperature).exp()
        normalisers = self._normalisers(same.detach(), drawn.detach(), others.differ, num_images)
        same, drawn = same / normalisers[:, None], drawn / normalisers[:, None, None]
        losses = [contrastive_loss(same[i], drawn[i], others.differ, num_images) for i in range(2)]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def _normalisers(
        self, same: Float[Tensor, "2 b"], drawn: Float[Tensor, "2 b k"], differ: Bool[Tensor, "b k"], num_images: int
    ) -> Float[Tensor, "2"]:
        """Z: the mean of all that was ever compared in the first batch of all processes, times the number of images."""
        sums = same.sum(1) + torch.where(differ, drawn, 0.0).sum((1, 2))
        count = differ.sum() + same.shape[1]
        totals = gathered(torch.stack([*sums, count.to(sums.dtype)])[None]).sum(0)
        first = totals[:2] / totals[2] * num_images
        found = torch.where(self.normalisers > 0, self.normalisers, first)
        if self.training:
            self.normalisers.copy_(found)
        return found


@dataclass(frozen=True)
class Contrastive(Method):
    """Embeddings of the same image agree between teacher and student, those of different classes do not.

    CRD: Tian, Krishnan & Isola, *Contrastive representation distillation* (ICLR 2020, arXiv:1910.10699). What the last
    layer of each network takes is brought to unit vectors of equal size by linear layers, which are learned along.
    Each network's vector is contrasted with those of other images that are remembered of the other network.

    Args:
        weight: β; the authors' tables use 0.8.
        memory: `bank` remembers every training image, and needs their labels and the dataset index of each image;
            `queue` remembers the latest images only, for data sets of which a bank does not fit, and needs the labels
            of the batch.
        num_negatives: N, images of other classes that each image is compared with, on average; at least 1. A smaller
            data set gives as many as it has. With `queue`, its length; the batch is added to it.
        dimensions: of the embeddings, at least 1.
        temperature: τ, above 0.
        momentum: 0 ≤ m < 1, the share of its old value that an entry of the bank keeps when its image comes again.
        student_layer: module path in the student whose output, averaged over positions, is compared in place of what
            the last layer takes.
        teacher_layer: the same in the teacher.

    Raises:
        ValueError: for a setting out of its range, training images of one class, or a bank larger than this machine's
            memory.

    Departs from the paper: negatives are drawn once per step, without repetition, for the whole batch, and each image
    leaves out those of its own class; the authors draw for each image by itself. Every image of another class is
    equally likely in both, so that the expected loss is the same, and the price falls from a table of batch × negatives
    vectors to one product of matrices. The queue is ours: its positive is what the other network makes of the image
    now, and the remembered vectors are not averaged over epochs.
    """

    key: ClassVar[str] = "crd"

    weight: float = 0.8
    memory: Literal["bank", "queue"] = "bank"
    num_negatives: int = 16384
    dimensions: int = 128
    temperature: float = 0.07
    momentum: float = 0.5
    student_layer: str | None = None
    teacher_layer: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_negatives < 1 or self.dimensions < 1:
            raise InputError(
                f"num_negatives and dimensions must be at least 1, not {self.num_negatives} and {self.dimensions}"
            )
        check_temperature(self.temperature)
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be 0 ≤ m < 1, not {self.momentum}")

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """The embedding of both networks, and dataset indices or labels for their memory."""
        if teacher is None:
            raise InputError("contrastive transfer needs a teacher")
        bank = self.memory == "bank"
        return Reads(
            Request((embedding_tap(teacher, "teacher", self.teacher_layer),)),
            Request((embedding_tap(student, "student", self.student_layer),)),
            Needs(labels=not bank, class_indices=not bank, unlabelled=True, index=bank),
        )

    def parts(self, teacher: Observed, student: Observed) -> Contrast:
        """Both projections, and a queue where the memory is one."""
        ours, theirs = _vectors(student, "student"), _vectors(teacher, "teacher")
        parts = Contrast(ours.shape[1], theirs.shape[1], self.dimensions, self.temperature)
        if self.memory == "queue":
            parts.memory = Queue(self.num_negatives, self.dimensions)
        return parts

    def given_labels(self, parts: nn.Module | None, labels: Int64[Tensor, " n"] | None) -> None:
        """Make the memory bank of the training images, which knows the class of each."""
        if self.memory == "bank":
            if labels is None:
                raise InputError(
                    f"{self.key} needs the labels of all training images: give Distiller(..., train_labels=...), class "
                    "indices in the order that index counts"
                )
            cast(Contrast, parts).memory = Bank(labels, self.dimensions, self.num_negatives, self.momentum)
        elif labels is not None:
            check_classes(labels)

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The contrastive loss of both embeddings against those remembered."""
        ours, theirs = _vectors(student, "student"), _vectors(teacher, "teacher")
        return {self.key: Term(cast(Contrast, parts)(ours, theirs, batch))}


def _vectors(observed: Observed, role: Role) -> Float[Tensor, "b c"]:
    return embedding(observed.features[0], role)
