"""Which heads of a layer take part."""

from attention_transfer.errors import InputError


def check_heads(first_heads: int | None, heads: tuple[int, ...] | None) -> None:
    """Refuse settings that contradict each other.

    Args:
        first_heads: only the first so many.
        heads: only these, by number.

    Raises:
        ValueError: if both are given, or no heads.
    """
    if first_heads is not None and (heads is not None or first_heads < 1):
        raise InputError(f"give either first_heads, at least 1, or heads, not {first_heads} and {heads}")
    if heads is not None and (not heads or len(set(heads)) < len(heads)):
        raise InputError(f"heads must name heads, each once, not {heads}")


def chosen_heads(
    first_heads: int | None, heads: tuple[int, ...] | None, count: int, who: str = "the layer"
) -> list[int]:
    """Numbers of the heads that take part, from 0.

    Args:
        first_heads: only the first so many; None for all.
        heads: only these, by number, negative ones from the end; None for all.
        count: how many there are.
        who: has them, for the message.

    Raises:
        ValueError: for a head that does not exist, or is named twice.
    """
    wanted = list(range(count if first_heads is None else first_heads)) if heads is None else list(heads)
    strange = [head for head in wanted if not -count <= head < count]
    if strange:
        raise InputError(f"{who} has {count} heads, numbered from 0; there is no head {strange[0]}")
    numbers = [head % count for head in wanted]
    if len(set(numbers)) < len(numbers):
        raise InputError(f"heads must name heads, each once; {who} has {count} heads, of which {heads} are {numbers}")
    return numbers
