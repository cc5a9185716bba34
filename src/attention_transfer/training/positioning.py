"""Batches of any loader, epoch by epoch, from any batch on."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import chain, count, islice
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import data as torch_data

from attention_transfer.batch import Batch
from attention_transfer.errors import InputError
from attention_transfer.training.plan import Batches
from attention_transfer.training.update import seed_batch, seed_of_epoch

# Their order is a function of a generator, or of nothing.
_KNOWN_SAMPLERS = (
    torch_data.SequentialSampler,
    torch_data.RandomSampler,
    torch_data.SubsetRandomSampler,
    torch_data.WeightedRandomSampler,
    torch_data.DistributedSampler,
)
_EXACT = "an interrupted run goes on to the same bits only if"


class LoadedBatches:
    """Batches of a loader, made repeatable where it can be.

    Before each epoch the generators of the loader and its samplers, and before each batch the global ones, are seeded
    by what the epoch and the batch are.

    Args:
        loader: an iterable of batches, or what has `epoch(epoch, start=)` and `num_batches`.
        seed: of the training.
        rank: of this process.
        device: where batches are moved.
        steps_per_epoch: batches after which an epoch ends; None where the loader ends it.
        name: of the loader, for messages.

    Raises:
        InputError: for what is no loader, or one whose epochs have no known end.
    """

    def __init__(
        self,
        loader: object,
        *,
        seed: int,
        rank: int,
        device: torch.device,
        steps_per_epoch: int | None = None,
        name: str = "train_loader",
    ) -> None:
        self._name, self._seed, self._rank, self._device = name, seed, rank, device
        self._own = cast("Batches", loader) if _has_epochs(loader) else None
        self._loader: Iterable[Any] = () if self._own is not None else _iterable(loader, name)
        self._once = iter(self._loader) if self._own is None and isinstance(loader, Iterator) else None
        length = self._own.num_batches if self._own is not None else _length(self._loader)
        if self._once is not None and steps_per_epoch is None:
            raise InputError(
                f"{name} is an iterator, which can be gone through once and may never end: give what can be iterated "
                "anew in each epoch (a DataLoader, a list), or steps_per_epoch=, after which an epoch ends"
            )
        if length == 0:
            raise InputError(f"{name} has no batch: its length is 0")
        if length is not None and steps_per_epoch is not None and steps_per_epoch > length:
            raise InputError(
                f"steps_per_epoch is {steps_per_epoch}, and {name} has {length} batches: give at most these"
            )
        self.num_batches = length if steps_per_epoch is None else steps_per_epoch
        self._limit = steps_per_epoch

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not promised of an interrupted run, in sentences."""
        loader, name = self._loader, self._name
        if self._own is not None or isinstance(loader, (list, tuple)):
            return ()
        if self._once is not None:
            return (f"{name} cannot be gone through again: {_EXACT} it begins with the batches that are still to come",)
        if not isinstance(loader, torch_data.DataLoader):
            return (f"{_EXACT} {name} gives the same batches whenever the global random generators are the same",)
        if isinstance(loader.dataset, torch_data.IterableDataset):
            return (f"{_EXACT} the stream behind {name} gives the same batches in the same order again",)
        notes: list[str] = []
        known = all(isinstance(each, _KNOWN_SAMPLERS) or hasattr(each, "set_epoch") for each in _samplers(loader))
        if not known:
            kinds = ", ".join(type(each).__name__ for each in _samplers(loader))
            notes.append(f"{_EXACT} the order of {kinds} goes by the global random generators alone")
        if loader.persistent_workers:
            notes.append(f"{_EXACT} nothing is random in the workers of {name}, which persistent_workers keeps")
        return tuple(notes)

    def first(self) -> Batch:
        """The first batch, for checks; it is trained on all the same."""
        if self._once is None:
            batches = self.epoch(0)
            try:
                return next(batches)
            finally:
                cast("Any", batches).close()
        try:
            item = next(self._once)
        except StopIteration:
            raise InputError(f"{self._name} gives no batch") from None
        self._once = chain([item], self._once)
        return as_batch(item, self._device, self._name)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from batch `start` on.

        Those before it are loaded and dropped where the loader cannot begin there: their random draws decide what comes
        after.
        """
        if self._own is not None:
            for batch in islice(self._own.epoch(epoch, start), None if self._limit is None else self._limit - start):
                yield as_batch(batch, self._device, self._name)
            return
        self._begin(epoch)
        batches = iter(self._loader) if self._once is None else self._once
        given = 0
        # What cannot be repeated goes on where it is.
        skipped = start if self._once is None else 0
        for step in count(0 if self._once is None else start) if self._limit is None else range(self._limit):
            if self._once is not None and step < start:
                continue
            seed_batch(self._seed, epoch, step, self._rank)
            try:
                item = next(batches)
            except StopIteration:
                break
            given += 1
            if step >= skipped:
                yield as_batch(item, self._device, self._name)
        if skipped > given:
            raise InputError(
                f"{self._name} gives {given} batches in epoch {epoch + 1}, of which {skipped} were trained on before "
                "the interruption: give the loader that the run began with"
            )
        if not given:
            raise InputError(f"{self._name} gives no batch in epoch {epoch + 1}: give batches that can be had again")

    def _begin(self, epoch: int) -> None:
        for each in (self._loader, *_samplers(self._loader)):
            generator = getattr(each, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed_of_epoch(self._seed, epoch))
        for each in _samplers(self._loader):
            set_epoch = getattr(each, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)
        seed_batch(self._seed, epoch, -1, self._rank)


def refuse_shared(loader: object, world_size: int) -> None:
    """Refuse a loader that gives each of several processes the same images.

    Raises:
        InputError: saying what to give.
    """
    if world_size > 1 and isinstance(loader, torch_data.DataLoader):
        kinds = (torch_data.SequentialSampler, torch_data.RandomSampler)
        if any(isinstance(each, kinds) for each in _samplers(loader)):
            raise InputError(
                f"train_loader gives each of the {world_size} processes all images: give its DataLoader "
                "sampler=DistributedSampler(dataset)"
            )


def as_batch(item: object, device: torch.device, name: str) -> Batch:
    """What a loader gives, as a batch on a device.

    Raises:
        InputError: it is none.
    """
    if isinstance(item, Batch):
        parts: tuple[Any, ...] = (item.image, item.label, item.index)
    elif isinstance(item, (tuple, list)):
        parts = tuple(cast("list[Any]", item))
    else:
        parts = (item,)
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], Tensor):
        kind = f"{type(item).__name__} of {len(parts)}" if isinstance(item, (tuple, list)) else type(item).__name__
        keys = f" with {', '.join(map(str, cast('Mapping[Any, Any]', item)))[:60]}" if isinstance(item, Mapping) else ""
        raise InputError(
            f"{name} gives batches of type {kind}{keys}: they must be (images, labels) or (images, labels, index), "
            "tensors; a generator function or collate_fn can bring them into this form"
        )
    image, label, index = (*parts, None, None)[:3]
    for what, value in (("labels", label), ("index", index)):
        if value is not None and not isinstance(value, Tensor):
            raise InputError(
                f"the {what} of {name}'s batches must be a tensor, not of type {type(value).__name__}: give "
                f"torch.tensor({what})"
            )
    if isinstance(label, Tensor) and label.ndim == 1 and not label.is_floating_point() and label.dtype != torch.bool:
        label = label.long()
    moved = (None if each is None else each.to(device, non_blocking=True) for each in (image, label, index))
    return Batch(*cast("tuple[Tensor, Tensor | None, Tensor | None]", tuple(moved)))


def _has_epochs(loader: object) -> bool:
    return callable(getattr(loader, "epoch", None)) and hasattr(loader, "num_batches")


def _iterable(loader: object, name: str) -> Iterable[Any]:
    wrong = isinstance(loader, (str, bytes, Mapping, Tensor)) or not isinstance(loader, Iterable)
    wrong = wrong or (isinstance(loader, torch_data.Dataset) and not isinstance(loader, torch_data.IterableDataset))
    if wrong:
        raise InputError(
            f"{name} must be an iterable of batches (images, labels), such as a DataLoader, not of type "
            f"{type(loader).__name__}: a data set goes into torch.utils.data.DataLoader(dataset, batch_size=...)"
        )
    return cast("Iterable[Any]", loader)


def _length(loader: Iterable[Any]) -> int | None:
    # What a stream says of its length is a guess.
    if isinstance(loader, torch_data.DataLoader) and isinstance(loader.dataset, torch_data.IterableDataset):
        return None
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except (TypeError, NotImplementedError):
        return None


def _samplers(loader: object) -> list[Any]:
    """What decides the order of a DataLoader."""
    if not isinstance(loader, torch_data.DataLoader) or isinstance(loader.dataset, torch_data.IterableDataset):
        return []
    batches = cast("Any", loader).batch_sampler
    inner = getattr(batches, "sampler", None)
    if isinstance(batches, torch_data.BatchSampler) and type(batches) is torch_data.BatchSampler:
        return [inner]
    return [
        each for each in (batches, inner if batches is not None else cast("Any", loader).sampler) if each is not None
    ]
