"""`quickstart`: the whole idea in a few minutes on a CPU, without a download."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attention_transfer.commands.flags.parsing import parsed
from attention_transfer.errors import InputError
from attention_transfer.experiment import Experiment
from attention_transfer.recipes import RECIPES

PICTURES = 6


@dataclass(frozen=True)
class Flags:
    """Train a teacher, a student alone and the same student with attention transfer on cluttered digits; compare them.

    Args:
        folder: where the runs and the picture go; runs that are finished are not repeated.
        seeds: of the students.
        tiny: a few images and one epoch, to see whether everything runs.
    """

    folder: Path = Path("quickstart")
    seeds: tuple[int, ...] = (0, 1, 2)
    tiny: bool = False


def command(arguments: Sequence[str]) -> None:
    """Run `quickstart`."""
    flags = parsed(Flags, "quickstart", arguments)
    if not flags.seeds:
        raise InputError("give at least one seed")
    started = time.perf_counter()
    folder = flags.folder / "tiny" if flags.tiny else flags.folder
    from attention_transfer.report.compare import compare
    from attention_transfer.report.table import to_markdown
    from attention_transfer.runs import find_runs
    from attention_transfer.training.experiment_run import fit_experiment
    from attention_transfer.training.progress import Reporter

    students: list[Path] = []
    teacher = folder / "teacher"
    fit_experiment(_sized(RECIPES["digits-teacher"](), flags.tiny), teacher, Reporter(prefix="teacher  "))
    for seed in flags.seeds:
        taught = replace(
            _sized(RECIPES["digits"](), flags.tiny), seed=seed, teacher=str(teacher), untrained_teacher=False
        )
        alone = replace(taught, teacher=None, methods=())
        for name, experiment in (("alone", alone), ("at", taught)):
            run = folder / f"{name}-seed{seed}"
            fit_experiment(experiment, run, Reporter(prefix=f"{name}, seed {seed}  "))
            students.append(run)
    print(to_markdown(compare(find_runs(students))))
    picture = folder / "quickstart.png"
    last = flags.seeds[-1]
    draw(picture, teacher, folder / f"at-seed{last}", folder / f"alone-seed{last}")
    print(f"picture: {picture}   ({time.perf_counter() - started:.0f} s)")


def draw(picture: Path, teacher: Path, taught: Path, alone: Path) -> None:
    """Draw where teacher, taught student and lone student look on the first test images.

    Args:
        picture: the PNG to write.
        teacher: its run.
        taught: run of the student with attention transfer.
        alone: run of the student without.
    """
    import numpy as np

    from attention_transfer.analysis.map_kinds import stage_maps
    from attention_transfer.experiment import read_experiment
    from attention_transfer.models import open_model
    from attention_transfer.report.plots import attention_figure
    from attention_transfer.runs import RunFolder
    from attention_transfer.training.prepare import load_data

    experiment = read_experiment(RunFolder(alone))
    dataset = load_data(experiment.data, experiment.seed)
    shown = dataset.test.subset(np.arange(min(PICTURES, len(dataset.test))))
    assert isinstance(shown.images, np.ndarray)
    networks = {"teacher": teacher, "student, attention transfer": taught, "student alone": alone}
    maps = {name: stage_maps(open_model(str(run)).module, dataset, shown) for name, run in networks.items()}
    attention_figure(shown.images, maps, shown.boxes, picture)


def _sized(experiment: Experiment, tiny: bool) -> Experiment:
    return experiment.tiny() if tiny else experiment
