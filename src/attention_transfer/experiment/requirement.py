"""How settings that are out of range are refused."""

from attention_transfer.errors import InputError


def require(holds: bool, name: str, wanted: str, value: object) -> None:
    """Refuse a setting.

    Args:
        holds: whether it is as it should be.
        name: of the setting.
        wanted: what it must be, in words.
        value: what it is.

    Raises:
        ValueError: it does not hold.
    """
    if not holds:
        raise InputError(f"{name} must be {wanted}, not {value}")
