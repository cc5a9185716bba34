"""Examples in docstrings give what they say."""

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import attention_transfer

SOURCE = Path(attention_transfer.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8") and path.name != "__main__.py"
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert found.attempted > 0
    assert found.failed == 0
    assert not list(tmp_path.iterdir()), "an example leaves no file behind"


ROOMS = sorted(
    f"attention_transfer.{path.parent.name}" for path in SOURCE.glob("*/__init__.py") if path.parent.name != "commands"
)


def _examples() -> str:
    """The code of all examples in the docstrings of the package."""
    lines: list[str] = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                lines += [each for each in text.splitlines() if each.lstrip().startswith((">>> ", "... "))]
                # An error is shown by what raises it.
                lines += re.findall(r"^\s*attention_transfer\.[\w.]*?(\w+Error): ", text, re.MULTILINE)
    return "\n".join(lines)


@pytest.mark.parametrize("name", ["attention_transfer", *ROOMS])
def test_every_public_function_and_class_is_shown_by_an_example(name: str) -> None:
    room, examples = importlib.import_module(name), _examples()
    public = [each for each in dir(room) if not each.startswith("_") and each in getattr(room, "__all__", dir(room))]
    kinds = {each: getattr(room, each) for each in public}
    shown = {each for each in kinds if re.search(rf"\b{each}\b", examples)}
    missing = [each for each, kind in kinds.items() if inspect.isclass(kind) or inspect.isfunction(kind)]
    assert [each for each in missing if each not in shown] == []
    assert public or name.endswith((".analysis", ".files", ".pretraining", ".report", ".training"))
