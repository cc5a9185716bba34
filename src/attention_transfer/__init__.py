"""Train image networks by transferring attention, from any PyTorch teacher to any PyTorch student."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attention_transfer.errors import needing

if TYPE_CHECKING:
    from attention_transfer.capture import CaptureError as CaptureError
    from attention_transfer.capture import Tap as Tap
    from attention_transfer.distiller import Distiller as Distiller
    from attention_transfer.distiller import Output as Output
    from attention_transfer.errors import DistillationWarning as DistillationWarning
    from attention_transfer.errors import InputError as InputError
    from attention_transfer.experiment import Data as Data
    from attention_transfer.experiment import Experiment as Experiment
    from attention_transfer.experiment import Optimisation as Optimisation
    from attention_transfer.experiment import Training as Training
    from attention_transfer.methods import *  # noqa: F403 - every method, and what they are made of
    from attention_transfer.models import MODELS as MODELS
    from attention_transfer.models import Description as Description
    from attention_transfer.models import Input as Input
    from attention_transfer.models import Stage as Stage
    from attention_transfer.models import build as build
    from attention_transfer.models import describe as describe
    from attention_transfer.training.fit import Fitted as Fitted
    from attention_transfer.training.fit import fit as fit

# Loaded when first asked for: the command line imports this package too, and answers --help without loading torch.
_ROOMS = {
    "capture": ("CaptureError", "Tap"),
    "distiller": ("Distiller", "Output"),
    "errors": ("DistillationWarning", "InputError"),
    "experiment": ("Data", "Experiment", "Optimisation", "Training"),
    "training.fit": ("Fitted", "fit"),
    "models": ("MODELS", "Description", "Input", "Stage", "build", "describe"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__all__":  # asked for by `from attention_transfer import *`
        return __dir__()
    # What is in none of the other rooms can only be a method, or what methods are made of.
    room = _ROOM_OF.get(name) or ("methods" if name[:1].isupper() else None)
    if room is not None:
        with needing(f"{__name__}.{name}"):
            found = getattr(import_module(f"{__name__}.{room}"), name, None)
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_ROOM_OF, *import_module(f"{__name__}.methods").__all__])
