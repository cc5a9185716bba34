"""What the library loads, and what it does on systems that lack `fcntl` or cannot make names last."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attention_transfer.cli import main
from attention_transfer.errors import EXTRAS, InputError, MissingExtraError, check_extra, is_there, needing
from attention_transfer.runs import RunUnwritableError, whole_file

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
