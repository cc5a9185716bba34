"""Networks of random weights that stand for trained ones."""

from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def as_trained(model: Model) -> Model:
    """The network itself, its first normalisation layer moved a little from where it was built, as by training."""
    for module in model.modules():
        for name in ("running_mean", "bias", "weight"):
            value = getattr(module, name, None)
            if "Norm" in type(module).__name__ and value is not None:
                value.data.add_(1e-3)
                return model
    return model
