"""A description completed by what a network gives when it runs."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.capture import Places
from attention_transfer.capture.output_layouts import find_places
from attention_transfer.models.introspection.description import Description, Stage
from attention_transfer.models.introspection.layouts import suggested_layers, tap_seen


def with_places(description: Description, model: nn.Module, image: Float[Tensor, "b c h w"]) -> Description:
    """A network's description with the layout of its values as they were seen.

    Stages whose tokens lie in an order of their own are left out: no map can be made of them.

    Args:
        description: of the network.
        model: left as it was.
        image: of the shape, type and device of training, as this network receives it; its values are not looked at.
    """
    places = find_places(model, image)
    if places is None:
        return description
    stages = [_seen_stage(stage, places) for stage in description.stages]
    known = tuple(stage for stage in stages if stage is not None)
    return replace(description, stages=known, places=places, suggested=suggested_layers(places))


def _seen_stage(stage: Stage, places: Places) -> Stage | None:
    output = tap_seen(places, stage.output)
    if output is None:
        return None
    before = stage.pre_activation
    if before is not None:
        lies = {name: getattr(output, name) for name in ("layout", "prefix_tokens", "grid", "patch")}
        before = replace(before, **lies)
    return Stage(output, before)
