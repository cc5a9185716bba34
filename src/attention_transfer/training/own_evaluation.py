"""Evaluation of a student by the user's own loaders or function."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, cast

from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from attention_transfer.batch import Batch
from attention_transfer.distiller import Distiller
from attention_transfer.errors import InputError, first_line
from attention_transfer.training.averaging import WeightAverage
from attention_transfer.training.device import Arithmetic
from attention_transfer.training.evaluate import evaluate
from attention_transfer.training.positioning import LoadedBatches

Evaluate = object | Mapping[str, object] | Callable[[nn.Module], Mapping[str, float]]

# What else is in a row of metrics.
_TAKEN = ("epoch", "step", "learning_rate", "phase", "terms", "train", "seconds", "unaveraged")
TEST = "test"


class Measuring:
    """Measures a student, as it is used after training.

    Args:
        distiller: whose student it is.
        given: a loader, loaders by name, a function of the network that gives numbers by name, or None.
        place: device and precision.
        seed: of the training.

    Raises:
        InputError: for loaders that cannot be measured on.
    """

    def __init__(self, distiller: Distiller, given: Evaluate | None, place: Arithmetic, seed: int) -> None:
        self._distiller, self._place = distiller, place
        self._loaders: dict[str, LoadedBatches] = {}
        self._function: Callable[[nn.Module], object] | None = None
        loaders: Mapping[Any, object] = {}
        if isinstance(given, Mapping):
            loaders = cast("Mapping[Any, object]", given)
        elif callable(given) and not hasattr(given, "__iter__") and not hasattr(given, "num_batches"):
            self._function = given
        elif given is not None:
            loaders = {TEST: given}
        for name, loader in loaders.items():
            _check_name(name)
            self._loaders[name] = self._checked(f"evaluate[{name!r}]", loader, seed)

    def __call__(self, average: WeightAverage | None, last: bool) -> dict[str, Any]:
        """Numbers by split.

        Where there is an average, its own, and under `unaveraged` those of the student as it was trained.
        """
        del last
        deployed = self._distiller.deployed
        trained = self._measure(deployed)
        if average is None or not trained:
            return trained
        with average.in_place():
            return self._measure(deployed) | {"unaveraged": trained}

    def _measure(self, network: nn.Module) -> dict[str, Any]:
        if self._function is None:
            return {name: evaluate(network, each, self._place).row() for name, each in self._loaders.items()}
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        try:
            found = self._function(network)
        finally:
            for module, mode in modes:
                module.training = mode
        if not isinstance(found, Mapping):
            raise InputError(
                f"evaluate gave {type(found).__name__}: it must give numbers by name, such as {{'top1': 71.5}}"
            )
        numbers: dict[str, float] = {}
        for name, value in cast("Mapping[Any, Any]", found).items():
            number = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise InputError(f"evaluate gave {type(value).__name__} for {name!r}, where a number is wanted")
            # A loss that is not finite stops the training as one that diverged.
            if not isfinite(number) and name != "loss":
                raise InputError(
                    f"evaluate gave {number} for {name!r}, where a finite number is wanted: leave out what cannot be "
                    "measured"
                )
            numbers[str(name)] = float(number)
        return {TEST: numbers}

    def _checked(self, what: str, loader: object, seed: int) -> LoadedBatches:
        if isinstance(loader, DataLoader) and isinstance(cast("Any", loader).sampler, DistributedSampler):
            raise InputError(
                f"{what} has a DistributedSampler, and the first process alone measures: give it all images"
            )
        if iter(cast("Any", loader)) is loader if hasattr(loader, "__next__") else False:
            raise InputError(f"{what} can be gone through once, and is measured on in every epoch: give a DataLoader")
        batches = LoadedBatches(loader, seed=seed, rank=0, device=self._place.device, name=what)
        first = batches.first()
        label = first.label
        if label is None or label.ndim != 1 or label.is_floating_point() or int(label.min()) < 0:
            raise InputError(f"{what} must give (images, labels) of one class index each, to be measured on")
        try:
            evaluate(self._distiller.deployed, _One(first), self._place)
        except (RuntimeError, IndexError, ValueError) as error:
            raise InputError(f"{what} cannot be measured on: {first_line(error)}") from error
        return batches


@dataclass(frozen=True)
class _One:
    """A single batch, as a loader."""

    batch: Batch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Only that."""
        del epoch
        return iter([self.batch][start:])


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or name in _TAKEN:
        raise InputError(
            f"evaluate has a loader under {name!r}: names are texts such as 'test' or 'validation', and not "
            f"{', '.join(_TAKEN)}"
        )
