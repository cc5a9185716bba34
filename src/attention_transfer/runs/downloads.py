"""What a command may fetch: what its user names, and what run folders name only where the user says so."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Downloads:
    """What may be fetched.

    Args:
        data: the data set, where it is not on this machine; not where a run folder alone names it.
        recorded: whatever run folders name besides.
    """

    data: bool = True
    recorded: bool = False
