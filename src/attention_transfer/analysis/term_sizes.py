"""Size of loss terms and of their gradients, at any point of a training.

>>> from attention_transfer.methods import AttentionTransfer
>>> experiment = Experiment("mine", "resnet8", "resnet20", methods=(AttentionTransfer(weight=0.0),))
>>> measurable(experiment).methods[0].weight
1.0
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from attention_transfer.experiment import Experiment
from attention_transfer.methods import Schedule
from attention_transfer.runs import RunFolder
from attention_transfer.training.checkpointing import read_weights
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import Prepared
from attention_transfer.training.progress import Reporter

Item = TypeVar("Item")


@dataclass(frozen=True)
class Size:
    """Size of a loss term, as a mean over batches.

    Args:
        value: value of the term with its method's weight at 1; for the task, the cross-entropy in nats.
        gradient_norm: L2 norm of its gradient with respect to all trainable parameters of the student.
    """

    value: float
    gradient_norm: float


def measurable(experiment: Experiment) -> Experiment:
    """The experiment with every weight at 1, so that terms are measured even where they are switched off.

    Args:
        experiment: the experiment as configured.
    """
    return replace(
        experiment,
        methods=tuple(replace(method, weight=1.0, schedule=Schedule()) for method in experiment.methods),
        task_weight=1.0,
        training=replace(experiment.training, compile=False),
    )


def term_sizes(prepared: Prepared, seed: int, steps: int, batches: int) -> dict[str, Size]:
    """Sizes of all terms after some steps, as means over the next batches; the student is not trained.

    Of an experiment with phases, the terms of the last one: that in which the student learns.

    Args:
        prepared: a `measurable` experiment, with the student after those steps.
        seed: seed of what is random inside the networks.
        steps: number of steps made before.
        batches: number of batches, at least 1, at most those of an epoch.
    """
    distiller, train = prepared.distiller, prepared.train
    epoch, first = divmod(steps, train.num_batches)
    distiller.set_phase(distiller.phases[-1])
    distiller.set_epoch(epoch)
    distiller.train()
    parameters = [p for p in distiller.student.parameters() if p.requires_grad]
    torch.manual_seed(seed)
    sums: dict[str, tuple[float, float]] = {}
    for batch in islice(chain(train.epoch(epoch, first), train.epoch(epoch + 1)), batches):
        with prepared.place.autocast():
            out = distiller(batch.image, batch.label, batch.index)
        for name, term in out.terms.items():
            # The graph is shared by all terms, and needed again by the next one.
            gradients = torch.autograd.grad(term.weighted, parameters, retain_graph=True, allow_unused=True)
            norm = get_total_norm([each for each in cast(Sequence[Tensor | None], gradients) if each is not None])
            value, length = sums.get(name, (0.0, 0.0))
            sums[name] = value + float(term.weighted.detach()), length + float(norm)
    return {name: Size(value / batches, length / batches) for name, (value, length) in sums.items()}


def train_for(experiment: Experiment, prepared: Prepared, steps: int, num_batches: int, reporter: Reporter) -> None:
    """Train the prepared student for some steps, as `train` would.

    Args:
        experiment: the experiment as configured.
        prepared: the experiment made `measurable`; its student is changed.
        steps: number of steps, at least 1, at most those of the whole training.
        num_batches: batches of an epoch.
        reporter: shows progress bars.

    Raises:
        NonFiniteLossError: if the training breaks down.
    """
    epochs, part = divmod(steps, num_batches)
    training = replace(
        experiment.training,
        compile=False,
        checkpoint_every_steps=part or None,
        # As rarely as can be: evaluating is not needed here, but the last epoch always does.
        evaluate_every_epochs=experiment.training.epochs,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "run")
        try:
            fit_experiment(replace(experiment, training=training), folder, _Stopper(reporter, epochs, part))
        except _EnoughError:
            prepared.distiller.load_state_dict(read_weights(RunFolder(folder)))
            return
    raise AssertionError("the training ended before it was interrupted")


class _EnoughError(Exception):
    """The training has made the requested number of steps."""


class _Stopper(Reporter):
    """Interrupts a training after some epochs and steps, when its checkpoint is written; shows bars, no lines."""

    def __init__(self, shown: Reporter, epochs: int, steps: int) -> None:
        super().__init__(silent=True)
        self._shown, self._epochs, self._steps, self._done = shown, epochs, steps, 0

    def steps(self, items: Iterable[Item], total: int | None, done: int, title: str) -> Iterator[Item]:
        for count, item in enumerate(self._shown.steps(items, total, done, title)):
            if self._done == self._epochs and count == self._steps:
                raise _EnoughError
            yield item

    def epoch(self, row: Mapping[str, Any], epochs: int) -> None:
        del epochs
        self._done = int(row["epoch"])
        if self._done == self._epochs and not self._steps:
            raise _EnoughError
