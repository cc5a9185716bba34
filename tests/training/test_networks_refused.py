"""Networks that a training cannot use are refused in one sentence, before anything is learned."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.folders import unsplit
from tests.training.conftest import Make

from attention_transfer import (
    AttentionDistillation,
    AttentionLinks,
    Correlation,
    Data,
    Experiment,
    Method,
    Relational,
    SimilarityPreserving,
    SoftTargets,
    Training,
)
from attention_transfer.analysis.measure import measure
from attention_transfer.cli import main
from attention_transfer.data import load
from attention_transfer.methods.attention_links import link_weights
from attention_transfer.methods.attention_links.link_weights import Links
from attention_transfer.models import build, save_model
from attention_transfer.runs import RunFolder
from attention_transfer.training.distributed import Process
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import prepare
from attention_transfer.training.progress import Reporter

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


STUDENT = "timm:vit_tiny_patch16_224(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3)"


def test_a_training_batch_counts_as_a_whole(make: Make, monkeypatch: pytest.MonkeyPatch):
    experiment = make(student=STUDENT, teacher="resnet8", methods=(AttentionLinks(),))
    links = prepare(experiment).distiller.parts["attention-links"]  # pyright: ignore
    assert isinstance(links, Links)
    needed = links.bytes_per_image
    monkeypatch.setattr(link_weights, "memory_of", lambda device: 16 * needed)
    prepare(experiment)
    monkeypatch.setattr(link_weights, "memory_of", lambda device: 16 * needed - 1)
    with pytest.raises(ValueError, match=r"for a batch of 16.*select some stages"):
        prepare(experiment)


def experiment(method: Method, batch_size: int, images: Path) -> Experiment:
    return Experiment(
        "test",
        "resnet8",
        "resnet14",
        methods=(method,),
        untrained_teacher=True,
        data=Data(f"npz:{images}"),
        training=Training(epochs=1, batch_size=batch_size, threads=1, device="cpu"),
    )


@pytest.mark.parametrize("method", [Relational(), Correlation(form="paper")])
def test_two_images_are_refused_where_nothing_can_be_compared(method: Method, images: Path) -> None:
    with pytest.raises(ValueError, match=f"{method.key} compares the images .* of 2 there .* batch size of at least 3"):
        prepare(experiment(method, 2, images))


@pytest.mark.parametrize("method", [Correlation(), SimilarityPreserving()])
def test_two_images_are_enough_for_others(method: Method, images: Path) -> None:
    assert prepare(experiment(method, 2, images)).distiller.methods == (method,)


def test_the_batches_of_all_processes_count_together(images: Path) -> None:
    prepare(experiment(Relational(), 2, images), Process(0, 2))


VIT = "timm:vit_tiny_patch16_224(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3)"


def test_networks_that_must_draw_the_same_numbers_are_not_compiled(make: Make, tmp_path: Path) -> None:
    methods = (AttentionDistillation(same_drop_path=True),)
    experiment = make(student=VIT, teacher=VIT, methods=methods, training={"compile": True})
    with pytest.raises(ValueError, match="has same_drop_path, and compiled networks need not draw the same numbers"):
        fit_experiment(experiment, tmp_path / "run", Reporter(silent=True))


def test_versions_of_torch_that_cannot_compile_are_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_transfer.training.refusals.compiles", lambda: False)
    with pytest.raises(ValueError, match=r"cannot compile a distiller: leave out --compile, or take torch 2\.1\d"):
        fit_experiment(make(training={"compile": True}), tmp_path / "run", Reporter(silent=True))


QUICK = ["--image-size", "16", "--epochs", "1", "--batch-size", "4", "--device", "cpu", "--threads", "1"]


def trained(tmp_path: Path, held_out: str) -> Path:
    for part, num in (("train", 4), (held_out, 2)):
        unsplit(tmp_path / "images" / part, a=num, b=num)
    words = ["train", "digits", "--student", "resnet8", "--methods", "--data", f"folder:{tmp_path / 'images'}", *QUICK]
    assert main([*words, "--run-folder", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


@pytest.mark.parametrize("held_out", ["valid", "test"])
def test_a_run_says_which_images_it_measured(tmp_path: Path, held_out: str, capsys: pytest.CaptureFixture[str]):
    run = trained(tmp_path, held_out)
    out = capsys.readouterr().out
    assert f"  {held_out} " in out
    assert f"finished {run}: {held_out} top-1" in out
    named = {"images_of": "valid"} if held_out == "valid" else {}
    for score in (RunFolder(run).read_metrics()[0]["test"], (RunFolder(run).summary or {})["student"]["test"]):
        assert {name: value for name, value in score.items() if name == "images_of"} == named
    assert main(["evaluate", str(run), "--device", "cpu", "--output", str(tmp_path / "score.json")]) == 0
    assert f"on {'valid (as test)' if named else 'test'} of folder:" in capsys.readouterr().out
    assert json.loads((tmp_path / "score.json").read_text()).get("images_of") == named.get("images_of")
    assert main(["compare", str(run)]) == 0
    assert f"on 4 {'images of valid' if named else 'test images'}" in capsys.readouterr().out


def test_a_data_set_shows_its_splits_and_no_pixels(tmp_path: Path):
    unsplit(tmp_path / "train", a=300, b=300)
    unsplit(tmp_path / "val", a=2)
    dataset = load(f"folder:{tmp_path}", image_size=16)
    assert repr(dataset) == (
        f"DataSet('folder:{tmp_path}', 2 classes, 16 pixels a side, train=Split(600 images of 16×16×3, 2 classes), "
        "test=Split(2 images of 16×16×3, 1 classes))"
    )
    assert repr(dataset.train.subset(np.zeros(0, dtype=np.int64))) == "Split(0 images of 16×16×3, 0 classes)"
