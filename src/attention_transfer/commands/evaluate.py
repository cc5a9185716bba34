"""`evaluate MODEL... --data NAME`: top-1, top-5 and loss of any model on any data; of several, also together."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro

from attention_transfer.commands.data_of_runs import downloads, own_data
from attention_transfer.commands.flags.parsing import parsed
from attention_transfer.errors import InputError, printable
from attention_transfer.experiment import Data, Training
from attention_transfer.experiment.data import Downloads
from attention_transfer.files.env_paths import expand
from attention_transfer.files.writing import unwritable
from attention_transfer.runs import RunFolder, is_run, make_folder
from attention_transfer.training.evaluate import Score


@dataclass(frozen=True)
class Flags:
    """Measure a model: a run on its own data, anything else on cluttered digits, unless --data names another.

    Several models are measured as an ensemble too, whose class probabilities are the mean of theirs; the result is also
    kept among the findings of the first of them that is a run.

    Args:
        models: run folders, weights files of our models, or names with @FILE or @pretrained behind them.
        split: which images; `unseen` are the test images of the classes that --train-classes leaves out.
        batch_size: images at a time.
        device: `auto` takes an accelerator if there is one.
        precision: arithmetic of the network.
        mean: mean per channel, for pixels in 0…1, of the model's images, where its weights do not have it.
        std: standard deviation per channel of those images.
        seed: chooses the validation images, as it did in training.
        output: file that also receives the result, as JSON.
        json: print the result as JSON.
        allow_download: fetch what run folders name; without it, only what you name yourself.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL [MODEL ...]")]
    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=Data)
    split: Literal["test", "validation", "train", "unseen"] = "test"
    batch_size: int = 256
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    seed: int = 0
    output: Path | None = None
    json: bool = False
    allow_download: bool = False


def command(arguments: Sequence[str]) -> None:
    """Run `evaluate`."""
    flags = parsed(
        Flags, "evaluate", arguments, Flags(models=cast("tuple[str, ...]", tyro.MISSING), data=own_data(arguments))
    )
    if not flags.models:
        raise InputError("give at least one model: a run folder, or a name with @FILE or @pretrained behind it")
    settings = Training(batch_size=flags.batch_size, device=flags.device, precision=flags.precision)
    may_fetch = downloads(arguments, flags.allow_download)
    content, lines = (_alone if len(flags.models) == 1 else _together)(flags, settings, may_fetch)
    if flags.output is not None:
        _write(flags.output, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    if flags.json:
        print(json.dumps(content))
    else:
        print(printable("\n".join(lines)))


def _alone(flags: Flags, settings: Training, may_fetch: Downloads) -> tuple[dict[str, Any], list[str]]:
    """What is to be kept, and what is to be read."""
    from attention_transfer.analysis.measure import measure

    (model,) = flags.models
    score, notes = measure(model, flags.data, flags.split, settings, flags.seed, flags.mean, flags.std, may_fetch)
    content = score.row() | {"model": model, "data": flags.data.name, "split": flags.split}
    line = f"{model} on {_called(flags.split, score)} of {flags.data.name} ({score.count:,} images): {_numbers(score)}"
    return content, [*(f"note: {note}" for note in notes), line]


def _together(flags: Flags, settings: Training, may_fetch: Downloads) -> tuple[dict[str, Any], list[str]]:
    """Measure an ensemble, which a run keeps as a finding."""
    from attention_transfer.analysis.ensemble import measure_together

    found = measure_together(
        flags.models, flags.data, flags.split, settings, flags.seed, flags.mean, flags.std, may_fetch
    )
    content = {"data": flags.data.name, "split": flags.split} | found.row()
    lines = [f"note: {note}" for note in found.notes]
    split = _called(flags.split, found.together)
    lines.append(f"on {split} of {flags.data.name} ({found.together.count:,} images):")
    lines += [f"{name}: {_numbers(score)}" for name, score in zip(found.models, found.members, strict=True)]
    lines.append(f"mean of their probabilities: {_numbers(found.together)}")
    lines.append(f"they name the same class on {found.mean_agreement:.2f} % of the images, on average over pairs")
    run = next((place for place in map(expand, found.models) if is_run(place)), None)
    if run is not None:
        members = hashlib.blake2b("\n".join(found.models).encode(), digest_size=4).hexdigest()
        name = f"ensemble-of-{len(found.models)}-{members}-{flags.data.name}-{flags.split}"
        path = RunFolder(run).write_finding(re.sub(r"[^a-zA-Z0-9_.-]+", "-", name), content)
        lines.append(f"kept as {path}")
    return content, lines


def _called(split: str, score: Score) -> str:
    return split if score.images_of is None else f"{score.images_of} (as {split})"


def _numbers(score: Score) -> str:
    return f"top-1 {score.top1:.2f} %  top-5 {score.top5:.2f} %  loss {score.loss:.4f}"


def _write(file: Path, text: str) -> None:
    make_folder(file.parent)
    try:
        file.write_text(text, encoding="utf-8")  # in place: it may be a pipe or a device
    except OSError as error:
        raise unwritable(file, error) from error
