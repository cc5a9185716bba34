"""Configurations of transformers, from files of anybody's.

They choose sizes of a network that transformers knows, and never code, kernels, quantisers or further networks.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, cast

from attention_transfer.errors import InputError, first_line, needing
from attention_transfer.models.arguments import check_arguments, refuse_huge, refuse_loading

# Without it a network of transformers may be the one of timm that its configuration names.
_WRAPPER = "timm_wrapper"
_LABELS = ("num_labels", "id2label", "label2id", "problem_type")
_DTYPES = (None, "float32", "float16", "bfloat16", "float64")
_ATTENTION = "attn_implementation"
_LARGEST = 2**24  # vocabularies are the largest that there are


def configuration(values: Mapping[str, Any], source: str) -> Any:
    """The configuration of a network from the contents of its `config.json`.

    What its class does not declare is left out: there is nothing of transformers that reads it.

    Args:
        values: as JSON holds them.
        source: where they are from, for messages.

    Raises:
        ValueError: if transformers knows no such network, a value is none of its, or something would be loaded.
    """
    from transformers import AutoConfig

    check_configuration(values, source)
    kind = str(values["model_type"])
    known = _declared(kind)
    kept = {key: value for key, value in values.items() if key in known and not key.startswith("_")}
    kept |= {key: values[key] for key in (_ATTENTION, "dtype", "torch_dtype") if values.get(key) is not None}
    kept.pop("model_type", None)
    try:
        return AutoConfig.for_model(kind, **kept)
    except Exception as error:  # its classes check their values each in its own way
        raise InputError(f"{source} is no configuration of a network of type {kind!r}: {first_line(error)}") from error


def check_configuration(values: Mapping[str, Any], source: str) -> None:
    """Refuse the contents of a `config.json` that would load anything, or that transformers itself does not know.

    Raises:
        ValueError: saying what.
    """
    from transformers import CONFIG_MAPPING

    refuse_loading(values, source)
    refuse_huge(values, source, _LARGEST)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise InputError(
            f"{source} is of a type that this transformers does not know ({str(kind)[:80]!r} as model_type): networks "
            "that bring code of their own are not opened"
        )
    for key in ("dtype", "torch_dtype"):
        if values.get(key) not in _DTYPES:
            raise InputError(f"{key} of {source} must be one of {', '.join(map(str, _DTYPES[1:]))}")
    if kind == _WRAPPER:
        check_timm(values.get("architecture"), values.get("model_args"), source)


def check_timm(architecture: object, arguments: object, source: str) -> None:
    """Refuse a network of timm that a file describes, unless timm lists it and its arguments only shape it.

    Raises:
        ValueError: saying what.
    """
    with needing(source, "timm"):
        import timm

    if not isinstance(architecture, str) or not timm.is_model(architecture.partition(".")[0]):
        raise InputError(f"{source} names a network that this timm does not list: {str(architecture)[:80]!r}")
    if arguments is None:
        return
    if not isinstance(arguments, dict):
        raise InputError(f"model_args of {source} must be an object of names and values")
    check_arguments("timm", architecture, {str(key): value for key, value in cast("dict[Any, Any]", arguments).items()})


def check_hf_arguments(name: str, values: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the configuration of a network does not have.

    Args:
        name: after `hf:`.
        values: the contents of its `config.json`.
        arguments: written behind the name.

    Raises:
        ValueError: naming them.
    """
    known = _declared(str(values["model_type"])) | {_ATTENTION}
    refuse_huge(arguments, f"hf:{name}", _LARGEST)
    unknown = [key for key in arguments if key not in known or key.startswith("_")]
    if unknown:
        raise InputError(f"hf:{name} has no {', '.join(unknown)} in its configuration")


def _declared(kind: str) -> set[str]:
    """Names of the settings that a configuration's class has."""
    from transformers import CONFIG_MAPPING

    made: type[Any] = CONFIG_MAPPING[kind]
    fields = {field.name for field in dataclasses.fields(made)} if dataclasses.is_dataclass(made) else set[str]()
    taken = set(inspect.signature(made.__init__).parameters) | fields
    with contextlib.suppress(Exception):  # some need arguments; what they take is known all the same
        taken |= set(vars(made()))
    return (taken | set(getattr(made, "attribute_map", {})) | set(_LABELS)) - {"self", "kwargs", "args"}
