"""Networks that a training cannot use are refused in one sentence, before anything is learned."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from attention_transfer import SimilarityPreserving, SoftTargets
from attention_transfer.analysis.measure import measure
from attention_transfer.experiment import Data, Experiment, Training
from attention_transfer.models import build, save_model
from attention_transfer.training.prepare import prepare

Make = Callable[..., Experiment]
GREY = "timm:resnet10t(in_chans=1)"


@pytest.fixture
def grey_run(tmp_path: Path) -> str:
    """A student for images of one channel, as somebody's own loop saves it."""
    (tmp_path / "grey").mkdir()
    save_model(build(GREY, 3), tmp_path / "grey", GREY, 3)
    return str(tmp_path / "grey")


@pytest.fixture
def grey_folder(tmp_path: Path) -> str:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_channels=1)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict() | {"image_size": 16, "patch_size": 4}))
    return f"hf:{tmp_path}"


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("form", ["name", "run", "hf"])
def test_networks_for_other_channels_are_refused(
    role: str, form: str, make: Make, grey_run: str, grey_folder: str
) -> None:
    spec = {"name": GREY, "run": grey_run, "hf": grey_folder}[form]
    with pytest.raises(ValueError, match=r"takes images of 1 channel") as caught:
        prepare(make(**{role: spec}))
    assert spec in str(caught.value)
    assert "\n" not in str(caught.value)


def test_they_are_refused_where_they_would_be_measured(images: Path, grey_run: str) -> None:
    with pytest.raises(ValueError, match="takes images of 1 channel"):
        measure(grey_run, Data(f"npz:{images}"), "test", Training(device="cpu"))


def test_an_untrained_teacher_that_cannot_run_is_refused_in_one_sentence(make: Make) -> None:
    with pytest.raises(ValueError, match=r"cannot be run on images of 3 channels and 16×16 pixels: ") as caught:
        prepare(make(teacher="torchvision:squeezenet1_0"))
    assert "\n" not in str(caught.value)


def test_a_backbone_teaches_its_features_and_not_its_logits(make: Make, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4, num_labels=3
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "backbone")
    teacher = f"hf:{tmp_path / 'backbone'}@pretrained"
    with pytest.raises(ValueError, match="has no last layer, and kd learns from its logits"):
        prepare(make(teacher=teacher, methods=(SoftTargets(),)))
    prepared = prepare(make(teacher=teacher, methods=(SimilarityPreserving(),)))
    assert prepared.teacher is not None
    assert prepared.teacher.num_classes == 0
    assert any("no last layer: it gives features" in note for note in prepared.notes)
    student = prepare(make(student=teacher, teacher=None, methods=()))
    assert sum("its last layer is new, for 3 classes" in note for note in student.notes) == 1
