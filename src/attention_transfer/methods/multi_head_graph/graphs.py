"""Graphs between the images of a batch, as pure functions: who is related to whom, and how far two graphs are apart.

>>> import torch
>>> scores = similarity_scores(torch.eye(3), heads=2)
>>> scores.shape
torch.Size([2, 3, 3])
>>> float(graph_divergence(squashed_graph(scores), squashed_graph(scores)))
0.0
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attention_transfer.parallel import agreed

Direction = Literal["student-first", "teacher-first"]
Reduction = Literal["sum", "mean"]
Control = Literal["random", "constant", "identity"]

# The hyperbolic tangent of this is 1.
_SATURATED = 20.0


def squashed_graph(scores: Float[Tensor, "a b b"]) -> Float[Tensor, "a b b"]:
    """Logarithms of the graph that is transferred: softmax over the images of each row of tanh(scores).

    Lee & Song (BMVC 2019, arXiv:1907.02226), section 3.3. tanh bounds how much surer one network can be than the other.

    Args:
        scores: of every head, from each image to each, any range.
    """
    return scores.tanh().log_softmax(2)


def graph_divergence(
    student: Float[Tensor, "a b b"],
    teacher: Float[Tensor, "a b b"],
    direction: Direction = "student-first",
    reduction: Reduction = "sum",
) -> Float[Tensor, ""]:
    """Kullback–Leibler divergence between two graphs, row by row.

    Args:
        student: logarithms of its graph, of every head.
        teacher: same as `student`, taken as constant.
        direction: `student-first` is Σ S·(log S − log T), as the authors have it; `teacher-first` Σ T·(log T − log S).
        reduction: of the rows of all heads; `sum` grows with heads and batch, `mean` does not.
    """
    teacher = teacher.detach()
    first, second = (student, teacher) if direction == "student-first" else (teacher, student)
    rows = (first.exp() * (first - second)).sum(2)
    return rows.sum() if reduction == "sum" else rows.mean()


def similarity_scores(vectors: Float[Tensor, "b c"], heads: int) -> Float[Tensor, "a b b"]:
    """Plain similarity of images, without anything learned: inner products, the same for every head.

    Args:
        vectors: of unit length.
        heads: so many times, so that sums are as large as those over learned heads.
    """
    return (vectors @ vectors.mT).expand(heads, -1, -1)


def control_scores(kind: Control, like: Float[Tensor, "a b b"]) -> Float[Tensor, "a b b"]:
    """Scores of a graph that knows nothing of the images.

    Args:
        kind: `random` draws every score from a normal distribution, anew each time; `constant` relates every image
            to all alike; `identity` relates every image to itself alone, as far as tanh lets it.
        like: scores of the shape and type that are wanted.
    """
    if kind == "random":
        return agreed(torch.randn_like(like))
    if kind == "constant":
        return torch.zeros_like(like)
    eye = torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
    return (_SATURATED * (2 * eye - 1)).expand_as(like)
