"""Networks: ours by name, everybody's by library and name, and what can be read from any of them."""

from attention_transfer.models.build import TransformersClassifier, bare, build
from attention_transfer.models.introspection.attention_layers import attention_layers, with_attention
from attention_transfer.models.introspection.channels import check_channels
from attention_transfer.models.introspection.describe import describe, with_places
from attention_transfer.models.introspection.description import Description, Input, Stage
from attention_transfer.models.opening import OpenedModel, check_spec, open_model
from attention_transfer.models.pair import check_pair
from attention_transfer.models.preprocessing import Renormalise
from attention_transfer.models.saving import save_model
from attention_transfer.models.weight_files import WeightsError
from attention_transfer.models.weights import load_weights, read_weights
from attention_transfer.models.zoo.registry import MODELS

__all__ = [
    "MODELS",
    "Description",
    "Input",
    "OpenedModel",
    "Renormalise",
    "Stage",
    "TransformersClassifier",
    "WeightsError",
    "attention_layers",
    "bare",
    "build",
    "check_channels",
    "check_pair",
    "check_spec",
    "describe",
    "load_weights",
    "open_model",
    "read_weights",
    "save_model",
    "with_attention",
    "with_places",
]
