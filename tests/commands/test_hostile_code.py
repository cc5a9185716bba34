"""A run folder of somebody else runs no code: whatever it names, at whatever door."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.commands.hostile import code_folder, rewrite, run_folder, save_student

from attention_transfer.cli import main
from attention_transfer.errors import InputError
from attention_transfer.experiment import Experiment
from attention_transfer.models import build, open_model, save_model
from attention_transfer.runs import STUDENT_CONFIG
from attention_transfer.training.prepare import check_networks

pytest.importorskip("transformers")

TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


def refused(arguments: list[str], marker: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says when it refuses in a sentence or two and nothing has run."""
    code = main(arguments)
    said = capsys.readouterr().err
    assert code == 2, said
    assert len(said.strip().splitlines()) == 1, said
    assert not marker.exists()
    return said


def test_the_folder_would_run_its_code_where_it_is_trusted(tmp_path: Path, marker: Path) -> None:
    from transformers import AutoConfig

    # Without this the other tests would hold for a folder that does no harm.
    AutoConfig.from_pretrained(code_folder(tmp_path / "code", marker), trust_remote_code=True)
    assert marker.exists()


@pytest.mark.parametrize(
    "arguments", ["trust_remote_code=True", "code_revision='main'", "auto_map={'AutoConfig': 'x'}"]
)
def test_the_model_of_a_student_runs_nothing(
    arguments: str, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = code_folder(tmp_path / "run" / "code", marker)
    run_folder_here = run_folder(tmp_path / "other", model=f"hf:{code}({arguments})")
    said = refused(["evaluate", str(run_folder_here)], marker, capsys)
    assert arguments.partition("=")[0] in said


def test_a_folder_of_code_is_not_opened_without_arguments_either(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = code_folder(tmp_path / "code", marker)
    folder = run_folder(tmp_path / "run", model=f"hf:{code}")
    refused(["evaluate", str(folder)], marker, capsys)
    refused(["cost", str(folder)], marker, capsys)
    assert "auto_map" in refused(["cost", f"hf:{code}", "--num-classes", "3"], marker, capsys)
    assert "auto_map" in refused(["cost", f"hf:{code}@pretrained"], marker, capsys)


def test_the_teacher_that_a_student_computes_with_runs_nothing(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = code_folder(tmp_path / "code", marker)
    used = {"teacher": "teacher", "parts": "parts.safetensors", "methods": [{"name": "attention-copy"}]}
    folder = run_folder(tmp_path / "run", used_with=used)
    (folder / "teacher").mkdir()
    save_student(folder / "teacher")
    rewrite(folder / "teacher" / STUDENT_CONFIG, model=f"hf:{code}(trust_remote_code=True)")
    for command in ("evaluate", "localise"):
        assert "trust_remote_code" in refused([command, str(folder)], marker, capsys)


@pytest.mark.parametrize("weights", ["", "@pretrained", "@student.safetensors"])
def test_the_teacher_of_an_experiment_runs_nothing(
    weights: str, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = code_folder(tmp_path / "code", marker)
    teacher = f"hf:{code}(trust_remote_code=True){weights}"
    folder = run_folder(tmp_path / "run", {"teacher": teacher, "methods": [{"name": "mhgd"}]})
    command = ["batch-graph", str(folder), "--figure", str(tmp_path / "figure.png")]
    assert "trust_remote_code" in refused(command, marker, capsys)


@pytest.mark.parametrize("word", ["", "@pretrained"])
def test_a_name_on_the_command_line_runs_nothing_either(
    word: str, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"hf:{code_folder(tmp_path / 'code', marker)}(trust_remote_code=True){word}"
    assert "trust_remote_code" in refused(["cost", name, "--num-classes", "3"], marker, capsys)
    for spec in (name, name.replace("trust_remote_code=True", "num_hidden_layers=1, code_revision='main'")):
        with pytest.raises(InputError, match=r"trust_remote_code|code_revision"):
            check_networks(Experiment("test", "resnet8", teacher=spec))
    assert not marker.exists()


def test_a_known_network_with_code_of_its_own_beside_it_is_refused_too(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = code_folder(tmp_path / "code", marker, "vit", **TINY_VIT)
    assert "auto_map" in refused(["cost", f"hf:{code}@pretrained"], marker, capsys)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("auto_map", {"AutoModelForImageClassification": "mine.Network"}),
        ("auto_map", {"AutoModelForImageClassification": "somebody/else--mine.Network"}),
        ("attn_implementation", "kernels-community/flash-attn"),
        ("_attn_implementation", "kernels-community/flash-attn"),
        ("quantization_config", {"quant_method": "mxfp4"}),
        ("use_kernels", True),
        ("trust_remote_code", True),
        ("backbone", "microsoft/resnet-18"),
        ("use_pretrained_backbone", True),
        ("text_config", {"attn_implementation": "kernels-community/flash-attn"}),
        ("dtype", "load"),
        ("model_type", "mine"),
        ("model_type", ["vit"]),
        ("model_type", None),
    ],
)
def test_what_a_stored_configuration_asks_to_be_loaded_is_refused(
    field: str, value: Any, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "run", model="hf:anything", transformers_config=TINY_VIT | {field: value})
    refused(["evaluate", str(folder)], marker, capsys)


@pytest.mark.parametrize(
    "fields",
    [
        {"architecture": "hf-hub:somebody/else"},
        {"architecture": "local-dir:/somewhere"},
        {"architecture": "resnet10t", "model_args": {"checkpoint_path": "/etc/passwd"}},
        {"architecture": "resnet10t", "model_args": {"pretrained_cfg": {"file": "/etc/passwd"}}},
        {"architecture": "resnet10t", "model_args": {"features_only": True}},
        {"architecture": "resnet10t", "model_args": ["x"]},
    ],
)
def test_timm_inside_of_transformers_is_held_to_the_same(
    fields: dict[str, Any], tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"model_type": "timm_wrapper"} | fields
    refused(["evaluate", str(run_folder(tmp_path / "run", model="hf:x", transformers_config=config))], marker, capsys)


def test_a_stored_configuration_of_transformers_still_opens(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text(json.dumps(TINY_VIT))
    name = f"hf:{tmp_path / 'config'}(hidden_act='relu', attn_implementation='eager')"
    model = build(name, 3)
    assert model.wrapped.config._attn_implementation == "eager"
    (tmp_path / "run").mkdir()
    save_model(model, tmp_path / "run", name, 3, 32)
    (tmp_path / "config" / "config.json").unlink()
    opened = open_model(str(tmp_path / "run"))
    assert opened.module.wrapped.config.hidden_act == "relu"
