"""Some file systems cannot make the names in a folder last; the files in it are written all the same."""

import errno
import os
import stat
from pathlib import Path

import pytest

from attention_transfer.runs import RunUnwritableError, whole_file


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
