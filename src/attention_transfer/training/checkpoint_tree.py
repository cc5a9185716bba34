"""Nested state of a checkpoint as JSON and tensors by name, in both directions."""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from attention_transfer.errors import InputError

# What JSON has no words for is an object of one of these names.
_TENSOR, _ITEMS, _TUPLE, _FLOAT = "$tensor", "$items", "$tuple", "$float"
_CHANNELS_LAST = "channels_last"


def taken_apart(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A tree of mappings, lists, numbers, texts and tensors as JSON, and its tensors by name, copied to the CPU.

    Raises:
        InputError: something in it is of another kind.
    """
    tensors: dict[str, Tensor] = {}
    return cast("dict[str, Any]", _to_json(tree, (), tensors)), tensors


def put_together(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that was taken apart.

    Raises:
        InputError: JSON that nothing was taken apart into, or a tensor that is not there.
    """
    try:
        return _from_json(content, tensors)
    except RecursionError as error:
        raise InputError("it is nested too deep") from error


def _to_json(value: Any, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return _tensor_to_json(value, path, tensors)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: str(float(value))}
    if isinstance(value, (list, tuple)):
        listed = [_to_json(each, (*path, str(number)), tensors) for number, each in enumerate(cast("list[Any]", value))]
        return {_TUPLE: listed} if isinstance(value, tuple) else listed
    if isinstance(value, Mapping):
        items = [
            (key, _to_json(each, (*path, str(key)), tensors)) for key, each in cast("Mapping[Any, Any]", value).items()
        ]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
            return dict(items)
        if all(isinstance(key, (str, int)) for key, _ in items):
            return {_ITEMS: [list(pair) for pair in items]}
    raise InputError(
        f"{'.'.join(path)} is of type {type(value).__name__}, which a checkpoint cannot keep: numbers, texts, lists, "
        "mappings and tensors are kept"
    )


def _tensor_to_json(value: Tensor, path: tuple[str, ...], tensors: dict[str, Tensor]) -> dict[str, Any]:
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise InputError(f"{'.'.join(path)} is a tensor of a kind that a checkpoint cannot keep ({value.layout})")
    name = "/".join(path)
    while name in tensors:
        name += "'"
    last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()
    # Copies: safetensors refuses memory that two tensors share.
    tensors[name] = torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
    return {_TENSOR: name, **({_CHANNELS_LAST: True} if last else {})}


def _from_json(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_from_json(each, tensors) for each in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    if not any(key.startswith("$") for key in fields):
        return {key: _from_json(each, tensors) for key, each in fields.items()}
    if _TENSOR in fields:
        name = fields[_TENSOR]
        if not isinstance(name, str) or name not in tensors:
            raise InputError(f"its tensor {str(name)[:60]!r} is missing")
        found = tensors[name]
        last = fields.get(_CHANNELS_LAST) is True and found.ndim == 4
        return found.contiguous(memory_format=torch.channels_last) if last else found
    if set(fields) == {_FLOAT} and fields[_FLOAT] in ("nan", "inf", "-inf"):
        return float(fields[_FLOAT])
    if set(fields) == {_TUPLE} and isinstance(fields[_TUPLE], list):
        return tuple(_from_json(each, tensors) for each in cast("list[Any]", fields[_TUPLE]))
    if set(fields) == {_ITEMS} and isinstance(fields[_ITEMS], list):
        return dict(_pair(each, tensors) for each in cast("list[Any]", fields[_ITEMS]))
    raise InputError(f"it holds an object {', '.join(fields)[:60]!r}, which none of ours does")


def _pair(value: Any, tensors: Mapping[str, Tensor]) -> tuple[str | int, Any]:
    pair = cast("list[Any]", value) if isinstance(value, list) else []
    if len(pair) != 2 or not isinstance(pair[0], (str, int)):
        raise InputError("it holds a pair that is none")
    return pair[0], _from_json(pair[1], tensors)
