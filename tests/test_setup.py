"""What the repository sets up, and what is computed on other processors."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from attention_transfer.errors import EXTRAS
from tests.lowest_versions import lowest_versions

REPOSITORY = Path(__file__).parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRA_GROUPS = PROJECT["optional-dependencies"]
PIN = re.compile(r"([A-Za-z0-9._-]+)==[0-9][0-9A-Za-z.]*")


def pinned_names() -> set[str]:
    """Normalised names in the constraints."""
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    matches = [PIN.fullmatch(line) for line in lines]
    assert all(matches), f"only names and versions: {[line for line, m in zip(lines, matches, strict=True) if not m]}"
    return {re.sub(r"[-_.]+", "-", match[1]).lower() for match in matches if match}


def test_every_dependency_is_pinned_to_the_version_it_was_tested_with():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    names = {re.split(r"[<>=!~\[; ]", wanted)[0].lower() for group in groups for wanted in group} - {PROJECT["name"]}
    assert {"torch", "timm", "pytest"} <= names
    assert not names - pinned_names()


def test_every_dependency_declares_the_lowest_version_that_is_tested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    floors = lowest_versions()
    assert {"torch", "timm", "transformers", "pytest", "numpy"} <= floors.keys()
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    newest = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    assert not [name for name, floor in floors.items() if numbers(floor) > numbers(newest[name])]
    project = tmp_path / "pyproject.toml"
    monkeypatch.setattr("tests.lowest_versions.PROJECT", project)
    for dependencies, words in ((["torch"], "has no lowest version"), (["torch>=2.8", "torch>=2.9"], "two lowest")):
        project.write_text(f"[project]\ndependencies = {dependencies}\noptional-dependencies = {{}}\n")
        with pytest.raises(ValueError, match=words):
            lowest_versions()


def test_the_library_costs_torch_and_the_command_is_an_extra():
    named = {group: {re.split("[<>=]", wanted)[0] for wanted in wanteds} for group, wanteds in EXTRA_GROUPS.items()}
    assert {re.split("[<>=]", wanted)[0] for wanted in PROJECT["dependencies"]} == {
        *("torch", "numpy", "jaxtyping", "safetensors")
    }
    assert {extra: set(brought.values()) for extra, brought in EXTRAS.items()} == {
        extra: names for extra, names in named.items() if extra not in ("dev", "docs")
    }
    assert "attention-transfer[cli,docs,hf]" in named["dev"]


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def test_everything_that_must_hold_is_run_before_a_change_is_accepted():
    script, readme = (REPOSITORY / ".ci" / "run").read_text(), (REPOSITORY / "README.md").read_text()
    for command in ("test", "test-lowest", "test-more", "lint"):
        versions = "lowest" if command == "test-lowest" else "newest"
        assert re.search(rf"^part {versions} make {command}\b", script, flags=re.MULTILINE), command
    assert "make test-lowest" in readme
    assert "make test-more" in readme
    assert f"torch {lowest_versions()['torch']}" in readme


def test_parts_of_everything_are_run_side_by_side_on_every_python_that_is_supported():
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    matrix = job["strategy"]["matrix"]
    assert f">={min(matrix['python'], key=numbers)}" == PROJECT["requires-python"]
    assert matrix["versions"] == ["newest", "lowest"]
    assert job["steps"][-1]["run"] == "bash .ci/run ${{ matrix.versions }}"
    unknown = subprocess.run(["bash", ".ci/run", "some"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "all|newest|lowest" in unknown.stderr


def test_hooks_of_commits_style_as_make_lint_checks():
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for source in hooks["repos"] if source["repo"] == "local" for hook in source["hooks"]]
    assert [entry.split()[:2] for entry in entries] == [[".venv/bin/ruff", "check"], [".venv/bin/ruff", "format"]]


def test_the_readme_names_commands_that_exist():
    readme, makefile = (REPOSITORY / "README.md").read_text(), (REPOSITORY / "Makefile").read_text()
    commands = set(re.findall(r"^\$ make (\w+)", readme, flags=re.MULTILINE))
    assert {"quickstart", "test"} <= commands
    assert all(re.search(rf"^{command}:", makefile, flags=re.MULTILINE) for command in commands)


def test_no_file_names_a_place_of_one_machine():
    texts = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "src").rglob("*.py")]
    guilty = [path.name for path in texts if re.search(r"(?<![\w$.}])/(work|root|home|tmp)/", path.read_text())]
    assert not guilty


# ---------------- what is computed agrees with what is expected on other processors and numbers of threads, too

# Rooms whose tests compare values; the others say what is opened, read, refused and written.
ROOMS = ("tests/methods", "tests/capture", "tests/distiller", "tests/contracts/test_pairs.py")
MACHINES = {
    "no vector instructions": {"ATEN_CPU_CAPABILITY": "default"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "AVX-512": {"ATEN_CPU_CAPABILITY": "avx512"},
    "two threads": {"OMP_NUM_THREADS": "2"},
}


@pytest.mark.more
@pytest.mark.parametrize("machine", MACHINES)
def test_values_agree_on_other_processors(machine: str) -> None:
    if machine == "AVX-512" and "AVX512" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("this processor has no AVX-512")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:cov", "--no-header", *ROOMS]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment |= {"OMP_NUM_THREADS": "1"} | MACHINES[machine]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
