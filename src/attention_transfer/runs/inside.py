"""Names of a run's own parts, as its files give them: they lead nowhere else."""

import re
from pathlib import Path, PurePosixPath

from attention_transfer.errors import InputError
from attention_transfer.files.json_fields import is_text

SNAPSHOTS = "snapshots"
_UP_TO_THE_RUN = "../../"


def own_part(folder: Path, name: str, source: str) -> Path:
    """The path of something that lies in a run, by the name that one of its files gives it.

    Args:
        folder: whose file it is: a run, or a snapshot in one, whose names may begin with `../../` and then count from
            the run.
        name: relative, with `/` between its parts.
        source: the file, for messages.

    Raises:
        ValueError: the name leads out of the run.
    """
    root, rest = folder, name
    if folder.absolute().parent.name == SNAPSHOTS and name.startswith(_UP_TO_THE_RUN):
        root, rest = folder.absolute().parent.parent, name.removeprefix(_UP_TO_THE_RUN)
    parts = PurePosixPath(rest).parts
    leads_out = rest.startswith(("/", "~")) or ".." in parts or not parts or re.search(r"[\\:$]", rest) is not None
    if leads_out or not is_text(rest):
        raise InputError(
            f"{source} names {name[:80]!r} as a part of its run, and that leads out of it: it is not opened, and the "
            "file was changed by hand"
        )
    return root / rest
