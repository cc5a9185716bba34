"""Where a trained network looks, as pictures need it."""

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from attention_transfer.capture import Capture
from attention_transfer.data import DataSet, Split, loader
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import attention_map
from attention_transfer.models import describe


@torch.no_grad()
def stage_maps(model: nn.Module, dataset: DataSet, split: Split, stage: int = -1) -> Float[np.ndarray, "n h w"]:
    """Activation attention (F_sum², unit norm) of one stage of a network on a few images.

    Args:
        model: any network whose stages are found.
        dataset: that the split belongs to, for its normalisation.
        split: images.
        stage: which stage, negative from the end.

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
