"""`evaluate MODEL --data NAME`: top-1, top-5 and loss of any model on any data."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, cast

import tyro

from attention_transfer.commands.own_data import own_data
from attention_transfer.experiment import Data, Training


@dataclass(frozen=True)
class Flags:
    """Measure a model: a run on its own data unless told otherwise, anything else on cluttered digits.

    Args:
        model: a run folder, a weights file of one of our models, or a name with @FILE or @pretrained behind it.
        split: which images; `unseen` are the test images of the classes that --train-classes leaves out.
        batch_size: images at a time.
        device: `auto` takes an accelerator if there is one.
        precision: arithmetic of the network.
        mean: per channel, of the model's images given pixels in 0…1, where its weights do not say.
        std: per channel, likewise.
        seed: chooses the validation images, as it did in training.
        json: print the result as JSON.
    """

    model: Annotated[str, tyro.conf.Positional]
    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=Data)
    split: Literal["test", "validation", "train", "unseen"] = "test"
    batch_size: int = 256
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    seed: int = 0
    json: bool = False


def command(arguments: Sequence[str]) -> None:
    """Run `evaluate`."""
    flags = tyro.cli(
        Flags,
        prog="attention-transfer evaluate",
        args=list(arguments),
        default=Flags(model=cast(str, tyro.MISSING), data=own_data(arguments)),
        config=(tyro.conf.AvoidSubcommands,),
    )
    from attention_transfer.analysis.measure import measure

    settings = Training(batch_size=flags.batch_size, device=flags.device, precision=flags.precision)
    score, notes = measure(flags.model, flags.data, flags.split, settings, flags.seed, flags.mean, flags.std)
    if flags.json:
        print(json.dumps(score.row() | {"model": flags.model, "data": flags.data.name, "split": flags.split}))
        return
    for note in notes:
        print(f"note: {note}")
    print(
        f"{flags.model} on {flags.split} of {flags.data.name} ({score.count:,} images): "
        f"top-1 {score.top1:.2f} %  top-5 {score.top5:.2f} %  loss {score.loss:.4f}"
    )
