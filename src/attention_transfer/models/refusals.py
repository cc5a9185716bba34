"""What is said where another library refuses a network or its weights."""

from pickle import UnpicklingError

from safetensors import SafetensorError

from attention_transfer.errors import InputError, first_line
from attention_transfer.models.naming import Name


def unsafe(name: str) -> InputError:
    """What is said of published weights that could run code."""
    # Words of the libraries advise to read them unsafely.
    return InputError(
        f"the weights of {name} hold more than tensors, or are damaged, and unpickling them could run code: where you "
        "trust them, save them as model.safetensors"
    )


def was_unpickled(error: BaseException | None) -> bool:
    """Whether a pickle is behind an error, whatever came of it on its way."""
    return error is not None and (isinstance(error, UnpicklingError) or was_unpickled(error.__context__))


def refused(name: Name, error: Exception) -> InputError:
    """What is said of a network that its library does not build, or whose weights it does not read."""
    if isinstance(error, UnpicklingError) or "weights_only" in str(error):
        return unsafe(f"{name.library}:{name.inner}")
    if isinstance(error, SafetensorError):
        return InputError(f"the weights of {name.library}:{name.inner} are damaged: {first_line(error)}")
    given = ", ".join(f"{key}={value!r}" for key, value in name.arguments.items()) or "its arguments"
    return InputError(f"{name.library}:{name.inner} cannot be built with {given}: {first_line(error)}")
