"""The scripts of examples/: each runs, each shows what it promises, and each is listed."""

import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file
from torch import nn

from attention_transfer import Distiller, InputError, build

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
PATIENCE = 240  # seconds, of which an example takes ten or twenty on one core
# What an example shows the loop of, and is no part of the extras that all tests run with.
LOOPS = {"accelerate_loop": "accelerate", "lightning_loop": "lightning", "transformers_trainer": "accelerate"}


def example(name: str) -> ModuleType:
    """The module of an example, imported from its file."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Data loaders look classes up by the name of their module.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_index_lists_every_example():
    names = {path.name for path in EXAMPLES}
    listed = set(re.findall(r"\[`(\w+\.py)`\]", (REPOSITORY / "examples" / "README.md").read_text()))
    assert listed == names
    assert {"own_loop.py", "own_method.py", "own_network_and_data.py", "vit_attention.py"} <= names


def test_own_loop_trains_teacher_and_students():
    found = example("own_loop").main(teacher_epochs=1, student_epochs=1)
    assert list(found) == ["teacher", "alone", "with the teacher"]
    assert all(0 <= share <= 1 for share in found.values())


def test_own_network_and_data_are_taken_as_they_are():
    found = example("own_network_and_data").main(teacher_epochs=1, student_epochs=1)
    assert list(found) == ["teacher", "student"]


def test_fit_with_data_loader_is_stopped_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = example("fit_with_data_loader").main(tmp_path / "run", epochs=2, count=48)
    assert list(found) == ["teacher", "student"]
    said = " ".join(capsys.readouterr().out.split())
    assert "stopped; and once more" in said
    assert "at epoch 2" in said


def test_own_method_brings_the_centres_together():
    distances = example("own_method").main(steps=15)
    assert distances[-1] < 0.2 * distances[0]


def test_own_method_refuses_what_it_cannot_read(small_pair: tuple[nn.Module, nn.Module]):
    own = example("own_method")
    images = own.torch.empty(2, 3, 16, 16)
    with pytest.raises(InputError, match="centre: the teacher has 2 stages and no stage 2"):
        Distiller(*small_pair, [own.CentreOfAttention(stage=2)], example=images)
    with pytest.raises(InputError, match="needs a teacher"):
        Distiller(build("resnet8", 5), None, [own.CentreOfAttention()], example=images)


def test_vit_attention_is_read_drawn_and_learned(tmp_path: Path):
    terms, entropies = example("vit_attention").main(tmp_path / "attention.png", steps=5)
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert terms[-1] < terms[0]
    assert len(entropies) == 4
    # Attention to all 65 tokens alike would have log 65.
    assert all(0 < entropy < math.log(65) for entropy in entropies)


@pytest.mark.more
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_as_a_script(path: Path, tmp_path: Path):
    if path.stem in LOOPS:
        pytest.importorskip(LOOPS[path.stem])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        # Others warn of what is theirs.
        [sys.executable, "-W", "default" if path.stem in LOOPS else "error::UserWarning", str(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    if path.stem == "own_loop":
        shares = {
            name: float(share) for name, share in re.findall(r"^([a-z ]+?) +([\d.]+)%$", done.stdout, re.MULTILINE)
        }
        assert shares["teacher"] > 90
        assert shares["with the teacher"] > 75


@pytest.mark.more
@pytest.mark.parametrize("name", ["accelerate_loop", "lightning_loop", "timm_building_blocks", "transformers_trainer"])
def test_loops_of_others_go_on_where_they_stopped_and_end_with_the_bare_student(name: str, tmp_path: Path):
    if name in LOOPS:
        pytest.importorskip(LOOPS[name])
    script = str(REPOSITORY / "examples" / f"{name}.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = [sys.executable, "-W", "default", script, str(tmp_path)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"epoch [23]", done.stdout)
    student = load_file(tmp_path / "student.safetensors")
    assert student
    assert not [key for key in student if "teacher" in key or "distiller" in key]
    assert len((REPOSITORY / "examples" / f"{name}.py").read_text().splitlines()) <= 95
