"""What a network gives at its modules, and how the tokens among it lie: found by running it and watching.

>>> from attention_transfer import build
>>> places = find_places(build("resnet8", 4), torch.empty(1, 3, 32, 32))
>>> assert isinstance(places, Places)
>>> places.outputs["layer2"].shapes[None][1:], places.outputs["layer2"].calls
((32, 16, 16), 1)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from attention_transfer.capture.isolation import noise, set_mode, undisturbed
from attention_transfer.capture.opaque_modules import uncompiled
from attention_transfer.capture.outputs import Images
from attention_transfer.capture.patch_grid import Grid
from attention_transfer.capture.recorder import Stop
from attention_transfer.capture.tap import Item, tensors_in
from attention_transfer.capture.token_order import Look, change

# Of the tokens, at most so many see a corner of an image while none has looked at another.
_LOCAL = 0.5
# Changes that are no more than this part of the largest come from rounding.
_ROUNDING = 1e-4
# As they are, changed everywhere, and in a corner.
_IMAGES = 3
# Images, channels, rows, columns.
_DIMENSIONS = 4


@dataclass(frozen=True)
class Tokens:
    """How so many tokens lie, before the first of them looks at another.

    Args:
        count: of all of them.
        prefix: how many of them come first and do not depend on the image.
        grid: rows and columns of the rest, row by row; None where they lie otherwise.
    """

    count: int
    prefix: int
    grid: Grid | None


@dataclass(frozen=True)
class Place:
    """What one module gives.

    Args:
        module: its path.
        shapes: of the tensors that it gives, by index or key; the key is None where it gives a tensor.
        calls: how often it runs in one forward pass.
    """

    module: str
    shapes: Mapping[Item, tuple[int, ...]]
    calls: int


@dataclass(frozen=True)
class Places:
    """What was seen of a network.

    Args:
        outputs: of its modules, in the order in which they ended.
        tokens: by their number.
        image: height and width of the images.
        images: how many there were.
    """

    outputs: Mapping[str, Place]
    tokens: Mapping[int, Tokens]
    image: tuple[int, int]
    images: int


def find_places(model: nn.Module, image: Images) -> Places | None:
    """What a network gives at its modules, and how its tokens lie.

    It is run in evaluation mode, without gradient, on noise that is changed here and there: a token that never changes
    is not of the image, and one that lies in a row and a column changes with them.

    Args:
        model: left as it was.
        image: of the shape, type and device of training, as this network receives it; its values are not looked at.

    Returns:
        None where the network cannot be run so; whoever runs it in earnest says why. None, too, for volumes and lists
        of images.
    """
    if not isinstance(image, Tensor) or image.ndim != _DIMENSIONS:
        return None
    base, other = noise(image[:1])[:2].split(1)
    height, width = base.shape[2:]
    corner = base.clone()
    rows, columns = ceil(height / 8), ceil(width / 8)
    corner[:, :, :rows, :columns] = other[:, :, :rows, :columns]
    watch = _Watch()
    try:
        with uncompiled(model), undisturbed(model), torch.no_grad():
            set_mode(model, False)
            watch.run(model, torch.cat([base, other, corner]))
            found = {}
            for count, (event, depends) in watch.local.items():
                prefix = int(depends.long().argmax())
                grid = None
                if bool(depends[prefix:].all()):
                    look = Look(partial(_value, model, event), base, other, prefix)
                    grid = look.grid(count - prefix, watch.grids)
                found[count] = Tokens(count, prefix, grid)
    except Exception:
        return None
    return Places(watch.places, found, (height, width), _IMAGES)


@dataclass
class _Watch:
    """Sees what every module takes and gives.

    Args:
        target: number of the value of three dimensions to stop at; None runs to the end.
    """

    target: int | None = None
    value: Tensor | None = None
    events: int = 0
    places: dict[str, Place] = field(default_factory=dict[str, Place])
    grids: list[Grid] = field(default_factory=list[Grid])
    local: dict[int, tuple[int, Tensor]] = field(default_factory=dict[int, tuple[int, Tensor]])

    def run(self, model: nn.Module, images: Tensor) -> None:
        handles = [
            handle
            for path, module in model.named_modules()
            if not isinstance(module, torch.jit.ScriptModule)
            for handle in (
                module.register_forward_pre_hook(self._takes),
                module.register_forward_hook(self._gives(path)),
            )
        ]
        try:
            model(images)
        except Stop:
            pass
        finally:
            for handle in handles:
                handle.remove()

    def _takes(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            self._see(args[0])

    def _gives(self, path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def see(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            given = dict(tensors_in(output))
            before = self.places.pop(path, None)
            shapes = {key: tuple(value.shape) for key, value in given.items()}
            self.places[path] = Place(path, shapes, 1 if before is None else before.calls + 1)
            for value in given.values():
                self._see(value)

        return see

    def _see(self, value: Tensor) -> None:
        if not value.is_floating_point():
            return
        if value.ndim == 4:
            _, first, second, third = value.shape
            self.grids += [(second, third), (first, second)]
        if value.ndim != 3:
            return
        self.events += 1
        if self.target is None:
            self._see_tokens(value)
        elif self.events == self.target:
            self.value = value
            raise Stop

    def _see_tokens(self, value: Tensor) -> None:
        if value.shape[0] != _IMAGES or value.shape[1] < 2 or value.shape[1] in self.local:
            return
        everywhere, corner = (change(value[index], value[0]) for index in (1, 2))
        seen = (corner > _ROUNDING * corner.max()).float().mean()
        if 0 < float(seen) <= _LOCAL:
            self.local[value.shape[1]] = self.events, everywhere > _ROUNDING * everywhere.max()


def _value(model: nn.Module, event: int, images: Tensor) -> Tensor | None:
    """The value of three dimensions with that number, of other images."""
    watch = _Watch(target=event)
    watch.run(model, images)
    return watch.value
