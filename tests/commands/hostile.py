"""Run folders as somebody hostile would hand them on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attention_transfer.models import build, save_model
from attention_transfer.runs import STUDENT_CONFIG

CLASSES, IMAGES = 4, 16
_CODE = """
import pathlib
pathlib.Path({marker!r}).write_text("it ran")
from transformers import PretrainedConfig, PreTrainedModel

class Settings(PretrainedConfig):
    model_type = "{kind}"

class Network(PreTrainedModel):
    config_class = Settings
"""


def run_folder(folder: Path, experiment: dict[str, Any] | None = None, **student: Any) -> Path:
    """A run of ResNet-8 that looks finished, on a few images beside it.

    Args:
        folder: for it.
        experiment: fields of its experiment, beside the usual ones.
        student: fields of its `student.json`, beside or in place of the usual ones.
    """
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_student(folder)
    rewrite(folder / STUDENT_CONFIG, **student)
    usual = {"recipe": "test", "student": "resnet8", "data": {"name": f"npz:{images(folder.parent / 'images')}"}}
    (folder / "experiment.json").write_text(json.dumps(usual | (experiment or {})))
    (folder / "summary.json").write_text(json.dumps({"epochs": 1}))
    return folder


def save_student(folder: Path) -> None:
    """Save a small network that has learned nothing."""
    save_model(build("resnet8", CLASSES), folder, "resnet8", CLASSES, 32)


def images(folder: Path) -> Path:
    """A few images of noise in each of four classes."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3)).astype(np.uint8)
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", images=pixels, labels=np.arange(IMAGES) % CLASSES)
    return folder


def rewrite(file: Path, **fields: Any) -> None:
    """Change fields of a JSON object in a file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def code_folder(folder: Path, marker: Path, kind: str = "mine", **config: Any) -> Path:
    """A folder that transformers takes for a network with code of its own, which writes a file when it runs.

    Args:
        folder: for it.
        marker: that the code writes.
        kind: what its configuration calls it.
        config: more for its configuration.
    """
    folder.mkdir(parents=True)
    own = {"AutoConfig": "mine.Settings", "AutoModelForImageClassification": "mine.Network"}
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": own} | config))
    (folder / "mine.py").write_text(_CODE.format(marker=str(marker), kind=kind))
    return folder
