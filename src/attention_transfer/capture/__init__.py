"""All reading of networks happens in this room: the only one with a hook."""

from attention_transfer.capture.attention import Attention
from attention_transfer.capture.attention_search import FoundAttention, find_attention
from attention_transfer.capture.batch_norm_folding import Folding, FoldingError
from attention_transfer.capture.capture import Capture, as_logits
from attention_transfer.capture.eager_attention import WrittenOutAttention
from attention_transfer.capture.input_gradients import (
    can_be_differentiated,
    input_gradient,
    no_recomputation,
    twice_differentiable,
)
from attention_transfer.capture.isolation import Buffer, buffers_of, changed, kept, noise, own_buffers, undisturbed
from attention_transfer.capture.modes import Modes, set_mode
from attention_transfer.capture.opaque_modules import apart, closed_in, is_graph, uncompiled, why_closed
from attention_transfer.capture.output_activation import squashed_by
from attention_transfer.capture.output_layouts import Place, Places, find_places
from attention_transfer.capture.overridden_module import Changed
from attention_transfer.capture.patch_grid import Grid, Patch, fits, patch_grid
from attention_transfer.capture.reading import Reading
from attention_transfer.capture.recorder import Replacement
from attention_transfer.capture.same_noise import check_same_noise
from attention_transfer.capture.tap import CaptureError, Layout, Tap, spatial, token_grid
from attention_transfer.capture.uncompiled_calls import left_uncompiled

__all__ = [
    "Attention",
    "Buffer",
    "Capture",
    "CaptureError",
    "Changed",
    "Folding",
    "FoldingError",
    "FoundAttention",
    "Grid",
    "Layout",
    "Modes",
    "Patch",
    "Place",
    "Places",
    "Reading",
    "Replacement",
    "Tap",
    "WrittenOutAttention",
    "apart",
    "as_logits",
    "buffers_of",
    "can_be_differentiated",
    "changed",
    "check_same_noise",
    "closed_in",
    "find_attention",
    "find_places",
    "fits",
    "input_gradient",
    "is_graph",
    "kept",
    "left_uncompiled",
    "no_recomputation",
    "noise",
    "own_buffers",
    "patch_grid",
    "set_mode",
    "spatial",
    "squashed_by",
    "token_grid",
    "twice_differentiable",
    "uncompiled",
    "undisturbed",
    "why_closed",
]
