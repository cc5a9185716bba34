"""Methods by their keys with what they are, read from the source, which costs no import of torch."""

import ast
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[3]  # holds the package
_METHODS = Path(__file__).parents[2] / "methods"


def methods_in_source() -> dict[str, str]:
    """The first sentence of every method's class by its key, in the order of the registry."""
    return dict(_described(ast.parse((_METHODS / "registry.py").read_text(encoding="utf-8"))))


def _described(registry: ast.Module) -> Iterator[tuple[str, str]]:
    for node in registry.body:
        names = {alias.name for alias in node.names if alias.asname} if isinstance(node, ast.ImportFrom) else set[str]()
        if isinstance(node, ast.ImportFrom) and node.module and names:
            file = _ROOT.joinpath(*node.module.split(".")).with_suffix(".py")
            for found in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(found, ast.ClassDef) and found.name in names:
                    yield _key(found), (ast.get_docstring(found) or "").partition("\n")[0]


def _key(found: ast.ClassDef) -> str:
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "key" and node.value is not None:
            return str(ast.literal_eval(node.value))
    return found.name
