"""Arguments of the readers of data sets, and the folders that they read.

>>> Request(image_size=4)
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: image_size must be a whole number of pixels from 8 to ..., not 4
>>> Request(root=Path("data")).folder("CUB_200_2011", source="CUB_200_2011.tgz")
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: there is no folder CUB_200_2011 in data: unpack CUB_200_2011.tgz there, ...
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from attention_transfer.data.names import shown
from attention_transfer.data.pipeline.decoding import AS_SHOWN, Decoding
from attention_transfer.data.selection import Selection
from attention_transfer.errors import InputError
from attention_transfer.files.env_paths import at_home
from attention_transfer.models.bounds import LARGEST_SIDE

SMALLEST_SIDE = 8  # pixels

CACHE = Path("~/.cache/attention-transfer")


@dataclass(frozen=True)
class Request:
    """Arguments of the function that reads a data set.

    Args:
        path: what follows the colon of `npz:PATH` and `folder:PATH`; None for data sets that have a name of their own.
        root: folder that holds, or receives, the named data sets; None means the user's cache.
        image_size: side of the images in pixels, at least 8; None keeps the data set's own.
        selection: which training images the reader returns; it may leave the others unread.
        test_limit: number of test images; a reader may leave the others unread.
        labelled: whether labels are needed; if not, a folder without a split is read whole.
        split_seed: seed of the choice of test images, where there is no test split; None means 0.
        decoding: how image files are decoded.

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
            names: possible names of the unpacked folder.
            source: archive and address that it can be downloaded from.

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
    def own_folder(self) -> Path:
        """The path after the colon, which must be a folder."""
        if self.path is None:
            raise InputError("this kind of data set needs a path: write it after a colon, as in folder:PATH")
        folder = at_home(self.path)
        if not folder.is_dir():
            raise InputError(f"{shown(folder)} is not a folder: give the path of one, as in folder:PATH or npz:PATH")
        return folder
