"""What differs between two trees of JSON, by dotted path.

>>> flatten({"data": {"name": "digits"}, "seeds": [0, 1]})
{'data.name': 'digits', 'seeds.0': 0, 'seeds.1': 1}
>>> differing_fields({"seed": 0}, {"seed": 1, "epochs": 3})
{'seed': (0, 1), 'epochs': ('absent', 3)}
"""

from collections.abc import Mapping
from typing import Any, cast

from attention_transfer.files.json_fields import Json


def flatten(tree: Mapping[str, Any]) -> Json:
    """Leaves of nested mappings and lists by dotted path; empty ones are leaves themselves."""
    leaves: Json = {}
    for key, value in tree.items():
        if isinstance(value, list):
            value = {str(number): item for number, item in enumerate(cast(list[Any], value))} or []
        if isinstance(value, dict) and value:
            leaves |= {f"{key}.{path}": leaf for path, leaf in flatten(cast(Json, value)).items()}
        else:
            leaves[key] = value
    return leaves


def differing_fields(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted paths at which two JSON trees differ, with both values; `absent` where one has none."""
    one, two = flatten(first), flatten(second)
    paths = [*one, *(path for path in two if path not in one)]
    pairs = {path: (one.get(path, "absent"), two.get(path, "absent")) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}
