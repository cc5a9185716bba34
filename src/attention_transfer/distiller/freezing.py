"""A network that several distillers may freeze, and that is given back by the last of them."""

import threading
import weakref

import torch
from torch import nn

from attention_transfer.capture import Modes


class Frozen:
    """A network without gradients, until it is released.

    Args:
        model: stays the user's own object.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        others = [other for other in _HOLDERS.get(model, ()) if other.holds]
        # What another distiller has frozen did not come so.
        self._required = others[0]._required if others else [(p, p.requires_grad) for p in model.parameters()]
        self._modes = others[0]._modes if others else Modes(model)
        self.holds = True
        _HOLDERS.setdefault(model, weakref.WeakSet()).add(self)
        for parameter in model.parameters():
            parameter.requires_grad_(False)

    @property
    def lock(self) -> "threading.RLock":  # pyright: ignore
        """For who runs the network, so that distillers in several threads change its modes one after the other."""
        return _LOCKS.setdefault(self.model, threading.RLock())

    def release(self) -> None:
        """Give the network back as trainable, and in the modes, as it came, unless another distiller holds it still."""
        self.holds = False
        if any(other.holds for other in _HOLDERS.get(self.model, ())):
            return
        for parameter, required in self._required:
            if parameter.requires_grad != required:
                # What was made in inference mode is thawed there alone.
                with torch.inference_mode(parameter.is_inference()):
                    parameter.requires_grad_(required)
        self._modes.set()
        self._required = []


_HOLDERS: weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[Frozen]] = weakref.WeakKeyDictionary()
_LOCKS: weakref.WeakKeyDictionary[nn.Module, "threading.RLock"] = weakref.WeakKeyDictionary()  # pyright: ignore
