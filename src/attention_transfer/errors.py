r"""What this package says no with. Errors of any other kind are its own bugs, or those of a library below it.

>>> printable("a name with an escape \x1b[2J")[:12]
'a name with '

Whatever is wrong with an input is an `InputError`, which is a ValueError; what runs and was most likely not meant is
said by a `DistillationWarning`, which can be made an error:

>>> from attention_transfer import SoftTargets
>>> try:
...     SoftTargets(temperature=0)
... except InputError as error:
...     print(error)
temperature must be a finite number above 0, not 0
>>> import warnings
>>> warnings.filterwarnings("error", category=DistillationWarning)  # doctest: +SKIP
"""

import unicodedata
from collections.abc import Sequence
from importlib.util import find_spec

_QUOTED = 300  # letters; some libraries list everything that they know
# Controls, halves of pairs (bytes in no encoding), and separators of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
# They turn the direction of what follows.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """Text with everything escaped that would not show or would move the cursor, but for the ends of lines.

    Names of files, classes and tensors are of anybody's choice, and a terminal obeys what it is sent.
    """
    if text.isprintable() and text.isascii():
        return text
    return "".join(
        letter.encode("unicode_escape").decode()
        if letter != "\n" and (unicodedata.category(letter) in _HIDDEN or letter in _TURNING)
        else letter
        for letter in text
    )


class InputError(ValueError):
    """What was given (a setting, a network, a file, a batch) cannot be used as it is: the words say why, and what can.

    All errors that name something wrong in an input are of this class or a subclass of it. Their words are printable,
    whatever they quote.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(printable(each) if isinstance(each, str) else each for each in arguments))


class DistillationWarning(UserWarning):
    """A distillation can run and is most likely not what was meant; the same words are in `Distiller.notes`."""


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough to be quoted in a sentence of ours; its kind if it is silent."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:_QUOTED] if lines else type(error).__name__


EXTRAS: dict[str, dict[str, str]] = {
    "cli": {
        "timm": "timm",
        "torchvision": "torchvision",
        "PIL": "pillow",
        "tyro": "tyro",
        "rich": "rich",
        "matplotlib": "matplotlib",
        "sklearn": "scikit-learn",
        "scipy": "scipy",
    },
    "hf": {"transformers": "transformers"},
}
"""Of each extra that this package can be installed with, what it brings: names of modules, and of what holds them."""


class MissingExtraError(InputError, ImportError):
    """What was asked for needs a package that an extra brings and that is not there: the words say what to install."""


class needing:  # noqa: N801 - a context, which reads as a word of the sentence
    """Inside, packages of the extras are imported; those that are missing are said in words.

    Args:
        what: needs them, for the message: `networks of timm`.
        package: name of the module that is imported; where it is not said, the error tells which one is missing.

    Raises:
        MissingExtraError: when a package of an extra cannot be imported.
    """

    def __init__(self, what: str, package: str | None = None) -> None:
        self._what = what
        self._package = package

    def __enter__(self) -> None:
        """Nothing is looked for before it is imported."""

    def __exit__(self, kind: object, error: BaseException | None, place: object) -> None:
        if not isinstance(error, ImportError) or isinstance(error, MissingExtraError):
            return
        package = self._package or (error.name or "").partition(".")[0]
        # An error that names no module at all is asked which it may be.
        extra = next((extra for extra, brought in EXTRAS.items() if package in brought), None if error.name else "cli")
        if extra is None:
            return
        missing = [module for module in EXTRAS[extra] if not is_there(module)]
        modules = [self._package] if self._package else missing or [package]
        if modules != [""]:
            raise MissingExtraError(_missing(self._what, modules, error)) from error


def check_extra(extra: str, what: str) -> None:
    """Refuse what needs an extra that is not installed, or not all of it.

    Args:
        extra: its name.
        what: needs it, for the message.

    Raises:
        MissingExtraError: naming all that is missing.
    """
    missing = [module for module in EXTRAS[extra] if not is_there(module)]
    if missing:
        raise MissingExtraError(_missing(what, missing))


def is_there(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # somebody keeps it from being found, or put something else in its place
        return False


def _missing(what: str, modules: Sequence[str], error: ImportError | None = None) -> str:
    extra = next(name for name, brought in EXTRAS.items() if modules[0] in brought)
    names = [EXTRAS[extra][module] for module in modules]
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    if error is not None and all(map(is_there, modules)):
        why = f"cannot be loaded ({first_line(error)})"
    else:
        why = "are not installed" if len(names) > 1 else "is not installed"
    return f"{what} needs {listed}, which {why}: pip install 'attention-transfer[{extra}]'"
