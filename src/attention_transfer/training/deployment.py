"""Students that need their teacher for inference (attention copy): saved with it, and opened as one network."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from attention_transfer.capture import Tap
from attention_transfer.distiller import Distiller
from attention_transfer.distiller.notes import unwarned
from attention_transfer.experiment import Experiment, from_json, to_json
from attention_transfer.files.json_fields import Fields, is_list, is_object
from attention_transfer.files.writing import to_write
from attention_transfer.methods import Method
from attention_transfer.models import Description, Input, OpenedModel, Stage, open_model, save_model
from attention_transfer.models.saving import read_student_file
from attention_transfer.models.weight_files import read_tensors
from attention_transfer.models.weights import fit_weights
from attention_transfer.runs import PARTS_WEIGHTS, STUDENT_CONFIG, STUDENT_WEIGHTS, make_folder, whole_file
from attention_transfer.runs.shapes import own_part

USED_WITH = "used_with"
_TEACHER = "teacher"
_STUDENT_IN_DEPLOYED = "distiller.student."


def save_teacher_beside(
    experiment: Experiment,
    run: Path,
    folder: Path,
    teacher: OpenedModel,
    teacher_input: Input | None,
) -> dict[str, Any]:
    """Keep what a student needs beside its own weights, and say so.

    The teacher lies in the run folder once, bare like a student. What methods learned lies beside the student, saved by
    `save_parts`.

    Args:
        experiment: whose methods replace something in the student.
        run: the run folder.
        folder: where the student is saved; the run folder or one inside it.
        teacher: as it was opened.
        teacher_input: how its images are normalised.

    Returns:
        What the student's JSON must hold so that `together` finds everything.
    """
    beside = to_write(run, _TEACHER)
    if not (beside / STUDENT_WEIGHTS).exists():
        make_folder(beside)
        names = {} if teacher.classes is None else {"classes": list(teacher.classes)}
        save_model(teacher.module, beside, teacher.name, teacher.num_classes, teacher.image_size, teacher_input, names)
    return {
        USED_WITH: {
            "teacher": Path(os.path.relpath(beside, folder)).as_posix(),
            "parts": PARTS_WEIGHTS,
            "methods": to_json(experiment)["methods"],
            "why": "the student computes with what the teacher gives; alone, its replaced layers were never trained",
        }
    }


def save_parts(distiller: Distiller, folder: Path) -> None:
    """Keep what methods learned beside the student, under the names that `distiller.parts` gives them.

    Args:
        distiller: of the run.
        folder: where the student is saved.
    """
    # Convolutions lie in channels_last, which safetensors refuses; copies, as it refuses shared memory too.
    parts = {name: value.detach().cpu().contiguous().clone() for name, value in distiller.parts.state_dict().items()}
    with whole_file(folder / PARTS_WEIGHTS) as temporary:
        safetensors.torch.save_file(parts, temporary)


def together(opened: OpenedModel, folder: Path, image_size: int, *, allow_download: bool = False) -> OpenedModel:
    """The network that a student was trained to be: with its teacher where it needs one, else itself.

    Args:
        opened: the student of a run, or of a snapshot.
        folder: that it was opened from.
        image_size: side of the student's images, in pixels.
        allow_download: fetch what the teacher's file asks for.

    Raises:
        ValueError: if the teacher that should lie beside it does not fit or is gone, or leads out of the run.
    """
    known = _used_with(folder)
    if known is None:
        return opened
    teacher_folder, parts_file = (
        own_part(folder, str(known.text(name, needed=True)), known.source) for name in ("teacher", "parts")
    )
    described = known.take("methods", "a list of methods", lambda value: is_list(value, is_object), needed=True)
    trained_by = from_json({"recipe": "", "student": opened.name, "methods": described}, known.source).methods
    # Others only teach, and may want their training set back.
    methods = [method for method in trained_by if type(method).replace is not Method.replace]
    # A folder, and not a name that is written the same.
    teacher = open_model(f"{teacher_folder.absolute()}", allow_download=allow_download)
    # Said when it was trained.
    with unwarned():
        distiller = Distiller(
            opened.module,
            teacher.module,
            methods,
            example=torch.empty(2, 3, image_size, image_size),
            student_input=opened.input,
            teacher_input=teacher.input,
        )
    parts = read_tensors(parts_file)
    learned = {name: value for name, value in parts.items() if name.partition(".")[0] in distiller.parts}
    fit_weights(distiller.parts, learned, str(parts_file))
    return replace(opened, module=distiller.deployed.eval(), description=_inside(opened.description))


def notes_on_its_own(folder: Path) -> tuple[str, ...]:
    """What to say where a student that needs its teacher goes on without it; nothing for any other folder."""
    if _used_with(folder) is None:
        return ()
    return (f"{folder} computed with its teacher's attention; the student's own was never trained there",)


def _used_with(folder: Path) -> Fields | None:
    return read_student_file(folder).used_with if (folder / STUDENT_CONFIG).exists() else None


def _inside(description: Description) -> Description:
    """A student's description, as it is found in the network that runs student and teacher."""

    def moved(tap: Tap) -> Tap:
        return replace(tap, module=_STUDENT_IN_DEPLOYED + tap.module)

    def stage(each: Stage) -> Stage:
        return Stage(moved(each.output), None if each.pre_activation is None else moved(each.pre_activation))

    return replace(
        description,
        stages=tuple(stage(each) for each in description.stages),
        head=None if description.head is None else _STUDENT_IN_DEPLOYED + description.head,
        pooled=None if description.pooled is None else moved(description.pooled),
    )
