r"""Names of classes and files, fit for a terminal and compared by how they look.

>>> shown("two\nlines")
'two\\nlines'
>>> listed(["cat", "dog", "emu", "fox"], total=4, most=2)
'cat, dog and 2 more'
>>> alike(["Cat", "dog", "cat"])
[('Cat', 'cat')]
"""

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice

from attention_transfer.errors import printable


def shown(name: object) -> str:
    r"""A name with everything escaped that would not show, or would move the cursor: as `a\\nb` for two lines."""
    return printable(str(name)).replace("\n", "\\n")


def listed(names: Iterable[object], total: int, most: int = 10) -> str:
    """The first names of several, with how many more there are.

    Args:
        names: in order.
        total: how many these are.
        most: so many are written out.
    """
    first = ", ".join(shown(name) for name in islice(names, most))
    return first + (f" and {total - most} more" if total > most else "")


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8: file systems also take bytes that are no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def same_text(name: str) -> str:
    """The same for names that look the same, however accents are stored in them."""
    return unicodedata.normalize("NFC", name)


def alike(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ in case only."""
    seen: dict[str, str] = {}
    found: list[tuple[str, str]] = []
    for name in names:
        other = seen.setdefault(same_text(name).casefold(), name)
        if other != name:
            found.append((other, name))
    return found
