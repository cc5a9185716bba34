"""`probe MODEL... --data NAME`: a linear layer on frozen features."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, cast

import tyro

from attention_transfer.analysis.linear_probe import Probe, ProbeSettings, features_tap, probe
from attention_transfer.analysis.subject import open_subjects
from attention_transfer.commands.flags.parsing import parsed
from attention_transfer.data import DataSet
from attention_transfer.errors import InputError, printable
from attention_transfer.experiment import Data, Training
from attention_transfer.files.env_paths import expand
from attention_transfer.report.compare import spread
from attention_transfer.report.table import duration, markdown_table, percent
from attention_transfer.runs import RunFolder, is_run
from attention_transfer.training.prepare import load_data

_SIDE = 32  # of CIFAR's images, as Guo et al. resize those of STL-10 and Tiny-ImageNet


@dataclass(frozen=True)
class Flags:
    """Train a linear layer on what frozen networks give for other images than they were trained on.

    The features are what a network's linear head takes, of images of 32×32 unless --image-size says otherwise. Run
    folders keep the result among their findings.

    Args:
        models: run folders, or names with @FILE or @pretrained behind them.
        features: module path whose output, averaged over positions, is probed; the input of the head if not given.
        seeds: seeds of the linear layers.
        device: `auto` takes an accelerator if there is one.
        mean: mean per channel, for pixels in 0…1, of the images of models whose weights do not have it; the data set's
            if not given.
        std: standard deviation per channel of those images; the data set's if not given.
        json: print the results as JSON.
        allow_download: fetch what run folders name; without it, only what you name yourself.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL [MODEL ...]")]
    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=lambda: Data(image_size=_SIDE))
    probe: Annotated[ProbeSettings, tyro.conf.arg(name="")] = field(default_factory=ProbeSettings)
    features: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    device: str = "auto"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    json: bool = False
    allow_download: bool = False


def command(arguments: Sequence[str]) -> None:
    """Run `probe`."""
    flags = parsed(Flags, "probe", arguments, Flags(models=cast("tuple[str, ...]", tyro.MISSING)))
    if flags.data.augment not in ("auto", "none"):
        raise InputError(f"a probe reads every image once, as it is: leave out --augment {flags.data.augment}")
    dataset = load_data(flags.data, seed=0)
    settings = Training(device=flags.device)
    subjects = open_subjects(
        flags.models, dataset, settings, flags.mean, flags.std, allow_download=flags.allow_download
    )
    for subject in subjects:
        # Refused before the first network has been read for minutes.
        features_tap(subject, flags.features)
    probes: list[Probe] = []
    for subject in subjects:
        if not flags.json:
            for note in subject.notes:
                print(printable(f"note: {note}"))
        found = probe(subject, flags.probe, flags.seeds, module=flags.features, num_workers=flags.data.num_workers)
        _keep(found, flags, dataset)
        probes.append(found)
    if flags.json:
        print(json.dumps([_content(found, flags, dataset) for found in probes], indent=2, ensure_ascii=False))
    else:
        print(printable(_markdown(probes, flags, dataset)))


def _keep(found: Probe, flags: Flags, dataset: DataSet) -> None:
    """Add the result to the findings of a run."""
    place = expand(found.name)
    if is_run(place):
        name = re.sub(r"[^\w-]+", "-", flags.data.name).strip("-")
        RunFolder(place).write_finding(f"linear-probe-{name}-{dataset.image_size}px", _content(found, flags, dataset))


def _content(found: Probe, flags: Flags, dataset: DataSet) -> dict[str, Any]:
    return {
        "model": found.name,
        "data": {
            "name": flags.data.name,
            "classes": dataset.num_classes,
            "image_size": dataset.image_size,
            "train_images": len(dataset.train),
            "test_images": len(dataset.test),
        },
        "features": found.features,
        "channels": found.channels,
        "settings": asdict(flags.probe),
        "seeds": list(found.seeds),
        "test": [score.row() for score in found.test],
        "train": [score.row() for score in found.train],
        "top1": _spread([score.top1 for score in found.test]),
        "top5": _spread([score.top5 for score in found.test]),
        "feature_seconds": found.feature_seconds,
        "layer_seconds": found.layer_seconds,
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    found = spread(values)
    assert found is not None
    return asdict(found)


def _markdown(probes: Sequence[Probe], flags: Flags, dataset: DataSet) -> str:
    header = ["", "features", "top-1", "top-5", "top-1 of training images", "reading features", "one linear layer"]
    rows = [
        [
            found.name,
            f"{found.channels:,}, {found.features}",
            percent(spread([score.top1 for score in found.test])),
            percent(spread([score.top5 for score in found.test])),
            percent(spread([score.top1 for score in found.train])),
            duration(found.feature_seconds),
            duration(found.layer_seconds),
        ]
        for found in probes
    ]
    settings = flags.probe
    lines = [
        *markdown_table(header, rows),
        "",
        f"- Percent of {len(dataset.test):,} test images of {flags.data.name} ({dataset.num_classes} classes), at "
        f"{dataset.image_size}×{dataset.image_size}; the linear layer saw {len(dataset.train):,} training images.",
        f"- Mean ± sample standard deviation over seeds {', '.join(map(str, flags.seeds))}, after the last of "
        f"{settings.epochs} epochs: SGD, batch {settings.batch_size}, learning rate {settings.learning_rate:g} times "
        f"{settings.step_factor:g} after {', '.join(map(str, settings.step_epochs)) or 'no'} epochs, momentum "
        f"{settings.momentum:g}, weight decay {settings.weight_decay:g}.",
    ]
    return "\n".join(lines)
