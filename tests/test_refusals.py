"""What is refused is told from what is a bug: by its class in the source, by its exit code on the command line."""

import ast
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import attention_transfer
from attention_transfer.cli import main
from attention_transfer.errors import InputError
from attention_transfer.files.atomic import make_folder, whole_folder
from attention_transfer.runs import RunUnwritableError, whole_file
from tests.commands.hostile import run_folder

SOURCE = Path(attention_transfer.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
BARE = {"ValueError", "TypeError", "OSError", "IOError", "KeyError", "IndexError", "LookupError", "RuntimeError"}
BARE |= {"Exception", "FileNotFoundError", "PermissionError", "ArithmeticError", "OverflowError"}
# Where torch's own class is what a loop of anybody's catches, as for its other second derivatives.
ALLOWED = {("methods/attention_maps/chunks.py", "RuntimeError")}
TRAIN = ["train", "digits", "--tiny", "--methods", "--threads", "1", "--device", "cpu", "--run-folder"]


def bare_raises(code: str) -> list[str]:
    """Kinds of errors of Python's own that a file raises."""
    raised = [node.exc for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Raise)]
    called = [node.func if isinstance(node, ast.Call) else node for node in raised]
    return [node.id for node in called if isinstance(node, ast.Name) and node.id in BARE]


def unsafe_loads(code: str) -> list[int]:
    """Lines that unpickle with code: `torch.load` without `weights_only=True`, pickle, and NumPy's pickled objects."""
    found: list[int] = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        given = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
        called = ast.unparse(node.func)
        of_torch = called in ("torch.load", "torch.serialization.load") and given.get("weights_only") is not True
        of_numpy = called in ("np.load", "numpy.load") and given.get("allow_pickle") is not False
        others = called in ("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load")
        if of_torch or of_numpy or others or given.get("trust_remote_code"):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_what_is_refused_is_an_input_error(path: Path) -> None:
    name = path.relative_to(SOURCE).as_posix()
    bare = [kind for kind in bare_raises(path.read_text(encoding="utf-8")) if (name, kind) not in ALLOWED]
    assert not bare, "raise InputError or a class below it: others are shown as bugs"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_nothing_is_unpickled_with_its_code(path: Path) -> None:
    assert not unsafe_loads(path.read_text(encoding="utf-8"))


def test_both_find_what_they_are_to_find() -> None:
    assert bare_raises("raise ValueError('x') from y\nraise InputError('x')\nraise\nraise OSError") == [
        "ValueError",
        "OSError",
    ]
    assert unsafe_loads("torch.load(a)\ntorch.load(a, weights_only=False)\ntorch.load(a, weights_only=True)") == [1, 2]
    assert unsafe_loads("np.load(a)\nnp.load(a, allow_pickle=False)\npickle.loads(a)\njson.load(a)") == [1, 3]
    assert unsafe_loads("torch.load(a, weights_only=how)") == [1]


# ---------------------------------------------------------------- bugs


