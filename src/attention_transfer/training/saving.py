"""Saving of the trained student, of its teacher where it needs one, and of the methods' modules."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from attention_transfer.distiller import Distiller
from attention_transfer.experiment import Experiment
from attention_transfer.models import Input, save_model
from attention_transfer.training.averaging import WeightAverage
from attention_transfer.training.deployment import save_parts, save_teacher_beside
from attention_transfer.training.prepare import Prepared


def keep(experiment: Experiment, prepared: Prepared, average: WeightAverage | None, run: Path, folder: Path) -> None:
    """Save the student as it is now, bare, and beside it what it needs and what methods learned.

    Args:
        experiment: of the run.
        prepared: its networks.
        average: of the student's weights, which is then what is saved.
        run: the run folder.
        folder: where the student goes; the run folder, or one inside it.
    """
    dataset, opened, distiller = prepared.dataset, prepared.student, prepared.distiller
    if isinstance(distiller, Distiller) and (distiller.replaces or distiller.parts.state_dict()):
        save_parts(distiller, folder)
    averaged = {} if average is None else {"ema_decay": average.decay}
    with nullcontext() if average is None else average.in_place():
        save_model(
            distiller.student,
            folder,
            opened.name,
            opened.num_classes,
            opened.image_size,
            Input(dataset.mean, dataset.std),
            {"classes": list(dataset.classes), **averaged, **_keep_teacher(experiment, prepared, run, folder)},
        )


def _keep_teacher(experiment: Experiment, prepared: Prepared, run: Path, folder: Path) -> dict[str, Any]:
    """Keep the teacher too, where the student computes with it; what the student's JSON says about it."""
    teacher, distiller = prepared.teacher, prepared.distiller
    if teacher is None or not isinstance(distiller, Distiller) or not distiller.replaces:
        return {}
    return save_teacher_beside(experiment, run, folder, teacher, prepared.teacher_input)
