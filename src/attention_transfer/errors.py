"""What this package says no with. Errors of any other kind are its own bugs, or those of a library below it."""

_QUOTED = 300  # letters; some libraries list everything that they know


class InputError(ValueError):
    """What was given (a setting, a network, a file, a batch) cannot be used as it is: the words say why, and what can.

    All errors that name something wrong in an input are of this class or a subclass of it.
    """


class DistillationWarning(UserWarning):
    """A distillation can run and is most likely not what was meant; the same words are in `Distiller.notes`."""


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough to be quoted in a sentence of ours; its kind if it is silent."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:_QUOTED] if lines else type(error).__name__
