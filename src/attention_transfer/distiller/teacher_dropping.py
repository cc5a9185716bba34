"""Leaving out teachers for single images: the teacher of the largest loss always stays, others by chance.

>>> import torch
>>> losses = torch.tensor([[1.0, 5.0], [3.0, 2.0]])  # two teachers, two images
>>> kept(losses, torch.zeros(2, 2))
tensor([[0., 1.],
        [1., 0.]])
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from attention_transfer.batch import Batch
from attention_transfer.counter_rng import uniform
from attention_transfer.errors import InputError
from attention_transfer.methods import Term

# Of no other random numbers that are drawn by dataset index.
_STREAM = 0x7EAC4E85


@dataclass(frozen=True)
class Dropped:
    """Leaves out teachers for single images of one step.

    Sarıyıldız et al., UNIC (ECCV 2024, arXiv:2408.05088): a teacher whose loss is not the largest for an image is left
    out for it with a probability, so that no teacher that is easily matched is learned at the cost of the others.

    Args:
        probability: of leaving one out.
        epoch: counted from 0. With the dataset index of an image it decides what is drawn.
    """

    probability: float
    epoch: int

    def __call__(self, teachers: Mapping[str, Mapping[str, Term]], batch: Batch) -> dict[str, Term]:
        """The terms of all teachers, each of the images that the teacher is kept for.

        Args:
            teachers: terms by name, by teacher.
            batch: with dataset indices.

        Raises:
            InputError: for terms that have no value for each image.
        """
        assert batch.index is not None
        _check(teachers)
        names = [name for name in teachers if name]
        with torch.no_grad():
            losses = torch.stack([_of_images(teachers[name]) for name in names])
        drawn = _drawn(names, self.epoch, batch.index, self.probability).to(losses)
        shares = kept(losses, drawn)
        # Divided by their sum over the batch, so that the size of the loss does not go with what was dropped.
        shares = shares / shares.sum(1, keepdim=True).clamp_min(1)
        found: dict[str, Term] = {}
        for name, share in zip(names, shares, strict=True):
            for each, term in teachers[name].items():
                assert term.of_images is not None
                found[each] = replace(term, value=(share * term.of_images()).sum())
        return found


def kept(losses: Float[Tensor, "t b"], drawn: Float[Tensor, "t b"]) -> Float[Tensor, "t b"]:
    """1 where a teacher is kept for an image, else 0.

    Args:
        losses: of each teacher for each image.
        drawn: 1 where chance keeps it, else 0.
    """
    largest = torch.zeros_like(losses).scatter_(0, losses.argmax(0, keepdim=True), 1.0)
    return torch.maximum(largest, drawn)


def _check(teachers: Mapping[str, Mapping[str, Term]]) -> None:
    """Refuse terms of which no image has a value of its own."""
    whole = [name for terms in teachers.values() for name, term in terms.items() if term.of_images is None]
    if whole:
        raise InputError(
            f"teacher_dropping leaves out teachers for single images, and {', '.join(whole)} compares images with each "
            "other, or gives no value for each: leave the method out, or give teacher_dropping=0"
        )


def _of_images(terms: Mapping[str, Term]) -> Float[Tensor, " b"]:
    values: list[Tensor] = []
    for term in terms.values():
        assert term.of_images is not None
        values.append(term.weight * term.of_images())
    return torch.stack(values).sum(0)


def _drawn(names: list[str], epoch: int, index: Tensor, probability: float) -> Tensor:
    """1 where chance keeps a teacher for an image: a function of teacher, epoch and dataset index alone."""
    draws = [uniform(_STREAM, number, epoch, index) >= probability for number in range(len(names))]
    return torch.stack(draws).float()
