import ast
import importlib
from pathlib import Path
from types import FunctionType

import pytest

import attention_transfer
from attention_transfer import METHODS

SOURCE = Path(attention_transfer.__file__).parent
REPOSITORY = Path(__file__).parent.parent
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_INIT = 400, 60, 40
FORBIDDEN_NAMES = {"utils", "util", "common", "base", "core", "helpers", "helper", "misc"}

# A room may import the rooms of earlier lines and itself. LIBRARY costs torch; LABORATORY is what the command needs,
# and the library knows nothing of it.
LIBRARY = [
    {"errors"},
    {"files", "settings"},
    {"batch", "counter_rng", "memory_budget", "parallel", "phases", "schedule"},
    {"capture"},
    {"models"},
    {"methods"},
    {"distiller"},
]
LABORATORY = [
    {"runs"},
    {"report"},
    {"data", "pretraining"},
    {"experiment"},
    {"training", "recipes"},
    {"analysis"},
    {"commands"},
    {"cli"},
]
ORDER = LIBRARY + LABORATORY
# What the order alone would allow, or forbid, and design forbids or allows nonetheless.
ONLY = {"runs": {"errors", "files"}, "report": {"errors", "files", "runs"}}
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
    assert allowed_rooms("runs") == {"errors", "files", "runs"}
    assert allowed_rooms("report") == {"errors", "files", "runs", "report"}
    assert {"report", "analysis", "training"} <= allowed_rooms("cli")


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples"])
def test_files_stay_short_enough_to_be_read(folder: str):
    lengths = {path: len(path.read_text().splitlines()) for path in (REPOSITORY / folder).rglob("*.py")}
    too_long = {path.name: lines for path, lines in lengths.items() if lines > LONGEST_FILE}
    assert not too_long, f"divide what has more than {LONGEST_FILE} lines: {too_long}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_functions_fit_a_screen(path: Path):
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    too_long = {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION}
    assert not too_long, f"divide what has more than {LONGEST_FUNCTION} lines: {too_long}"


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py" and path.parent != SOURCE])
def test_packages_hand_names_on_and_define_nothing(path: Path):
    tree = ast.parse(path.read_text())
    assert len(path.read_text().splitlines()) <= LONGEST_INIT
    defined = [
        node
        for node in tree.body
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.Expr | ast.With)
    ]
    assert not defined
    names = [target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]  # pyright: ignore[reportAttributeAccessIssue]
    assert set(names) <= {"__all__", "PROGRAM"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Our modules that one imports while it is imported itself: at its top, not inside of functions."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("attention_transfer"):
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            found |= inside or {str(node.module)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & modules
    return found - {module_of(path)}


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty if there is none."""
    left = dict(graph)
    while True:
        free = [name for name, needs in left.items() if not needs & left.keys()]
        if not free:
            return sorted(left)
        for name in free:
            del left[name]


def test_no_modules_import_each_other():
    modules = {module_of(path) for path in FILES}
    assert not circle_in({module_of(path): imported_modules(path, modules) for path in FILES})


def test_circles_are_found():
    assert circle_in({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == ["a", "b", "c"]
    assert not circle_in({"a": {"b"}, "b": {"c"}, "c": set()})


def test_methods_show_the_methods():
    """An entry for each method, a file or a folder of its name, and two folders of parts."""
    entries = {path.stem for path in (SOURCE / "methods").iterdir() if not path.name.startswith("__")}
    of_methods = {method.__module__.split(".")[2] for method in METHODS.values()}
    assert entries == of_methods | {"method", "registry", "layers", "attention_maps"}
    assert len(of_methods) == len(METHODS)


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
        "examples",
    }
    assert mirrored <= rooms


# ---------------------------------------------------------------- private names of others

PRIVATE_NAMES = SOURCE / "capture" / "private_names.py"
# What named tuples promise, for all its looks.
PROMISED = {"_replace", "_asdict", "_fields", "_make"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_"


def own_names(tree: ast.AST) -> set[str]:
    """Names that a file defines, those of attributes included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            owner = node.value if isinstance(node, ast.Attribute) else None
            if owner is None or (isinstance(owner, ast.Name) and owner.id in ("self", "cls")):
                names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return names


def private_names_of_others(code: str) -> set[str]:
    """Private names that a file uses and does not define."""
    tree = ast.parse(code)
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        ):
            used.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            if node.func.id in ("getattr", "setattr", "hasattr", "delattr") and isinstance(node.args[1], ast.Constant):
                used.add(str(node.args[1].value))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = str(getattr(node, "module", ""))
            if not module.startswith(("attention_transfer", "__future__")):
                used |= {part for alias in node.names for part in (*module.split("."), *alias.name.split("."))}
    return {name for name in used - own_names(tree) - PROMISED if is_private(name)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_private_names_of_other_libraries_are_in_one_file(path: Path):
    if path != PRIVATE_NAMES:
        assert not private_names_of_others(path.read_text()), f"use what is public, or {PRIVATE_NAMES.name}"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import torch._dynamo", {"_dynamo"}),
        ("from torch.utils._pytree import tree_leaves", {"_pytree"}),
        ("from torch.nn.modules.batchnorm import _BatchNorm", {"_BatchNorm"}),
        ("x = tensor._version", {"_version"}),
        ("module._buffers['a'] = 1", {"_buffers"}),
        ("class A(B):\n    def f(self):\n        return super()._embed(1)", {"_embed"}),
        ("hasattr(network, '_orig_mod')", {"_orig_mod"}),
        ("tile._replace(a=1).__class__", set[str]()),
        ("class A:\n    def f(self):\n        self._a = 1\n        return self._b(other._a)", set[str]()),
    ],
)
def test_private_names_of_others_are_found(code: str, found: set[str]):
    assert private_names_of_others(code) == found


