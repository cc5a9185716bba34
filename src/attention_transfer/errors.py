"""What this package says no with. Errors of any other kind are its own bugs, or those of a library below it."""

import unicodedata

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
