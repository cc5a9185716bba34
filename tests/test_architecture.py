import ast
from pathlib import Path

import pytest

import attention_transfer

SOURCE = Path(attention_transfer.__file__).parent
REPOSITORY = Path(__file__).parent.parent
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE = 400
FORBIDDEN_NAMES = {"utils", "util", "common", "base", "core", "helpers", "helper", "misc"}

# A room may import the rooms of earlier lines and itself; `runs` may be imported from everywhere after it.
ORDER = [
    {"errors"},
    {"runs"},
    {"report"},
    {"capture", "data"},
    {"models"},
    {"methods"},
    {"distiller"},
    {"pretraining"},
    {"experiment", "recipes"},
    {"training"},
    {"analysis"},
    {"commands", "cli"},
]
# What the order alone would allow, or forbid, and design forbids or allows nonetheless.
ONLY = {"runs": {"errors"}, "report": {"errors", "runs"}}
NOBODY_BUT = {"report": {"report", "analysis", "commands", "cli"}}


def room(path: Path) -> str:
    """The first part of a module's name below the package."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> set[str]:
    """Our rooms that a module imports, at its top or anywhere inside."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            whole = node.module == "attention_transfer"
            names += [f"{node.module}.{alias.name}" for alias in node.names] if whole else [str(node.module)]
    return {name.split(".")[1] for name in names if name.startswith("attention_transfer.")}


def allowed_rooms(name: str) -> set[str]:
    """Rooms that a room may import."""
    place = next(place for place, rooms in enumerate(ORDER) if name in rooms)
    earlier = set[str]().union(*ORDER[: place + 1])
    allowed = {other for other in earlier if name in NOBODY_BUT.get(other, {name})}
    return ONLY.get(name, allowed) | {name}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_follow_the_direction(path: Path):
    name = room(path)
    if name in ("__init__", "__main__"):
        return  # they only name what others hold
    assert any(name in rooms for rooms in ORDER), f"{name} is a room that the order does not know"
    wrong = imported_rooms(ast.parse(path.read_text())) - allowed_rooms(name)
    assert not wrong, f"{name} must not import {sorted(wrong)}"


def test_the_direction_is_able_to_refuse():
    code = "def late():\n    from attention_transfer.training.fit import fit\nimport attention_transfer.report.plots"
    assert imported_rooms(ast.parse(code)) == {"training", "report"}
    assert imported_rooms(ast.parse("from attention_transfer import capture, runs")) == {"capture", "runs"}
    assert "training" not in allowed_rooms("methods")
    assert "report" not in allowed_rooms("training")
    assert allowed_rooms("runs") == {"errors", "runs"}
    assert allowed_rooms("report") == {"errors", "runs", "report"}
    assert {"report", "analysis", "training"} <= allowed_rooms("cli")


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_files_stay_short_enough_to_be_read(folder: str):
    lengths = {path: len(path.read_text().splitlines()) for path in (REPOSITORY / folder).rglob("*.py")}
    too_long = {path.name: lines for path, lines in lengths.items() if lines > LONGEST_FILE}
    assert not too_long, f"divide what has more than {LONGEST_FILE} lines: {too_long}"


def test_no_room_is_named_after_nothing():
    names = {part.removesuffix(".py") for path in FILES for part in path.relative_to(SOURCE).parts}
    assert not names & FORBIDDEN_NAMES


def test_hooks_live_in_capture_alone():
    hooks = ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "TorchFunctionMode")
    others = [path for path in FILES if room(path) != "capture"]
    guilty = {path.name for path in others if any(hook in path.read_text() for hook in hooks)}
    assert not guilty, f"reading networks happens in capture.py, not in {guilty}"


def test_every_tested_room_exists():
    """Tests mirror the source: a folder of tests has a folder of source."""
    mirrored = {
        path.name for path in (REPOSITORY / "tests").iterdir() if path.is_dir() and list(path.glob("test_*.py"))
    }
    rooms = {path.name for path in SOURCE.iterdir() if path.is_dir()} | {
        "contracts",
        "golden",
        "end_to_end",
        "benchmarks",
    }
    assert mirrored <= rooms
