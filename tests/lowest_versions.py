"""Prints a pip constraint for every direct dependency: the lowest version that pyproject.toml declares.

python tests/lowest_versions.py > constraints-lowest.txt
"""

import re
import tomllib
from itertools import chain
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest_versions() -> dict[str, str]:
    """The floor of each direct dependency, those of the extras included.

    Raises:
        ValueError: for a dependency without a floor.
    """
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    floors: dict[str, str] = {}
    # An extra that takes others in names this package itself.
    own = f"{project.get('name')}["
    for wanted in chain(project["dependencies"], *project["optional-dependencies"].values()):
        if wanted.startswith(own):
            continue
        found = re.fullmatch(r"([A-Za-z0-9._-]+)>=([0-9][0-9.]*)", wanted)
        if found is None:
            raise ValueError(f"{wanted!r} of {PROJECT.name} has no lowest version: write NAME>=VERSION")
        if floors.setdefault(found[1], found[2]) != found[2]:
            raise ValueError(f"{found[1]} has two lowest versions in {PROJECT.name}: write the same one everywhere")
    return floors


if __name__ == "__main__":
    for name, version in sorted(lowest_versions().items()):
        print(f"{name}=={version}")
