"""Evaluation of a network: loss, top-1 and top-5 accuracy."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.capture import as_logits
from attention_transfer.training.device import Arithmetic
from attention_transfer.training.metrics import scores

if TYPE_CHECKING:
    from attention_transfer.data import DataSet


class Measured(Protocol):
    """Batches to measure on."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches, in order."""
        ...


@dataclass(frozen=True)
class Score:
    """Quality over a split.

    Args:
        loss: mean cross-entropy, in nats.
        top1: share of images whose label has the highest logit, in percent.
        top5: share whose label is among the five highest, in percent.
        count: number of images.
        images_of: what their owner calls the test images, where that is not `test` but, say, `val`; None otherwise.
    """

    loss: float
    top1: float
    top5: float
    count: int
    images_of: str | None = None

    def row(self) -> dict[str, Any]:
        """As the metrics file has it."""
        return {name: value for name, value in asdict(self).items() if name != "images_of" or value is not None}

    def of(self, dataset: "DataSet", split: str) -> "Score":
        """The same, with what the owner of the data set calls the images of a split."""
        others = split in ("test", "unseen") and dataset.test_is != "test"
        return replace(self, images_of=dataset.test_is) if others else self


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Measured,
    place: Arithmetic,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Score:
    """Measure a network in evaluation mode; its mode is given back afterwards.

    Args:
        model: network on the device of `place`.
        loader: batches of the split, in evaluation order.
        place: device and precision.
        prepare: applied to images first, as where a teacher wants another normalisation.

    Raises:
        ValueError: if labels do not fit the network's classes.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    totals: list[Tensor] | None = None
    count = 0
    try:
        for batch in loader.epoch(0):
            image = batch.image if prepare is None else prepare(batch.image)
            with place.autocast():
                logits = as_logits(model(image), "network")
            assert batch.label is not None
            sums = scores(logits, batch.label)
            totals = (
                list(sums) if totals is None else [total + value for total, value in zip(totals, sums, strict=True)]
            )
            count += len(image)
    finally:
        for module, mode in modes:
            module.training = mode
    assert totals is not None
    loss, top1, top5 = (float(total) for total in totals)
    return Score(loss / count, 100 * top1 / count, 100 * top5 / count, count)
