"""What the repository sets up, what the library loads, and what it does on systems that lack something."""

import errno
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from attention_transfer.cli import main
from attention_transfer.errors import EXTRAS, InputError, MissingExtraError, check_extra, is_there, needing
from attention_transfer.runs import RunUnwritableError, whole_file
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
        extra: names for extra, names in named.items() if extra not in ("dev", "docs", "loops")
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


# ---------------- what the library loads, and what it does on systems that lack `fcntl` or cannot make names last

CLI = "pip install 'attention-transfer[cli]'"
HF = "pip install 'attention-transfer[hf]'"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What a process finds in which the packages of the extras are hidden; the test's own has loaded them."""
    script = Path(__file__).parent / "without_extras.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_building_and_stepping_asks_for_no_package_of_an_extra(found: dict[str, Any]):
    assert found["asked"] == []


def test_the_compiler_is_not_loaded_with_the_library(found: dict[str, Any]):
    assert found["compiler"] is False


def test_every_method_of_convolutions_and_of_tokens_learns_without_the_extras(found: dict[str, Any]):
    assert len(found["convolutions"]) == 13
    assert found["tokens"].keys() == {"attention-copy", "attention-distillation", "feature-distillation"}
    assert all(loss > 0 for loss in (*found["convolutions"].values(), *found["tokens"].values(), found["links"]))


def test_matching_heads_says_that_it_needs_scipy_before_anything_is_learned(found: dict[str, Any]):
    kind, words = found["heads"]
    assert kind == "MissingExtraError"
    assert "matching the heads" in words
    assert "scipy, which is not installed" in words
    assert words.endswith(CLI)


def test_networks_of_a_missing_library_are_refused_in_words(found: dict[str, Any]):
    assert len(found["build"]) == 5
    assert len(found["open"]) == 3
    for name, refused in (found["build"] | found["open"]).items():
        assert refused, name
        kind, words = refused
        assert kind == "MissingExtraError", name
        assert words.endswith(HF if name.startswith("hf:") else CLI), name
        library = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers"}[name.partition(":")[0]]
        assert f" needs {library}, which is not installed" in words, name


@pytest.mark.parametrize(("name", "said"), [("data", "reading data sets"), ("lazily", "reading data sets")])
def test_the_laboratory_says_which_extra_it_needs(found: dict[str, Any], name: str, said: str):
    kind, words = found[name]
    assert kind == "MissingExtraError"
    assert words.startswith(f"{said} needs timm, ")
    assert words.endswith(CLI)


@pytest.mark.parametrize("name", ["list", "train", "compare"])
def test_the_command_says_in_one_line_what_to_install(found: dict[str, Any], name: str):
    code, out, err = found["commands"][name]
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(f"attention-transfer {name}: this command needs ")
    assert all(package in err for package in EXTRAS["cli"].values())
    assert err.rstrip().endswith(CLI)


@pytest.mark.parametrize("name", ["--help", "--version"])
def test_help_and_version_need_nothing(found: dict[str, Any], name: str):
    code, out, err = found["commands"][name]
    assert (code, err) == (0, "")
    assert out.strip()


@pytest.mark.parametrize("module", EXTRAS["cli"])
def test_the_command_names_each_package_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["list", "methods"]) == 2
    said = f"this command needs {EXTRAS['cli'][module]}, which is not installed: {CLI}\n"
    assert capsys.readouterr().err == f"attention-transfer list: {said}"


def test_what_is_found_and_cannot_be_loaded_is_said_so(monkeypatch: pytest.MonkeyPatch):
    with (
        pytest.raises(MissingExtraError, match=r"x needs timm, which cannot be loaded .No module named 'yaml'.: pip"),
        needing("x", "timm"),
    ):
        raise ModuleNotFoundError("No module named 'yaml'", name="yaml")
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(MissingExtraError, match="x needs rich, which is not installed: pip"), needing("x"):
        import rich.progress  # noqa: F401


def test_other_errors_pass_unchanged():
    with pytest.raises(ModuleNotFoundError, match="absent") as raised, needing("x"):
        raise ModuleNotFoundError("absent", name="absent")
    assert not isinstance(raised.value, MissingExtraError)
    with pytest.raises(KeyError), needing("x", "timm"):
        raise KeyError("timm")
    with pytest.raises(MissingExtraError, match=r"^y$"), needing("x", "timm"):
        raise MissingExtraError("y")


def test_a_missing_extra_is_a_refusal_and_an_import_error(monkeypatch: pytest.MonkeyPatch):
    assert issubclass(MissingExtraError, InputError)
    assert issubclass(MissingExtraError, ImportError)
    check_extra("cli", "x")
    assert is_there("torch")
    assert not is_there("a_package_of_nobody")
    for module in ("scipy", "PIL"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match="x needs pillow and scipy, which are not installed"):
        check_extra("cli", "x")


# ---------------------------------------------------------------- systems that lack `fcntl` or cannot make names last

CODE = """
import sys
sys.modules["fcntl"] = None
import pkgutil, importlib
import torch
import attention_transfer
for module in pkgutil.walk_packages(attention_transfer.__path__, "attention_transfer."):
    importlib.import_module(module.name)
from attention_transfer import AttentionTransfer, Distiller, SoftTargets, build
distiller = Distiller(build("resnet8", 3), build("resnet14", 3), [AttentionTransfer(), SoftTargets()],
                      example=torch.empty(2, 3, 32, 32))
out = distiller.train()(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))
out.loss.backward()
assert torch.isfinite(out.loss)
from attention_transfer.models import open_model, save_model
from attention_transfer.runs import RunFolder, RunUnwritableError
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "student").mkdir()
save_model(distiller.student, folder / "student", "resnet8", 3)
open_model(str(folder / "student"))
try:
    RunFolder.create_or_resume(folder / "run", {"seed": 0})
except RunUnwritableError as error:
    print(error)
assert not (folder / "run").exists()
"""


@pytest.mark.more
def test_the_library_works_without_fcntl_and_locking_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "locked with flock" in done.stdout
    assert "loop of your own with Distiller" in done.stdout


# ---------------- some file systems cannot make the names in a folder last; the files in it are written all the same


def refuse(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Let folders, and no files, fail when they are synchronised."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_a_folder_that_knows_no_synchronising_holds_files_all_the_same(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, code)
    with whole_file(tmp_path / "file") as temporary:
        temporary.write_bytes(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_device_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.EIO)
    with (
        pytest.raises(RunUnwritableError, match=r"cannot be written: Input/output error"),
        whole_file(tmp_path / "file") as temporary,
    ):
        temporary.write_bytes(b"x")
