"""Attention maps of a network: activation, class activation (CAM), gradient, Grad-CAM and transformer attention.

>>> MapRequest(kinds=("activation", "gradient-cam"), stage=-2).power
2.0
>>> MapRequest(kinds=("gradcam",))
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: maps must be some of activation, class, gradient, gradient-cam, attention, ...
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from attention_transfer.analysis.subject import Subject
from attention_transfer.capture import Capture, Reading, Tap, noise, spatial, undisturbed
from attention_transfer.capture.input_gradients import input_gradient
from attention_transfer.data import DataSet, Split, loader
from attention_transfer.errors import InputError
from attention_transfer.methods.attention_maps.patch_attention import finest, on_one_grid, patch_attention
from attention_transfer.methods.layers.maps import attention_map, class_maps
from attention_transfer.models import describe
from attention_transfer.models.introspection.attention_layers import attention_layers, with_attention
from attention_transfer.models.introspection.class_maps import class_map_tap, prove_class_maps
from attention_transfer.models.introspection.description import Description

MapKind = Literal["activation", "class", "gradient", "gradient-cam", "attention"]
_OF_WHOLE_NETWORK = ("gradient", "attention")


@dataclass(frozen=True)
class MapRequest:
    """Kinds of attention maps, and their settings.

    Args:
        kinds: each at most once. `activation`: Σ|A|^p over the channels of a stage; `class`: the linear head over the
            features of one class, at every position; `gradient`: the length over the colours of ∂(cross-entropy)/
            ∂(image); `gradient-cam`: the channels of a stage weighted by their mean gradient of one class's logit, and
            what is negative of that left out; `attention`: what the class token of a transformer (without one, the mean
            query) takes from each patch, mean over all heads of all layers.
        stage: stage of `activation` and `gradient-cam`, counted from 0; negative from the end.
        power: exponent p of `activation`, at least 1.
        class_of: class that `class`, `gradient` and `gradient-cam` are about: the image's label (`true`), or the
            one with the highest logit (`predicted`).
        layer: for `class`: module whose globally averaged output the head takes, where it could not be determined.

    Raises:
        ValueError: for no kinds, one named twice, an unknown one, or a power below 1.
    """

    kinds: tuple[MapKind, ...] = ("activation",)
    stage: int = -1
    power: float = 2.0
    class_of: Literal["true", "predicted"] = "true"
    layer: str | None = None

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds) or not set(self.kinds) <= set(get_args(MapKind)):
            raise InputError(f"maps must be some of {', '.join(get_args(MapKind))}, each once, not {self.kinds}")
        if not 1 <= self.power < float("inf"):
            raise InputError(f"power must be at least 1, not {self.power}")


class MapReader:
    """Reads maps of one network, image by image; proves first that they can be read. `close()` leaves no trace.

    Class maps are those of Zhou et al. (CVPR 2016, arXiv:1512.04150), without the head's bias; Grad-CAM is that of
    Selvaraju et al. (ICCV 2017, arXiv:1610.02391); attention is averaged as in Jin & Choi (arXiv:2211.13852); the
    others are those of Zagoruyko & Komodakis (ICLR 2017, arXiv:1612.03928).

    Args:
        subject: the network and its images.
        request: which maps.

    Raises:
        ValueError: the network has no such stage, no attention that can be read, or is not of the form that class maps
            need.
    """

    def __init__(self, subject: Subject, request: MapRequest) -> None:
        self._request = request
        role = f"network {subject.name}"
        description = subject.opened.description
        of_stages: list[MapKind] = [kind for kind in request.kinds if kind not in _OF_WHOLE_NETWORK]
        self._taps = {kind: _tap(kind, description, request, role) for kind in of_stages}
        self._differentiates = bool({"gradient", "gradient-cam"} & set(request.kinds))
        self._weight: Float[Tensor, "k c"] | None = None
        side = subject.dataset.image_size
        example = subject.prepare(noise(torch.empty(2, 3, side, side, device=subject.place.device)))
        self._layers: tuple[Tap, ...] = ()
        if "attention" in request.kinds:
            self._layers = attention_layers(with_attention(description, subject.module, example, role), role)
        self._capture = Capture(subject.module, (*self._taps.values(), *self._layers), role)
        try:
            with undisturbed(subject.module):
                self._capture.probe(example, gradient=False)
                if "class" in self._taps:
                    assert description.head is not None
                    prove_class_maps(subject.module, self._taps["class"], description.head, example, role)
                    head = subject.module.get_submodule(description.head)
                    self._weight = head.get_parameter("weight").detach().flatten(1)
        except BaseException:
            self.close()
            raise

    def __call__(
        self, image: Float[Tensor, "b 3 h w"], label: Int64[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b k"], Mapping[MapKind, Float[np.ndarray, "b r c"]]]:
        """Logits of some images and their maps, each kind at its own resolution.

        Args:
            image: as the network expects them.
            label: class indices.
        """
        with torch.set_grad_enabled(self._differentiates):
            if self._differentiates:
                image = image.detach().requires_grad_()
            reading = self._capture.run(image)
            logits = reading.logits
            assert logits is not None
            chosen = label if self._request.class_of == "true" else logits.detach().argmax(1)
            maps: dict[MapKind, np.ndarray] = {}
            for kind in self._request.kinds:
                found = self._map(kind, reading, image, logits, chosen)
                maps[kind] = found.detach().float().cpu().numpy()
        return logits.detach(), maps

    def close(self) -> None:
        """Take every hook off the network."""
        self._capture.close()

    def _map(
        self, kind: MapKind, reading: Reading, image: Tensor, logits: Tensor, chosen: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b r c"]:
        if kind == "gradient":
            return input_gradient(logits, image, chosen, twice=False).norm(dim=1)
        if kind == "attention":
            layers = [patch_attention(reading.attention[tap], len(image)) for tap in self._layers]
            grid = finest(layers)
            return on_one_grid(layers, grid).mean(1).unflatten(1, grid)
        tap, values = self._taps[kind], reading.values
        features = reading.spatial(tap)
        if kind == "activation":
            return attention_map(features, self._request.power).unflatten(1, features.shape[2:])
        of_each = torch.arange(len(chosen), device=chosen.device)
        if kind == "class":
            assert self._weight is not None
            return class_maps(features, self._weight)[of_each, chosen]
        logit = logits[of_each, chosen].sum()
        (gradient,) = torch.autograd.grad(logit, values[tap], retain_graph=True)
        importance = spatial(gradient, tap, reading.image).mean((2, 3), keepdim=True)
        return (importance * features).sum(1).relu()


def _tap(kind: MapKind, description: Description, request: MapRequest, role: str) -> Tap:
    if kind == "class":
        return class_map_tap(description, role, request.layer)
    stages, stage = description.stages, request.stage
    if not stages:
        raise InputError(f"{kind} maps need the stages of {role}, which could not be determined: use gradient maps")
    if not -len(stages) <= stage < len(stages):
        raise InputError(f"{role} has {len(stages)} stages: give a stage from 0 to {len(stages) - 1}, not {stage}")
    return stages[stage].output


@torch.no_grad()
def stage_maps(model: nn.Module, dataset: DataSet, split: Split, stage: int = -1) -> Float[np.ndarray, "n h w"]:
    """Activation attention (F_sum², unit norm) of one stage of a network on a few images.

    Args:
        model: any network whose stages are detected.
        dataset: data set of the split, for its normalisation.
        split: images.
        stage: index of the stage; negative from the end.

    Raises:
        ValueError: if the network has no such stage.
    """
    stages = describe(model).stages
    if not -len(stages) <= stage < len(stages):
        raise InputError(f"the network has {len(stages)} stages; there is no stage {stage}")
    tap = stages[stage].output
    capture = Capture(model.eval(), [tap], "network")
    try:
        device = next(model.parameters()).device
        found: list[np.ndarray] = []
        for batch in loader(split, dataset, batch_size=len(split), train=False, device=device).epoch(0):
            value = capture.run(batch.image, until_last_tap=True).spatial(tap)
            maps = attention_map(value).unflatten(1, value.shape[2:])
            found.append(maps.float().cpu().numpy())
        return np.concatenate(found)
    finally:
        capture.close()
