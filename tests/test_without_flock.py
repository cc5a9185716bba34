"""Systems that lack `fcntl` or cannot make names last: the library works, and says what is missing."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from attention_transfer.runs import RunUnwritableError, whole_file

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
