"""All reading of networks happens in this room: the only one with a hook."""

from attention_transfer.capture.attention import Attention
from attention_transfer.capture.changing import Changed
from attention_transfer.capture.finding import FoundAttention, find_attention
from attention_transfer.capture.folding import Folding, FoldingError
from attention_transfer.capture.gradients import (
    can_be_differentiated,
    input_gradient,
    no_recomputation,
    twice_differentiable,
)
from attention_transfer.capture.patches import Grid, Patch, fits, patch_grid
from attention_transfer.capture.places import Place, Places, find_places
from attention_transfer.capture.recorder import Replacement
from attention_transfer.capture.running import Capture, Reading, as_logits
from attention_transfer.capture.same_noise import check_same_noise
from attention_transfer.capture.squashing import squashed_by
from attention_transfer.capture.tap import CaptureError, Layout, Tap, spatial, token_grid
from attention_transfer.capture.undisturbed import noise, own_buffers, undisturbed
from attention_transfer.capture.written_out import WrittenOutAttention

__all__ = [
    "Attention",
    "Capture",
    "CaptureError",
    "Changed",
    "Folding",
    "FoldingError",
    "FoundAttention",
    "Grid",
    "Layout",
    "Patch",
    "Place",
    "Places",
    "Reading",
    "Replacement",
    "Tap",
    "WrittenOutAttention",
    "as_logits",
    "can_be_differentiated",
    "check_same_noise",
    "find_attention",
    "find_places",
    "fits",
    "input_gradient",
    "no_recomputation",
    "noise",
    "own_buffers",
    "patch_grid",
    "spatial",
    "squashed_by",
    "token_grid",
    "twice_differentiable",
    "undisturbed",
]
