"""What a user asks of a data set, and where to look for it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from attention_transfer.data.names import shown
from attention_transfer.data.pipeline.decoding import AS_SHOWN, Decoding
from attention_transfer.data.selection import Selection
from attention_transfer.errors import InputError
from attention_transfer.files.env_paths import at_home
from attention_transfer.models.bounds import LARGEST_SIDE

SMALLEST_SIDE = 8

CACHE = Path("~/.cache/attention-transfer")


@dataclass(frozen=True)
class Request:
    """Arguments of the function that reads a data set.

    Args:
        path: what follows the colon of `npz:PATH` and `folder:PATH`; None for data sets that have a name of their own.
        root: folder that holds, or receives, the named data sets; None means the user's cache.
        image_size: side of the squares to deliver, at least 8; None keeps the data set's own.
        selection: which training images the source returns; it may leave the others unread.
        test_limit: only so many test images are asked for; a source may leave the others unread.
        labelled: whether labels are needed; a folder without a split is read whole where they are not.
        split_seed: of the choice of test images, where a source has none; None means 0.
        decoding: what is seen of image files.

    Raises:
        ValueError: the side is too small or too large.
    """

    path: Path | None = None
    root: Path | None = None
    image_size: int | None = None
    selection: Selection = field(default_factory=Selection)
    test_limit: int | None = None
    labelled: bool = True
    split_seed: int | None = None
    decoding: Decoding = AS_SHOWN

    def __post_init__(self) -> None:
        if self.image_size is None:
            return
        whole = isinstance(cast(object, self.image_size), int) and not isinstance(self.image_size, bool)
        if not whole or not SMALLEST_SIDE <= self.image_size <= LARGEST_SIDE:
            raise InputError(
                f"image_size must be a whole number of pixels from {SMALLEST_SIDE} to {LARGEST_SIDE:,}, not "
                f"{repr(self.image_size)[:40]}"
            )

    def folder(self, *names: str, source: str) -> Path:
        """The folder of a named data set: the root itself or one of these folders in it, whichever holds it.

        Args:
            names: what the folder is called where it was unpacked.
            source: where it can be had.

        Raises:
            ValueError: there is no such folder.
        """
        root = self.cache
        if root.name in names and root.is_dir():
            return root
        for name in names:
            if (root / name).is_dir():
                return root / name
        raise InputError(
            f"there is no folder {names[0]} in {root}: unpack {source} there, or give the root that holds it"
        )

    @property
    def cache(self) -> Path:
        """Folder that downloads go to where no root is given."""
        return at_home(self.root or CACHE)

    @property
    def place(self) -> Path:
        """The path after the colon, which must be a folder."""
        if self.path is None:
            raise InputError("this kind of data set needs a path: write it after a colon, as in folder:PATH")
        folder = at_home(self.path)
        if not folder.is_dir():
            raise InputError(f"{shown(folder)} is not a folder: give the path of one, as in folder:PATH or npz:PATH")
        return folder
