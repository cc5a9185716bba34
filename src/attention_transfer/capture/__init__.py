"""All reading of networks happens in this room: the only one with a hook."""

from attention_transfer.capture.attention import Attention
from attention_transfer.capture.batch_norm_folding import Folding
from attention_transfer.capture.capture import Capture
from attention_transfer.capture.isolation import Modes, noise, set_mode, undisturbed
from attention_transfer.capture.output_layouts import Places
from attention_transfer.capture.outputs import Images, LogitsAt, Where, as_logits
from attention_transfer.capture.reading import Provider, Reading, ReadNetwork
from attention_transfer.capture.recorder import Replacement
from attention_transfer.capture.tap import CaptureError, Layout, Tap, spatial

__all__ = [
    "Attention",
    "Capture",
    "CaptureError",
    "Folding",
    "Images",
    "Layout",
    "LogitsAt",
    "Modes",
    "Places",
    "Provider",
    "ReadNetwork",
    "Reading",
    "Replacement",
    "Tap",
    "Where",
    "as_logits",
    "noise",
    "set_mode",
    "spatial",
    "undisturbed",
]