def test_no_class_of_ours_overrides_a_private_name_of_another():
    """What is private may get another name, and then an override is never called."""
    guilty: set[str] = set()
    for path in FILES:
        name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        if path == PRIVATE_NAMES or name.endswith("__main__"):
            continue
        for kind in vars(importlib.import_module(name)).values():
            if isinstance(kind, type) and kind.__module__ == name:
                foreign = [base for base in kind.__mro__ if not base.__module__.startswith("attention_transfer")]
                theirs = {attribute for base in foreign for attribute in vars(base) if is_private(attribute)}
                written = {key for key, value in vars(kind).items() if isinstance(value, FunctionType | property)}
                guilty |= {f"{kind.__qualname__}.{attribute}" for attribute in written & theirs}
    assert not guilty


# ---------------------------------------------------------------- tolerances

FINEST = 1e-5


def bare_tolerances(code: str) -> set[float]:
    """Absolute tolerances of tests that are finer than the arithmetic of values near 1, whatever the values' size."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    given = [keyword for call in calls for keyword in call.keywords if keyword.arg in ("atol", "abs")]
    numbers = [node.value for keyword in given for node in ast.walk(keyword.value) if isinstance(node, ast.Constant)]
    return {number for number in numbers if isinstance(number, float) and 0 < number < FINEST}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "tests").rglob("*.py")), ids=lambda path: path.name)
def test_tolerances_know_the_size_of_the_values(path: Path):
    assert not bare_tolerances(path.read_text()), "compare with tests.closeness.assert_near"


def test_bare_tolerances_are_found():
    assert bare_tolerances("close(a, b, rtol=0, atol=1e-7)") == {1e-7}
    assert bare_tolerances("a == approx(b, abs=0 if c else 1e-8)") == {1e-8}
    assert not bare_tolerances("close(a, b, rtol=1e-7, atol=0.0), close(a, b, atol=1e-5), near(a, b, steps=1e-7)")