@pytest.mark.parametrize(
    "bug",
    [
        ValueError("x"),
        TypeError("x"),
        KeyError("x"),
        RuntimeError("x"),
        OSError("x"),
        FileNotFoundError(errno.ENOENT, "gone", "x"),
        IsADirectoryError(errno.EISDIR, "is a folder", "x"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "x"),
    ],
    ids=lambda bug: type(bug).__name__,
)
def test_a_bug_of_the_library_is_no_refusal(bug: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise bug

    monkeypatch.setattr("attention_transfer.report.compare.compare", fail)
    with pytest.raises(type(bug)) as caught:
        main(["compare", str(run_folder(tmp_path / "run"))])
    assert caught.value is bug


@pytest.mark.parametrize(
    ("raised", "code", "shown"),
    [
        ("ValueError('a bug')", 1, "Traceback"),
        ("OSError('a bug')", 1, "Traceback"),
        ("InputError('a bug')", 2, "attention-transfer list: a bug"),
        ("PermissionError(13, 'Permission denied', 'f')", 2, "attention-transfer list: f: Permission denied"),
        ("OSError(28, 'No space left', 'f')", 2, "attention-transfer list: f: No space left"),
    ],
)
def test_a_bug_shows_its_traceback_and_a_refusal_its_sentence(raised: str, code: int, shown: str) -> None:
    script = (
        "import sys; from attention_transfer import cli; from attention_transfer.errors import InputError\n"
        f"def bug(arguments):\n    raise {raised}\n"
        "from attention_transfer.commands import list_; list_.command = bug\nsys.exit(cli.main(['list']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(shown)
    assert code == 1 or len(done.stderr.splitlines()) == 1


# ---------------------------------------------------------------- writing


@contextmanager
def room(size: int) -> Generator[None]:
    """So many bytes in each file that is written, as on a disk that is nearly full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save({"a": torch.zeros(99_999)}, path),
        lambda path: safetensors.torch.save_file({"a": torch.zeros(99_999)}, path),
        lambda path: path.write_bytes(bytes(99_999)),
    ],
    ids=["torch", "safetensors", "bytes"],
)
def test_a_full_disk_is_said_whoever_finds_it_full(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def write_file() -> None:
        with room(10_000), whole_file(tmp_path / "file") as temporary:
            write(temporary)

    def write_folder() -> None:
        with room(10_000), whole_folder(tmp_path / "folder") as temporary:
            write(temporary / "file")

    with pytest.raises(RunUnwritableError, match=r"file cannot be written: File too large\. Make room"):
        write_file()
    with pytest.raises(RunUnwritableError, match="folder cannot be written: File too large"):
        write_folder()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_other_errors_of_what_writes_are_left_alone(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with whole_file(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fail_half_way()
    assert not list(tmp_path.iterdir())


def test_a_training_that_finds_the_disk_full_says_so_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with room(50_000):
        assert main([*TRAIN, str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "cannot be written: File too large" in said[-1]
    assert not any("Traceback" in line for line in said)


@pytest.mark.parametrize("place", ["file/run", "file", "x" * 300, "a\0b"], ids=str.__len__)
def test_a_run_below_a_file_is_refused(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main([*TRAIN, str(tmp_path / place)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    with pytest.raises(InputError, match="cannot be written"):
        make_folder(tmp_path / "file" / "folder")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything may be written")
def test_a_run_where_nothing_may_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    assert main([*TRAIN, str(tmp_path / "run")]) == 2
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["figure", "figure.xyz", "figure.", "folder.png", "file/figure.png"])
def test_a_picture_that_cannot_be_is_refused_in_a_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    command = ["compare", str(run), "--over", "seed", "--plot"]
    assert main([*command, str(tmp_path / name)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["gone", "file", "file/run", "loop", "~nobody-of-that-name", "x" * 300, "a\0b", ""])
@pytest.mark.parametrize(
    "command",
    ["compare", "evaluate", "links", "cost", "batch-graph --figure f.png", "evaluate RUN --data npz:"],
)
def test_places_that_hold_nothing_are_refused_in_a_sentence(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("loop").symlink_to("loop")
    first, *words = command.replace("RUN", str(run)).split()
    words = [*words[:-1], f"npz:{name}"] if "npz:" in words else [*words, name]
    assert main([first, *words]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["folder", "file/result.json"])
def test_a_result_that_cannot_be_written_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert main(["evaluate", str(run), "--device", "cpu", "--output", str(tmp_path / name)]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["meta", "warp", "cuda:99", "cpu:x", ""])
def test_a_device_that_computes_nothing_is_refused(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if device == "cuda:99" and torch.cuda.device_count() > 99:
        pytest.skip("there is one")
    command = [*TRAIN[:-3], "--device", device, "--run-folder", str(tmp_path / "run")]
    assert main(command) == 2
    assert f"the device {device!r} cannot be used here" in capsys.readouterr().err
