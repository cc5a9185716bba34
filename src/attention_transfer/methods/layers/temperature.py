"""The bounds of temperatures: beyond them a softmax says nothing, or float32 cannot hold what is computed."""

from attention_transfer.errors import InputError

_LOWEST, _HIGHEST = 1e-4, 1e4


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that no softmax can have.

    Args:
        temperature: what divides the logits.

    Raises:
        InputError: if it is not a finite number above 0, or so small or large that float32 cannot hold what is
            computed with it.
    """
    if not 0 < temperature < float("inf"):
        raise InputError(f"temperature must be a finite number above 0, not {temperature}")
    if not _LOWEST <= temperature <= _HIGHEST:
        raise InputError(
            f"temperature must lie between {_LOWEST:g} and {_HIGHEST:g}, not {temperature:g}: 1 to 20 are usual"
        )
