"""Which networks there are by name: ours, and those that timm and torchvision list.

>>> is_name("resnet8"), is_name("timm:resnet18"), is_name("runs/first")
(True, True, False)
"""

import difflib
from collections.abc import Iterable

from attention_transfer.errors import InputError, needing
from attention_transfer.models.naming import is_source, parse_name, quoted
from attention_transfer.models.timm_source import WEIGHTS_ELSEWHERE
from attention_transfer.models.zoo.registry import MODELS

LIBRARIES = ("timm", "torchvision", "hf")
"""What stands before the colon of other libraries' networks."""


def is_name(text: str) -> bool:
    """Whether a text is written as a model's name: one of ours, or with a library before a colon."""
    return text in MODELS or text.partition(":")[0] in LIBRARIES


def check_name(name: str) -> None:
    """Refuse unknown names; those on the Hugging Face hub are not looked up.

    Raises:
        ValueError: naming the closest ones that exist, or what is wrong with the arguments.
    """
    parsed = parse_name(name)
    library, inner = parsed.library, parsed.inner
    if not library:
        if inner not in MODELS:
            more = "; models of other libraries are written timm:NAME, torchvision:NAME or hf:NAME"
            raise _unknown(inner, MODELS, more)
        if name != inner:
            raise InputError(
                f"{inner} takes no arguments: write {inner} alone; those of timm:, torchvision: and hf: do"
            )
    elif library not in LIBRARIES:
        wanted = ", ".join(f"{known}:NAME" for known in LIBRARIES)
        raise InputError(f"unknown library {library!r} in {name!r}: wanted is {wanted}")
    elif library == "timm":
        with needing(f"timm:{inner}", "timm"):
            import timm

        # Those are places that timm fetches from, not names in its list.
        if not is_source(inner) and not timm.is_model(inner.partition(".")[0]):
            raise _unknown(f"timm:{inner}", [f"timm:{known}" for known in timm.list_models()])
        if not is_source(inner) and inner not in WEIGHTS_ELSEWHERE:
            _check_tag(inner)
    elif library == "torchvision":
        known = _torchvision_names(f"torchvision:{inner}")
        if inner not in known:
            raise _unknown(f"torchvision:{inner}", [f"torchvision:{model}" for model in known])


def _check_tag(inner: str) -> None:
    """Refuse weights that timm does not list for a network that it does."""
    from timm.models import get_pretrained_cfg

    try:
        get_pretrained_cfg(inner)
    except RuntimeError as error:
        raise InputError(
            f"timm:{inner} names weights that timm does not list for this network: leave out what is behind the point, "
            f"or look it up with timm.list_pretrained({inner.partition('.')[0] + '.*'!r})"
        ) from error


def _unknown(name: str, known: Iterable[str], more: str = "") -> InputError:
    close = difflib.get_close_matches(name, list(known), n=5, cutoff=0.5)
    return InputError(f"unknown model {quoted(name)}" + (f"; close to it: {', '.join(close)}" if close else "") + more)


def _torchvision_names(asked: str) -> list[str]:
    with needing(asked, "torchvision"):
        import torchvision

    return torchvision.models.list_models(module=torchvision.models)
