"""JSON of an experiment, written and read: the `experiment.json` of a run folder."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from attention_transfer.errors import InputError
from attention_transfer.experiment.data import Data
from attention_transfer.experiment.experiment import Experiment
from attention_transfer.files.json_fields import Fields, is_list, is_object, is_text
from attention_transfer.methods import METHODS, Method
from attention_transfer.methods.registry import method_named, name_of
from attention_transfer.runs import RecordedRun
from attention_transfer.settings import fit


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Every field, as JSON holds it; methods carry their key as `name`."""
    return cast(dict[str, Any], _to_json(experiment))


def from_json(content: Mapping[str, Any], source: str = "the experiment") -> Experiment:
    """The experiment in the JSON that `to_json` wrote; everything in it is checked, for files are handed on.

    Args:
        content: as JSON holds it.
        source: where it is from, for messages.

    Raises:
        ValueError: for a field or a method that does not exist (it may come from another version), one that is missing,
            or a value of another type.
    """
    if "networks" in content:
        raise InputError(
            f"{source} was a call of fit(), whose networks were objects that no command can build: load its "
            "student.safetensors into a network of your own"
        )
    return cast(Experiment, _from_json(Experiment, content, source))


def read_experiment(run: RecordedRun) -> Experiment:
    """The experiment of a run folder.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from attention_transfer.runs import RunFolder
        >>> with TemporaryDirectory() as folder, RunFolder.create_or_resume(
        ...     f"{folder}/run", to_json(Experiment("mine", student="resnet8"))
        ... ) as run:
        ...     read_experiment(run).student
        'resnet8'

    Raises:
        ValueError: as `from_json` does, naming the folder.
    """
    return from_json(run.experiment, f"the experiment of {run.path}")


def read_data(run: RecordedRun) -> Data:
    """The data of a run folder; methods of somebody's own need not be imported for it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from attention_transfer.runs import RunFolder
        >>> mine = Experiment("mine", student="resnet8", data=Data(name="digits"))
        >>> with TemporaryDirectory() as folder, RunFolder.create_or_resume(f"{folder}/run", to_json(mine)) as run:
        ...     read_data(run).name
        'digits'

    Raises:
        ValueError: as `from_json` does, naming the folder.
    """
    content = run.experiment
    methods, training = cast("list[Mapping[str, Any]]", content.get("methods")), content.get("training", {})
    if is_list(methods, is_object) and any(_is_own(each) for each in methods) and is_object(training):
        # What the method is decides what some of these fields may be.
        content = {name: value for name, value in content.items() if name != "task_weight"}
        content["methods"] = [each for each in methods if not _is_own(each)]
        content["training"] = {**training, "snapshot_epochs": None}
    return from_json(content, f"the experiment of {run.path}").data


def _is_own(method: Mapping[str, Any]) -> bool:
    """Whether a recorded method has an import path for a name, and was not imported."""
    name = method.get("name")
    return isinstance(name, str) and ":" in name and method_named(name) is None


def _to_json(value: Any) -> Any:
    if isinstance(value, Method):
        return {"name": name_of(type(value))} | _fields_to_json(value)
    if is_dataclass(value):
        return _fields_to_json(value)
    if isinstance(value, tuple):
        return [_to_json(item) for item in cast(tuple[Any, ...], value)]
    return str(value) if isinstance(value, Path) else value


def _fields_to_json(value: Any) -> dict[str, Any]:
    hints = get_type_hints(type(value))
    values = {f: getattr(value, f.name) for f in fields(value)}
    # Newer fields that say nothing are left out, so that records of before are still those of the same experiment.
    said = {f: each for f, each in values.items() if each is not None or not f.metadata.get("newer")}
    return {f.name: _to_json(_as(hints[f.name], each)) for f, each in said.items()}


def _as(kind: Any, value: Any) -> Any:
    """Whole numbers of a float field as floats: 1 and 1.0 are the same setting and must read the same."""
    return float(value) if kind is float and isinstance(value, int) and not isinstance(value, bool) else value


def _from_json(kind: Any, value: Any, source: str, path: str = "") -> Any:
    """Read a value of a type: dataclasses, methods by name, tuples, optional ones; the rest as it is."""
    if get_origin(kind) in (Union, UnionType):
        kinds = [each for each in get_args(kind) if each is not type(None)]
        # Optional types have one member beside None; Literals of strings are checked by `fit`.
        return None if value is None else _from_json(kinds[0], value, source, path)
    if kind is Method:
        fields_ = Fields(_object(value, source, path), f"{path} in {source}")
        name = str(fields_.text("name", needed=True))
        method = method_named(name)
        if method is None:
            raise InputError(_unknown_method(name, source))
        return _from_json(method, {k: v for k, v in value.items() if k != "name"}, source, path)
    if is_dataclass(kind):
        return _made(cast("type[Any]", kind), _object(value, source, path), source, path)
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        endless = len(inner) == 2 and inner[1] is Ellipsis
        if not isinstance(value, (list, tuple)) or not (endless or len(cast("list[Any]", value)) == len(inner)):
            count = "" if endless else f" of {len(inner)}"
            raise InputError(f"{path} of {source} must be a list{count}, not {str(value)[:80]!r}")
        values = cast("list[Any]", value)
        each = [inner[0]] * len(values) if endless else inner
        pairs = enumerate(zip(each, values, strict=True))
        return tuple(_from_json(one, item, source, f"{path}.{place}") for place, (one, item) in pairs)
    if isinstance(value, str) and not is_text(value):
        raise InputError(f"{path} of {source} holds control characters, which are in no name or path: {value!r}")
    return fit(source, path, kind, _as(kind, value))


def _made(kind: type[Any], value: Mapping[str, Any], source: str, path: str) -> Any:
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}
    strange = sorted(set(value) - known)
    if strange:
        raise InputError(f"{kind.__name__} has no {', '.join(strange)} ({source}); was it written by another version?")
    # Fields that are newer than a record take their defaults; only those without one are missing.
    needed = {f.name for f in fields(kind) if f.init and f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(needed - set(value))
    if missing:
        raise InputError(f"{', '.join(missing)} of {source} is missing: the file was changed by hand")
    inside = {
        name: _from_json(hints[name], item, source, f"{path}.{name}" if path else name) for name, item in value.items()
    }
    return kind(**inside)


def _object(value: Any, source: str, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{path or source} must be an object with names and values, not {str(value)[:80]!r}")
    return cast("Mapping[str, Any]", value)


def _unknown_method(name: str, source: str) -> str:
    if ":" in name:
        # Importing it would run what stands in a file of anybody's.
        return (
            f"{source} names the method {name!r}, which is no part of this package and is not imported because a file "
            f"says so: name it yourself, --methods {name} (train, sweep), or import it with own_method({name!r})"
        )
    return f"there is no method {name!r}, which {source} names; there are {', '.join(METHODS)}"
