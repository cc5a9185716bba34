"""What the program ends with when an error stops it, and what it says then."""

import errno
from collections.abc import Sequence

from attention_transfer.errors import InputError, printable

_SHOWN = 200  # letters of a name in a message
# What a machine says no with whatever is asked of it: rights, room, devices that fail, names that it does not have.
_OF_THE_MACHINE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.ENOSPC, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, getattr(errno, "EDQUOT", errno.ENOSPC)),
)


def code_of(error: Exception) -> int | None:
    """What the program ends with; None for what is no user's to mend: a bug, which shows where it is."""
    if isinstance(error, InputError) or (isinstance(error, OSError) and error.errno in _OF_THE_MACHINE):
        return 2
    return 1 if type(error).__name__ in ("NonFiniteLossError", "FailedRunsError") else None


def lines_of(command: str, error: Exception) -> str:
    """An error with its notes, behind the command that met it."""
    return printable("\n".join([f"{command}: {_said(error)}", *getattr(error, "__notes__", ())]))


def refuse_bytes(arguments: Sequence[str]) -> None:
    """Refuse arguments that are no text, as names of files may be: no run could be recorded with them.

    Raises:
        InputError: naming the argument.
    """
    for argument in arguments:
        if "\0" in argument:
            raise InputError(f"the argument {argument!r} holds a character that no argument can: leave it out")
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = argument.encode(errors="backslashreplace").decode()
            raise InputError(
                f"the argument {shown} is no text in UTF-8: rename the file or folder of that name"
            ) from None


def _said(error: Exception) -> str:
    if isinstance(error, InputError) or not isinstance(error, OSError):
        return str(error)
    place = str(error.filename or "")
    shown = place if len(place) <= _SHOWN else f"{place[:_SHOWN]}…"
    return f"{shown}: {error.strerror}" if shown else str(error.strerror)
