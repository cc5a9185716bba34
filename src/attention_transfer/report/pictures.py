"""Files of pictures: their names are looked at before anything is computed, and they are written whole."""

from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from attention_transfer.errors import InputError
from attention_transfer.runs import make_folder, whole_file

_DPI = 160


def check_picture(path: str | Path | None) -> None:
    """Refuse a file that no picture can be written into.

    Args:
        path: of the file; None where nothing is to be drawn.

    Raises:
        ValueError: its suffix is that of no format, or a folder has its name.
    """
    if path is None:
        return
    known = FigureCanvasBase.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in known:
        formats = ", ".join(sorted(known))
        raise InputError(
            f"the format of the picture {str(path)!r} is not known: let its name end as figure.png does, with one of "
            f"{formats}"
        )
    if Path(path).is_dir():
        raise InputError(f"{str(path)!r} is a folder, where the file of a picture belongs: name a file in it")


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure whole, on white; its folder is made.

    Args:
        figure: to be written.
        path: its suffix chooses the format.

    Raises:
        ValueError: as `check_picture` says, or nothing can be written there.
    """
    check_picture(path)
    make_folder(Path(path).parent)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, facecolor="white")
