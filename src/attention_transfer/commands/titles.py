"""What is written above the column of each model or run."""

from collections.abc import Sequence
from pathlib import Path


def titles(names: Sequence[str]) -> list[str]:
    """The last parts of names, or the whole ones where these would not tell them apart.

    Args:
        names: of models or run folders, as a user wrote them.
    """
    short = [Path(name.rpartition("@")[2]).name or name for name in names]
    return short if len(set(short)) == len(short) else list(names)
