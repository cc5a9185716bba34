"""Words for networks that stand in files: nobody at this machine has said them.

They may choose any network that can be built from what is installed, and read what lies on this machine. They fetch
nothing, unless the user allows it.
"""

from pathlib import Path

from attention_transfer.errors import InputError
from attention_transfer.files.env_paths import at_home
from attention_transfer.models.naming import Name, parse_name, split_weights

PRETRAINED = "pretrained"
"""What stands behind the @ of published weights."""
_FETCHED_FROM = ("hf-hub", "hf_hub")
READ_FROM = "local-dir"


def is_source(inner: str) -> bool:
    """Whether a name of timm is a place that it reads a network's description from, and not in its list."""
    return inner.partition(":")[0] in (*_FETCHED_FROM, READ_FROM)


def is_fetched(spec: str) -> bool:
    """Whether opening a network under these words may reach the network.

    Args:
        spec: as on a command line.
    """
    name, source = split_weights(spec)
    if source == PRETRAINED:
        # What `save_pretrained` wrote lies in a folder.
        return not _is_here(parse_name(name))
    return _description_is_fetched(parse_name(name))


def check_recorded(spec: str, file: Path, *, allow_download: bool = False) -> str:
    """Words for a network that stand in a file, unless opening it would fetch something that nobody allowed.

    Args:
        spec: as it stands there.
        file: that says so, for the message.
        allow_download: by the user.

    Raises:
        ValueError: naming the file and what it asks for.
    """
    if is_fetched(spec) and not allow_download:
        raise InputError(
            f"{file} names {spec!r}, which would be downloaded, and files fetch nothing by themselves. Say the same "
            "name on the command line, or --allow-download, if you trust it"
        )
    return spec


def _description_is_fetched(name: Name) -> bool:
    if name.library == "hf":
        return not _is_here(name)
    return name.library == "timm" and name.inner.partition(":")[0] in _FETCHED_FROM


def _is_here(name: Name) -> bool:
    source, _, _ = name.inner.partition(":")
    if name.library == "timm" and source == READ_FROM:
        return True
    return name.library == "hf" and at_home(Path(name.inner)).is_dir()
