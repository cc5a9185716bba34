import json
import os
from pathlib import Path

import pytest
from tests.folders import CLEAN, RED, write_folder

from attention_transfer.data import load
from attention_transfer.data.names import shown
from attention_transfer.data.pipeline import image_files

# ---------------------------------------------------------------- names of classes


def test_names_that_are_no_text_are_refused_at_once(tmp_path: Path):
    write_folder(tmp_path, CLEAN)
    strange = os.fsdecode(b"caf\xe9")
    try:
        (tmp_path / "train" / strange).mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system takes text only")
    with pytest.raises(
        ValueError, match=r"the name of the class folder .*train/caf\\udce9 is no text in UTF-8"
    ) as said:
        load(f"folder:{tmp_path}", image_size=16)
    str(said.value).encode()
    (tmp_path / "train" / strange).rename(tmp_path / strange)
    write_folder(tmp_path / strange, CLEAN)
    with pytest.raises(ValueError, match=r"caf\\udce9 is no text in UTF-8, and no run could be recorded"):
        load(f"folder:{tmp_path / strange}", image_size=16)


def test_files_whose_names_are_no_text_are_read_and_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    place, strange = write_folder(tmp_path, CLEAN), os.fsdecode(b"caf\xe9")
    try:
        RED.save(tmp_path / "train" / "a" / f"{strange}.png")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes text only")
    (tmp_path / "train" / "a" / f"{strange}2.png").write_bytes(b"")
    monkeypatch.setattr(image_files, "UNREADABLE_SHARE", 0.5)
    assert len(load(place, image_size=16).train) == 3
    assert "caf\\udce92.png" in capsys.readouterr().err


def test_names_that_move_the_cursor_are_shown_escaped(tmp_path: Path):
    names = ["two\nlines", "red\x1b[31m", "back\rwards", "turned\u202eleft", "b\x9bell", "grüße 日本 👩‍🚀"]
    contents = {f"{part}/{name}/0.png": RED for part in ("train", "val") for name in names}
    dataset = load(write_folder(tmp_path, contents), image_size=16)
    assert dataset.classes == (
        "back\\rwards",
        "b\\x9bell",
        "grüße 日本 👩‍🚀",
        "red\\x1b[31m",
        "turned\\u202eleft",
        "two\\nlines",
    )
    assert json.loads(json.dumps(dataset.classes)) == list(dataset.classes)
    assert shown(Path("a\tb")) == "a\\tb"


def test_classes_that_differ_in_case_only_are_two_and_said(tmp_path: Path):
    if (tmp_path / "x").mkdir() or (tmp_path / "X").exists():
        pytest.skip("this file system does not tell cases apart")
    dataset = load(write_folder(tmp_path, {**CLEAN, "train/A/0.png": RED, "val/A/0.png": RED}), image_size=16)
    assert dataset.classes == ("A", "a", "b")
    assert dataset.notes == ("the classes A and a differ in case only and count as two",)


# ---------------------------------------------------------------- paths


def test_paths_may_be_written_in_many_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a$b", "$HOME", "with space", "日本", "x:y", "~"):
        write_folder(tmp_path / name, CLEAN)
        for path in (tmp_path / name, f"{tmp_path / name}/"):
            assert len(load(f"folder:{path}", image_size=16).train) == 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "with space"))
    for path in ("a$b", "./with space", "日本/", "../" + tmp_path.name + "/a$b"):
        assert len(load(f"folder:{path}", image_size=16).train) == 2
    (tmp_path / "~" / "train" / "b").rename(tmp_path / "~" / "train" / "c")
    (tmp_path / "~" / "val" / "b").rename(tmp_path / "~" / "val" / "c")
    assert load("folder:~", image_size=16).classes == ("a", "c")  # really called so
    (tmp_path / "~").rename(tmp_path / "moved")
    assert load("folder:~", image_size=16).classes == ("a", "b")
    with pytest.raises(ValueError, match="~nobody-of-that-name"):
        load("folder:~nobody-of-that-name/x")
    with pytest.raises(ValueError, match=r"a…' cannot be looked up: .*"):
        load(f"folder:{'a' * 5000}")
