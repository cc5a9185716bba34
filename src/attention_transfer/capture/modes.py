"""Training and evaluation mode of any module, those included that refuse to be asked."""

from torch import nn


def set_mode(model: nn.Module, training: bool) -> None:
    """The same as `model.train(training)`. Exported modules refuse that, and stay in the mode they were exported in.

    Args:
        model: network.
        training: whether it shall be in training mode.
    """
    try:
        model.train(training)
    except NotImplementedError:
        model.training = training
        for child in model.children():
            set_mode(child, training)


class Modes:
    """The modes of all modules of networks, to be set again whoever has changed them.

    Args:
        models: in the modes to keep.
    """

    def __init__(self, *models: nn.Module) -> None:
        # What torch.jit.freeze gives has none.
        self._modes = [
            (module, module.training) for model in models for module in model.modules() if hasattr(module, "training")
        ]

    def set(self) -> None:
        """Set them again."""
        for module, training in self._modes:
            # Compilers follow what changes, so nothing may that need not.
            if module.training != training:
                module.training = training
