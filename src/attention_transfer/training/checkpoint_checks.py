"""Checks of a checkpoint: everything that an interrupted run needs to resume bit for bit.

A run folder is handed on, and its checkpoint with it: what it holds is looked at before anything is taken from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from attention_transfer.errors import InputError
from attention_transfer.files.json_fields import is_number, is_whole
from attention_transfer.runs.shapes import check_row

# Of these an optimiser keeps as many numbers as a parameter has.
_LIKE_PARAMETERS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "exp_inf", "sum")
_MOST = 2**53  # steps; more than any training has
START_ANEW = "delete it to start this run anew"


class CheckpointError(InputError):
    """A checkpoint that cannot be read, or holds something else than its run does."""


@dataclass(frozen=True)
class Expected:
    """What the checkpoint of a run must hold.

    Args:
        epochs: of the whole training.
        batches: batches of an epoch; None if unknown.
        distiller: its state dict, as it is before training.
        average: that of the averaged weights; None without any.
        world_size: number of processes.
        scaler: what scales the loss keeps; None where nothing does.
    """

    epochs: int
    batches: int | None
    distiller: Mapping[str, Any]
    average: Mapping[str, Any] | None
    world_size: int = 1
    scaler: Mapping[str, Any] | None = None


def check_checkpoint(state: Mapping[str, Any], expected: Expected, path: Path) -> None:
    """Refuse what no run of this experiment has written; the optimiser is looked at once there is one.

    Args:
        state: as it was read.
        expected: of this run.
        path: for the message.

    Raises:
        CheckpointError: naming the field, what it must be and what it is.
    """
    fields = _Fields(state, path)
    fields.need("epoch", f"a whole number from 0 to {expected.epochs}", _is_up_to(expected.epochs))
    last = 0 if state["epoch"] == expected.epochs else _MOST if expected.batches is None else expected.batches - 1
    fields.need("first_batch", f"a whole number from 0 to {last}", _is_up_to(last))
    for name in ("updates", "phase_updates"):
        fields.need(name, f"a whole number from 0 to {_MOST}", _is_up_to(_MOST))
    fields.need("world_size", "a number of processes", lambda value: is_whole(value, 1))
    if state["world_size"] != expected.world_size:
        raise CheckpointError(
            f"the checkpoint {path} is of {state['world_size']} process{'es' * (state['world_size'] > 1)}, each with "
            f"batches of its own, and now there {'are' if expected.world_size > 1 else 'is'} {expected.world_size}: "
            f"start as many (torchrun --nproc-per-node), or {START_ANEW}"
        )
    for name in ("seconds", "total_seconds"):
        fields.need(name, "a finite number, at least 0", _is_duration)
    fields.need("optimizer", "the state of an optimiser", _is_mapping)
    fields.need("distiller", "the state of a distiller", _is_mapping)
    fields.like("distiller", expected.distiller)
    if expected.average is not None:
        fields.need("average", "averaged weights", _is_mapping)
        fields.like("average", expected.average)
    fields.need("means", "the means of an epoch, of each process", _are_means_of(expected.world_size))
    fields.need("rows", "the metrics of finished epochs", _are_rows_of(state["epoch"]))
    if expected.scaler is not None:
        fields.need("scaler", "what a scale of the loss goes on with", _is_alike_to(expected.scaler))


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], path: Path) -> None:
    """Go on with an optimiser as a checkpoint holds it.

    Args:
        optimizer: as it was made for this run.
        state: its state dict then, of anybody.
        path: for the message.

    Raises:
        CheckpointError: it is that of another optimiser, or holds what none does.
    """
    wrong = _what_is_wrong(optimizer, state)
    if wrong is None:
        try:
            optimizer.load_state_dict(dict(state))
            return
        except Exception as error:  # whatever torch falls over is in the file
            wrong = f"it does not fit this run ({type(error).__name__})"
    raise CheckpointError(f"'optimizer' of the checkpoint {path} cannot be taken: {wrong}; {START_ANEW}")


def _what_is_wrong(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> str | None:
    groups, kept = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or not isinstance(kept, dict):
        return "it has no groups and states"
    theirs = cast("list[Any]", groups)
    if len(theirs) != len(optimizer.param_groups):
        return f"it has {len(theirs)} groups of parameters, not {len(optimizer.param_groups)}"
    parameters: dict[Any, Tensor] = {}
    for number, (own, group) in enumerate(zip(optimizer.param_groups, theirs, strict=True)):
        if not isinstance(group, dict):
            return f"its group {number} is no group"
        values = cast("dict[str, Any]", group)
        indices = values.get("params")
        if not isinstance(indices, list) or len(cast("list[Any]", indices)) != len(own["params"]):
            return f"its group {number} has other parameters"
        if not all(is_whole(index) for index in cast("list[Any]", indices)):
            return f"its group {number} has parameters that are not numbered"
        parameters |= dict(zip(cast("list[int]", indices), own["params"], strict=True))
        for name, value in own.items():
            if name != "params" and name in values and not _is_alike(values[name], value):
                return f"{name!r} of its group {number} is {_short(values[name])}, where {_short(value)} is expected"
    return _what_is_wrong_in(cast("dict[Any, Any]", kept), parameters)


def _what_is_wrong_in(kept: Mapping[Any, Any], parameters: Mapping[Any, Tensor]) -> str | None:
    for index, values in kept.items():
        if not is_whole(index) or index not in parameters or not isinstance(values, dict):
            return f"it keeps something for {_short(index)}, which is no parameter"
        for name, value in cast("dict[str, Any]", values).items():
            known = value is None or isinstance(value, (Tensor, str)) or is_number(value) or isinstance(value, bool)
            sound = _is_sound(value) if isinstance(value, Tensor) else not is_number(value) or _is_finite(value)
            fits = name not in _LIKE_PARAMETERS or value is None
            fits = fits or (isinstance(value, Tensor) and value.shape == parameters[index].shape)
            if not (known and sound and fits):
                return f"{name!r} of parameter {index} is {_short(value)}"
    return None


@dataclass(frozen=True)
class _Fields:
    state: Mapping[str, Any]
    path: Path

    def need(self, name: str, wanted: str, is_right: Callable[[Any], bool]) -> None:
        if name not in self.state:
            raise CheckpointError(f"{name!r} of the checkpoint {self.path} is missing; {START_ANEW}")
        if not is_right(self.state[name]):
            raise self._refused(repr(name), wanted, self.state[name])

    def like(self, name: str, expected: Mapping[str, Any]) -> None:
        """Hold values by name to those that there are in this run."""
        found = cast("Mapping[Any, Any]", self.state[name])
        other = sorted(map(str, found.keys() ^ expected.keys()))
        if other:
            listed = ", ".join(each[:60] for each in other[:3])
            raise CheckpointError(
                f"{name!r} of the checkpoint {self.path} is of other networks or methods ({listed}"
                f"{', …' if len(other) > 3 else ''}); {START_ANEW}"
            )
        for key, wanted in expected.items():
            value = found[key]
            if not isinstance(wanted, Tensor):
                continue
            fits = isinstance(value, Tensor) and value.shape == wanted.shape and value.dtype == wanted.dtype
            if not fits or not _is_sound(value):
                shape = f"finite numbers of shape {tuple(wanted.shape)}, {wanted.dtype}"
                raise self._refused(f"{key!r} in {name!r}", shape, value)

    def _refused(self, what: str, wanted: str, value: object) -> CheckpointError:
        return CheckpointError(
            f"{what} of the checkpoint {self.path} must be {wanted}, not {_short(value)}; {START_ANEW}"
        )


def _is_up_to(most: int) -> Callable[[Any], bool]:
    def is_right(value: Any) -> bool:
        return is_whole(value) and value <= most

    return is_right


def _is_duration(value: Any) -> bool:
    return _is_finite(value) and value >= 0


def _is_finite(value: object) -> bool:
    return is_number(value) and abs(cast(float, value)) < float("inf")


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _is_sound(value: Tensor) -> bool:
    """Whether a tensor has its numbers in the file, each of them, and they are finite."""
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return False
    stored = value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    return stored and (not value.is_floating_point() or bool(value.isfinite().all()))


def _are_means_of(processes: int) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list)
        and len(cast("list[Any]", value)) == processes
        and all(map(_are_means, cast("list[Any]", value)))
    )


def _are_rows_of(epochs: int) -> Callable[[Any], bool]:
    """Whether something is a list of rows of metrics, ascending and of finished epochs alone."""

    def are_rows(value: Any) -> bool:
        if not isinstance(value, list):
            return False
        before = 0
        for row in cast("list[Any]", value):
            try:
                if not isinstance(row, dict) or not before < check_row(cast("dict[str, Any]", row), "")["epoch"]:
                    return False
            except InputError:
                return False
            before = row["epoch"]
        return before <= epochs

    return are_rows


def _is_alike_to(own: Mapping[str, Any]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict)
        and cast("dict[str, Any]", value).keys() == own.keys()
        and all(_is_alike(value[name], each) for name, each in own.items())
    )


def _are_means(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    means = cast("dict[str, Any]", value)
    sums, weights = means.get("sums"), means.get("weights")
    if not isinstance(sums, dict) or not isinstance(weights, dict) or not is_whole(means.get("count")):
        return False
    for each in cast("dict[Any, Any]", sums).values():
        if not isinstance(each, Tensor) or each.ndim or not each.is_floating_point() or not _is_sound(each):
            return False
    names = [*cast("dict[Any, Any]", sums), *cast("dict[Any, Any]", weights)]
    finite = all(_is_finite(each) for each in cast("dict[Any, Any]", weights).values())
    return finite and all(isinstance(name, str) for name in names)


def _is_alike(value: Any, own: Any) -> bool:
    """Whether a setting of an optimiser is one of the kind that this run has there."""
    if isinstance(own, (list, tuple)):
        pairs = cast("list[Any]", value) if isinstance(value, (list, tuple)) else None
        mine = cast("list[Any]", own)
        return pairs is not None and len(pairs) == len(mine) and all(map(_is_alike, pairs, mine))
    if is_number(own):
        return _is_finite(value)
    return type(value) is type(own) or ((value is None) != (own is None) and isinstance(value, (bool, type(None))))


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}" + ("" if _is_sound(value) else ", not finite")
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}…"
