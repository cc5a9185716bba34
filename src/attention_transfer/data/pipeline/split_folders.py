"""Class folders and splits of an image folder: `train/CLASS/…`, `val/CLASS/…` and their other names.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as name:
...     for folder in ("Train/cat", "validation/cat", "notes"):
...         (Path(name) / folder).mkdir(parents=True)
...     found = layout(Path(name))
...     found.train.name, found.validation.name, found.test
('Train', 'validation', None)
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attention_transfer.data.names import alike, is_text, listed, same_text, shown
from attention_transfer.data.pipeline.walking import Entries, Identity, Others, entries, images_below
from attention_transfer.errors import InputError

TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation", "dev")
TEST = ("test", "testing")
# Other names of the same splits; the names above go before these.
_OTHERWISE = {"validate": "val", "eval": "val", "evaluation": "val"}
_OF_IMAGES = re.compile(r"[\W_]+|(?<=[a-z])(?=(?:set|split|images|data)$)")
_NO_ROLE = frozenset({"", "set", "split", "image", "images", "img", "imgs", "data", "dataset", "folder"})


@dataclass(frozen=True)
class Layout:
    """Folders of one data set.

    Args:
        root: folder that holds them.
        train: folder of the training split; None if no name says so.
        validation: folder of the validation split, which is the test split if there is no other.
        test: folder of the test split.
        unread: other folders of images beside these.
    """

    root: Path
    train: Path | None = None
    validation: Path | None = None
    test: Path | None = None
    unread: tuple[Path, ...] = ()

    @property
    def split(self) -> bool:
        """Whether the folders have names of a training split and of another."""
        return self.train is not None and (self.validation is not None or self.test is not None)


def layout(root: Path) -> Layout:
    """The splits of an image folder, by the names of its subfolders in upper or lower case.

    Raises:
        ValueError: two folders are the same split.
    """
    found = entries(root)
    roles: dict[str, Path | None] = {}
    for role, names in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        folders = [folder for folder in found.folders if folder.name.lower() in names]
        folders = folders or [folder for folder in found.folders if _plain_name(folder.name) in names]
        if len(folders) > 1:
            raise InputError(
                f"{shown(root)} holds {' and '.join(shown(folder.name) for folder in folders)}, and only one of them "
                f"can be its {role} images: rename or remove the others"
            )
        roles[role] = folders[0] if folders else None
    known = [folder for folder in roles.values() if folder is not None]
    train = roles["train"]
    if train is not None and known == [train] and _is_class(train, found, train):
        return Layout(root)
    beside = [folder for folder in found.folders if folder not in known] if train is not None else []
    unread = tuple(folder for folder in beside if _holds_images(folder))
    return Layout(root, train, roles["validation"], roles["test"], unread)


def _holds_images(folder: Path) -> bool:
    """Whether images lie in a folder, or in those in it."""
    found = entries(folder)
    return bool(found.images) or any(entries(inside).images for inside in found.folders)


def _plain_name(name: str) -> str:
    """What the folder of a part says that it is: `test` where it is called `test_set` or `images-testset`."""
    words = [word for word in _OF_IMAGES.split(name.lower()) if word not in _NO_ROLE]
    return _OTHERWISE.get(words[0], words[0]) if len(words) == 1 else ""


def _is_class(folder: Path, beside: Entries, train: Path) -> bool:
    """Whether a folder called `train` is one of several classes, as of vehicles: it holds images, others do too."""
    inside = entries(folder)
    others = [other for other in beside.folders if other != train]
    return bool(inside.images) and not inside.folders and any(entries(other).images for other in others)


@dataclass
class ClassFolders:
    """Images of one split by their classes.

    Args:
        root: folder that holds the class folders.
        images: images of each class, by the name of its folder, sorted by name.
        others: files that are no images.
        strays: images beside the class folders, which belong to no class.
        walked: every folder that was searched, under all of its names.
    """

    root: Path
    images: dict[str, list[Path]]
    others: Others = field(default_factory=Others)
    strays: tuple[Path, ...] = ()
    walked: dict[Identity, list[Path]] = field(default_factory=dict[Identity, list[Path]])

    @property
    def filled(self) -> tuple[str, ...]:
        """Names of the folders that hold images."""
        return tuple(name for name, images in self.images.items() if images)

    def notes(self) -> list[str]:
        """What is left out, in sentences."""
        left_out = self.others.note(self.root)
        notes = [] if left_out is None else [left_out]
        if self.strays:
            notes.append(
                f"{len(self.strays)} images lie in {shown(self.root)} beside its class folders, belong to no class "
                f"and are left out: {listed([path.name for path in self.strays], len(self.strays))}"
            )
        twice = [names for names in self.walked.values() if len(names) > 1]
        if twice:
            notes.append(
                f"{shown(twice[0][0])} and {shown(twice[0][1])} are the same folder, whose images count once for each "
                f"name{_and_more(twice)}"
            )
        return notes

    def shared_with(self, other: "ClassFolders") -> str | None:
        """What is also in another split, in a sentence; None where nothing is."""
        if self.root.samefile(other.root):
            both = [(self.root, other.root)]
        else:
            both = [(names[0], other.walked[same][0]) for same, names in self.walked.items() if same in other.walked]
        if not both:
            return None
        return (
            f"{shown(both[0][0])} is the same folder as {shown(both[0][1])}: test images are training images"
            f"{_and_more(both)}"
        )


def _and_more(found: Sequence[object]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""


def class_folders(root: Path, *, without: Sequence[Path] = ()) -> ClassFolders:
    """The images of every class folder, at any depth.

    Args:
        root: folder that holds the class folders.
        without: subfolders that are no classes.

    Raises:
        ValueError: a folder cannot be read, or the name of a class is no text.
    """
    found = entries(root)
    made = ClassFolders(root, {}, strays=found.images)
    for path in found.others:
        if not path.exists():
            raise InputError(
                f"{shown(path)} is a link to nothing, {shown(path.readlink())}: bring back what it led to, or remove it"
            )
        made.others.add(path)
    for folder in found.folders:
        if folder in without:
            continue
        if not is_text(folder.name):
            raise InputError(
                f"the name of the class folder {shown(folder)} is no text in UTF-8, and could not be written down "
                "after training: rename it"
            )
        made.images[folder.name] = images_below(folder, made.others, made.walked)
    return made


def refuse_nested_splits(folders: ClassFolders) -> None:
    """Refuse folders that hold `train` themselves, and are taken for classes.

    Raises:
        ValueError: there is one.
    """
    inside = [
        folder
        for name in folders.images
        for folder in entries(folders.root / name).folders
        if _plain_name(folder.name) in TRAIN
    ]
    if not inside:
        return
    missing = f"there is no folder {shown(folders.root / 'train')}, but {shown(inside[0])}"
    if len(inside) > 1 and all(entries(folder).images for folder in inside):
        raise InputError(
            f"{missing} and {len(inside) - 1} more: a data folder holds train/ and val/, and each of these one folder "
            "per class; move the classes into them"
        )
    raise InputError(f"{missing}: give the folder that holds train/ and val/, and in these one folder per class")


def classes_of(train: ClassFolders) -> tuple[str, ...]:
    """The classes of a data set: those that have training images.

    Raises:
        ValueError: there are none, a class has no images, or two look the same.
    """
    if not train.images:
        missing = f"there is no folder {shown(train.root / 'train')}: a data folder holds train/ and val/"
        empty = f"{shown(train.root)} is empty: it should hold one folder of images for each class"
        strays = f"{shown(train.root)} holds {len(train.strays)} images, but in no folders of classes"
        in_parts = train.root.name.lower() in TRAIN
        raise InputError(strays if train.strays else empty if in_parts else missing + ", each with a folder per class")
    _refuse_empty(train)
    seen: dict[str, str] = {}
    for name in train.images:
        other = seen.setdefault(shown(same_text(name)), name)
        if other != name:
            raise InputError(
                f"{shown(train.root)} holds two folders called {shown(name)}, which differ only in how accents or "
                "control characters are stored: put their images into one"
            )
    return tuple(train.images)


def _refuse_empty(folders: ClassFolders) -> None:
    empty = [folders.root / name for name, images in folders.images.items() if not images]
    if empty:
        kinds = f" (in them is {folders.others})" if folders.others.kinds else ""
        raise InputError(
            f"{listed(empty, len(empty))} holds no images{kinds}: add some, or remove the class from train and val"
        )


def matched(held_out: ClassFolders, classes: Sequence[str], train: Path) -> dict[str, list[Path]]:
    """Held-out images by the classes of the training images, of which some may be missing.

    Args:
        held_out: the images.
        classes: of the training images.
        train: folder of these.

    Raises:
        ValueError: there are images of a class without training images, a folder without any, or none at all.
    """
    known = {same_text(name): name for name in classes}
    found = {same_text(name): name for name in held_out.images}
    strange = [name for key, name in found.items() if key not in known]
    if strange:
        missing = [name for key, name in known.items() if key not in found]
        only = f"only {train.name} has {listed(missing, len(missing))}; " if missing else ""
        near = alike([*classes, *strange])
        hint = f" ({shown(near[0][0])} and {shown(near[0][1])} differ in case)" if near else ""
        raise InputError(
            f"{train.name} and {held_out.root.name} of {shown(train.parent)} hold different classes ({only}only "
            f"{held_out.root.name} has {listed(strange, len(strange))}){hint}: nothing is learned of classes without "
            "training images, so rename or remove their folders"
        )
    _refuse_empty(held_out)
    if not found:
        holds = f"holds {len(held_out.strays)} images, but in no folders of classes" if held_out.strays else "is empty"
        raise InputError(
            f"{shown(held_out.root)} {holds}: it should hold one folder of images for each class; without it a part "
            "of the training images is measured on"
        )
    return {known[key]: held_out.images[name] for key, name in found.items()}


def differing_in_case(classes: Sequence[str]) -> list[str]:
    """A sentence where names of classes differ in case only."""
    pairs = [f"{shown(first)} and {shown(second)}" for first, second in alike(classes)]
    return [f"the classes {listed(pairs, len(pairs))} differ in case only and count as two"] if pairs else []
