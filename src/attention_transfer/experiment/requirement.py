"""How settings that are out of range are refused."""


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
        raise ValueError(f"{name} must be {wanted}, not {value}")
