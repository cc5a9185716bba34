"""Whether two networks that are given the same random numbers drop the same residuals."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.capture.isolation import set_mode
from attention_transfer.errors import InputError

# timm, torchvision, and transformers, which puts the name of the network before it.
_KINDS = ("DropPath", "StochasticDepth")


def check_same_noise(
    student: nn.Module, teacher: nn.Module, images: Float[Tensor, "b 3 h w"], of_teacher: Float[Tensor, "b 3 h w"]
) -> None:
    """Refuse networks that would drop other residuals. Both run once, in training mode and from one seed.

    Args:
        student: inside of `undisturbed`, as its teacher.
        teacher: reads the same random numbers.
        images: noise, as the student receives it.
        of_teacher: the same as the teacher does.

    Raises:
        ValueError: for other rates of drop path, in another order, or if one of them has drawn anything else before.
    """
    ours, theirs = _drawn(student, images), _drawn(teacher, of_teacher)
    rates = [[rate for rate, _ in each] for each in (ours, theirs)]
    if rates[0] != rates[1]:
        raise InputError(
            f"same_drop_path wants two networks that drop the same residuals: the student has {len(ours)} drop "
            f"paths, at most {max(rates[0], default=0.0)}, the teacher {len(theirs)}, at most "
            f"{max(rates[1], default=0.0)}; build the teacher with the student's drop_path_rate"
        )
    for number, ((_, mine), (_, other)) in enumerate(zip(ours, theirs, strict=True)):
        if not torch.equal(mine, other):
            raise InputError(
                "same_drop_path wants two networks that draw the same random numbers, and before drop path "
                f"{number} of {len(ours)} they have drawn others: put what else they drop (patches, positions, "
                "attention, projections) to 0, or give both networks the same of it"
            )


def _drawn(model: nn.Module, images: Tensor) -> list[tuple[float, Tensor]]:
    """Of each residual that may be dropped, in the order of the run: its rate, and where the random numbers stand."""
    found: list[tuple[float, Tensor]] = []

    def note(module: nn.Module, args: object) -> None:
        del args
        state = torch.cuda.get_rng_state(images.device) if images.device.type == "cuda" else torch.get_rng_state()
        found.append((_rate(module), state))

    handles = [module.register_forward_pre_hook(note) for module in model.modules() if _rate(module)]
    try:
        torch.manual_seed(0)
        set_mode(model, True)
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _rate(module: nn.Module) -> float:
    """How often it drops a residual; 0 if it is nothing of the kind."""
    if not type(module).__name__.endswith(_KINDS):
        return 0.0
    return float(getattr(module, "drop_prob", None) or getattr(module, "p", None) or 0.0)
