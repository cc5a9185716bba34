"""What this package says no with. Errors of any other kind are its own bugs, or those of a library below it."""


class InputError(ValueError):
    """What was given (a setting, a network, a file, a batch) cannot be used as it is: the words say why, and what can.

    All errors that name something wrong in an input are of this class or a subclass of it.
    """
