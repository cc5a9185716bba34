"""`localise MODEL... --data NAME`: how much of each network's attention falls on the object."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro

from attention_transfer.analysis.localisation import Localisation, centre_scores, check, correlations, localise
from attention_transfer.analysis.map_kinds import MapKind, MapRequest
from attention_transfer.analysis.subject import open_subjects
from attention_transfer.commands.data_of_runs import downloads, for_test_images, own_data
from attention_transfer.commands.flags.parsing import parsed
from attention_transfer.data import DataSet
from attention_transfer.errors import printable
from attention_transfer.experiment import Data, Training
from attention_transfer.files.env_paths import expand
from attention_transfer.report.localisation import localisation_figure, localisation_markdown
from attention_transfer.report.plots import check_picture
from attention_transfer.runs import RunFolder, is_run
from attention_transfer.training.prepare import load_data

# The settings that each kind of map depends on.
_CONCERNS: dict[MapKind, tuple[str, ...]] = {
    "activation": ("stage", "power"),
    "class": ("class_of", "layer"),
    "gradient": ("class_of",),
    "gradient-cam": ("stage", "class_of"),
    "attention": (),
}


@dataclass(frozen=True)
class Flags:
    """Do better networks attend better? Each model's accuracy beside how well its attention finds the object's box.

    For data with boxes around objects: cluttered-digits, cub200, tiny-imagenet. Without --data, run folders are
    measured on the data that they were trained on. They keep the result among their findings.

    Args:
        models: run folders, or names with @FILE or @pretrained behind them; three or more give a rank correlation.
        map: where attention is read; several at once are fine. `attention` is that of vision transformers.
        stage: of activation and gradient-cam maps; negative from the end.
        power: of activation maps, Σ|A|^p.
        class_of: the class that class, gradient and gradient-cam maps are about.
        layer: for class maps: module whose globally averaged output the head takes, where it could not be determined.
        batch_size: images at a time.
        device: `auto` takes an accelerator if there is one.
        threads: CPU threads; None leaves torch's choice.
        mean: mean per channel, for pixels in 0…1, of the images of models whose weights do not have it.
        std: standard deviation per channel of those images.
        figure: also draw accuracy against scores into this file (PNG).
        json: print the result as JSON.
        allow_download: fetch what run folders name; without it, only what you name yourself.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL [MODEL ...]")]
    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=Data)
    map: tuple[MapKind, ...] = ("activation",)
    stage: int = -1
    power: float = 2.0
    class_of: Literal["true", "predicted"] = "true"
    layer: str | None = None
    batch_size: int = 64
    device: str = "auto"
    threads: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    figure: Path | None = None
    json: bool = False
    allow_download: bool = False


def command(arguments: Sequence[str]) -> None:
    """Run `localise`."""
    flags = parsed(
        Flags, "localise", arguments, Flags(models=cast("tuple[str, ...]", tyro.MISSING), data=own_data(arguments))
    )
    check_picture(flags.figure)
    request = MapRequest(flags.map, flags.stage, flags.power, flags.class_of, flags.layer)
    may_fetch = downloads(arguments, flags.allow_download)
    dataset = load_data(for_test_images(flags.data), seed=0, download=may_fetch.data)
    settings = Training(device=flags.device, threads=flags.threads)
    subjects = open_subjects(flags.models, dataset, settings, flags.mean, flags.std, allow_download=may_fetch.recorded)
    for subject in subjects:
        # Refused before the first network has been read for minutes.
        check(subject, request)
    centre = centre_scores(dataset.test, dataset.image_size, dataset.name)
    found: list[Localisation] = []
    for subject in subjects:
        found.append(
            localise(subject, dataset.test, request, batch_size=flags.batch_size, num_workers=flags.data.num_workers)
        )
        _keep(found[-1], request, flags.data.name, dataset)
    maps = {kind: _asked(kind, request) for kind in request.kinds}
    content = {
        "models": [_measured(each, flags.data.name, dataset) | _scores(each) for each in found],
        "maps": maps,
        "correlations": {
            kind: {score: related.row() for score, related in rows.items()}
            for kind, rows in correlations(found).items()
        },
        "centre": centre.row(),
        "notes": [note for subject in subjects for note in subject.notes],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) if flags.json else localisation_markdown(content)
    print(printable(text))
    if flags.figure is not None:
        localisation_figure(content, flags.figure)
        if not flags.json:
            print(f"\npicture: {flags.figure}")


def _keep(found: Localisation, request: MapRequest, data: str, dataset: DataSet) -> None:
    """Add the result to the findings of a run."""
    place = expand(found.name)
    if is_run(place):
        for kind, scores in found.scores.items():
            asked = _asked(kind, request)
            name = "-".join([*map(str, asked.values()), data, f"{dataset.image_size}px"])
            content = _measured(found, data, dataset) | {"map": asked, "scores": scores.row()}
            RunFolder(place).write_finding(f"localisation-{re.sub(r'[^a-zA-Z0-9_.-]+', '-', name)}", content)


def _measured(found: Localisation, data: str, dataset: DataSet) -> dict[str, Any]:
    return {
        "model": found.name,
        "data": {"name": data, "split": "test", "image_size": dataset.image_size},
        "images": found.images,
        "boxes": found.boxes,
        "top1": found.top1,
    }


def _scores(found: Localisation) -> dict[str, Any]:
    return {"scores": {kind: scores.row() for kind, scores in found.scores.items()}}


def _asked(kind: MapKind, request: MapRequest) -> dict[str, Any]:
    """What was asked of a kind of map, without what does not concern it."""
    settings = {name: value for name, value in asdict(request).items() if name in _CONCERNS[kind]}
    return {"kind": kind} | {name: value for name, value in settings.items() if value is not None}
