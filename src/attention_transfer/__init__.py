"""Train image networks by transferring attention, from any PyTorch teacher to any PyTorch student."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attention_transfer.errors import needing

if TYPE_CHECKING:
    from attention_transfer.capture import CaptureError, Tap
    from attention_transfer.distiller import Distiller, Output
    from attention_transfer.errors import DistillationWarning, InputError
    from attention_transfer.experiment import Data, Experiment, Optimisation, Training
    from attention_transfer.methods import (
        METHODS,
        AttentionCopy,
        AttentionDistillation,
        AttentionLinks,
        AttentionTransfer,
        ClassAttention,
        Contrastive,
        Correlation,
        DecoupledSoftTargets,
        DistillationToken,
        FeatureDistillation,
        FitNet,
        GradientAttention,
        Method,
        MultiHeadGraph,
        Overhaul,
        Relational,
        Review,
        Schedule,
        SettingError,
        SimilarityPreserving,
        SoftTargets,
        Term,
    )
    from attention_transfer.models import MODELS, Description, Input, Stage, build, describe

# Loaded when first asked for: the command line imports this package too, and answers --help without loading torch.
_ROOMS = {
    "capture": ("CaptureError", "Tap"),
    "distiller": ("Distiller", "Output"),
    "errors": ("DistillationWarning", "InputError"),
    "experiment": ("Data", "Experiment", "Optimisation", "Training"),
    "methods": (
        "METHODS",
        "AttentionCopy",
        "AttentionDistillation",
        "AttentionLinks",
        "AttentionTransfer",
        "ClassAttention",
        "Contrastive",
        "Correlation",
        "DecoupledSoftTargets",
        "DistillationToken",
        "FeatureDistillation",
        "FitNet",
        "GradientAttention",
        "Method",
        "MultiHeadGraph",
        "Overhaul",
        "Relational",
        "Review",
        "Schedule",
        "SettingError",
        "SimilarityPreserving",
        "SoftTargets",
        "Term",
    ),
    "models": ("MODELS", "Description", "Input", "Stage", "build", "describe"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "METHODS",
    "MODELS",
    "AttentionCopy",
    "AttentionDistillation",
    "AttentionLinks",
    "AttentionTransfer",
    "CaptureError",
    "ClassAttention",
    "Contrastive",
    "Correlation",
    "Data",
    "DecoupledSoftTargets",
    "Description",
    "DistillationToken",
    "DistillationWarning",
    "Distiller",
    "Experiment",
    "FeatureDistillation",
    "FitNet",
    "GradientAttention",
    "Input",
    "InputError",
    "Method",
    "MultiHeadGraph",
    "Optimisation",
    "Output",
    "Overhaul",
    "Relational",
    "Review",
    "Schedule",
    "SettingError",
    "SimilarityPreserving",
    "SoftTargets",
    "Stage",
    "Tap",
    "Term",
    "Training",
    "build",
    "describe",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needing(f"{__name__}.{name}"):
        return getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
