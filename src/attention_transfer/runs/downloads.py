"""Permission to download: what the user names, and what run folders name only where the user allows it.

>>> Downloads().data, Downloads().recorded
(True, False)
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Downloads:
    """What a command may download.

    Args:
        data: whether the data set that the user names, where it is not on this machine.
        recorded: whether what only a run folder names.
    """

    data: bool = True
    recorded: bool = False
