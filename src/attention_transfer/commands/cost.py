"""`cost MODEL...`: parameters, arithmetic, time and memory of several networks beside each other."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, cast

import torch
import tyro

from attention_transfer.analysis.cost import Candidate, measure_costs
from attention_transfer.commands.flags.parsing import parsed
from attention_transfer.data import OWN_SIDES
from attention_transfer.errors import InputError, printable
from attention_transfer.experiment import Training, read_data
from attention_transfer.files.env_paths import expand
from attention_transfer.models import MODELS, OpenedModel, check_channels, open_model
from attention_transfer.report.cost import cost_markdown
from attention_transfer.runs import recorded_run
from attention_transfer.training.device import choose_arithmetic, environment

# Of what our own networks are made for, and of what those of other libraries are.
_SMALL_SIDE, _PHOTOGRAPH_SIDE = 32, 224


@dataclass(frozen=True)
class Flags:
    """What is gained in size, speed and memory: several networks measured in turns, each against the first.

    Weights do not matter for this, so that names without any will do, given --num-classes.

    Args:
        models: run folders, or names with or without @FILE; the first is what the others are compared with.
        image_size: side in pixels for all; without it, each model gets images of the size that it was made for.
        num_classes: of models that come without weights.
        batch_size: images at a time, for throughput and memory; at least 2.
        repeats: rounds; medians are reported.
        device: `auto` takes an accelerator if there is one.
        threads: CPU threads; None leaves torch's choice.
        json: print the result as JSON.
        allow_download: fetch what run folders name; without it, only what you name yourself.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL [MODEL ...]")]
    image_size: int | None = None
    num_classes: int | None = None
    batch_size: int = 64
    repeats: int = 20
    device: str = "auto"
    threads: int | None = None
    json: bool = False
    allow_download: bool = False


def command(arguments: Sequence[str]) -> None:
    """Run `cost`."""
    flags = parsed(Flags, "cost", arguments, Flags(models=cast("tuple[str, ...]", tyro.MISSING)))
    if flags.image_size is not None and flags.image_size < 1:
        raise InputError(f"image_size must be at least 1, not {flags.image_size}")
    settings = Training(batch_size=flags.batch_size, device=flags.device, threads=flags.threads)
    candidates: list[Candidate] = []
    assumed: dict[int, list[str]] = {}
    for name in flags.models:
        opened = open_model(expand(name), flags.num_classes, flags.image_size, allow_download=flags.allow_download)
        side = flags.image_size or _known_side(name, opened)
        if side is None:
            side = _SMALL_SIDE if opened.name in MODELS else _PHOTOGRAPH_SIDE
            assumed.setdefault(side, []).append(name)
        check_channels(opened.module, name, (side, side))
        place = choose_arithmetic(settings, opened.description.convolutional)
        candidates.append(Candidate(name, opened, side, place))
    costs = measure_costs(candidates, flags.batch_size, flags.repeats)
    content = {
        "models": [cost.row() for cost in costs],
        "batch_size": flags.batch_size,
        "repeats": flags.repeats,
        "hardware": environment(candidates[0].place)["hardware"],
        "torch": torch.__version__,
        "notes": [
            f"the image size of {', '.join(names)} could not be determined: taken to be {side}×{side} (--image-size)"
            for side, names in assumed.items()
        ],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) if flags.json else cost_markdown(content)
    print(printable(text))


def _known_side(name: str, opened: OpenedModel) -> int | None:
    """Side of the images that a network was made for or trained on; None if unknown."""
    if opened.image_size is not None:
        return opened.image_size
    place = expand(name)
    run = recorded_run(place)
    if run is not None:
        data = read_data(run)
        return data.image_size or OWN_SIDES.get(data.name.partition(":")[0])
    declared = opened.input.size if opened.input else None
    declared = declared or (opened.description.input.size if opened.description.input else None)
    return declared[0] if declared else None
