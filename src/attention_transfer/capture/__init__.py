"""All reading of networks happens in this room: the only one with a hook."""

from attention_transfer.capture.gradients import (
    can_be_differentiated,
    input_gradient,
    no_recomputation,
    twice_differentiable,
)
from attention_transfer.capture.running import Capture, Reading, as_logits
from attention_transfer.capture.tap import CaptureError, Layout, Tap, spatial
from attention_transfer.capture.undisturbed import noise, own_buffers, undisturbed

__all__ = [
    "Capture",
    "CaptureError",
    "Layout",
    "Reading",
    "Tap",
    "as_logits",
    "can_be_differentiated",
    "input_gradient",
    "no_recomputation",
    "noise",
    "own_buffers",
    "spatial",
    "twice_differentiable",
    "undisturbed",
]
