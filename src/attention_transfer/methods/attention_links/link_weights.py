"""Trainable links from the attention maps of a transformer to the channels of a CNN, and the memory that they take."""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod, sqrt
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from attention_transfer.errors import InputError
from attention_transfer.memory_budget import memory_of
from attention_transfer.methods.attention_links.loss import Form, link_distance
from attention_transfer.methods.attention_links.selection import LinkChoice, LinkGroup, LinksError

Places = tuple[tuple[str, ...], tuple[str, ...]]
"""Where stages of a teacher, and where layers of a student, are read, in words."""

_LEARNED = ("weight", "bias")
_SAID = "places"


class Group(nn.Module):
    """Links between some channels of one stage and the heads of some layers: a 1×1 convolution with bias, Eq. 4.

    Args:
        group: channels and layers.
        num_channels: of the stage.
        heads: of each layer that is read, by its number, in the order in which the maps come.
    """

    def __init__(self, group: LinkGroup, num_channels: int, heads: Mapping[int, int]) -> None:
        super().__init__()
        every = [layer for layer, count in heads.items() for _ in range(count)]
        columns = [column for column, layer in enumerate(every) if layer in group.layers]
        channels = list(range(num_channels)) if group.channels is None else list(group.channels)
        self._columns, self._channels = _span(columns), _span(channels)
        # What each row and column of the weight stands for, for whoever reads it later.
        self.register_buffer("channel", torch.tensor(channels))
        self.register_buffer("layer", torch.tensor([every[column] for column in columns]))
        self.register_buffer("column", torch.tensor(columns), persistent=False)
        # As torch begins a convolution.
        bound = 1 / sqrt(len(columns))
        self.weight = nn.Parameter(torch.empty(len(channels), len(columns)).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(len(channels)).uniform_(-bound, bound))

    def forward(self, maps: Float[Tensor, "b n p"], stage: Float[Tensor, "b c p"], form: Form) -> Float[Tensor, ""]:
        """How far the combinations of maps are from the channels, summed over these.

        Args:
            maps: of all heads that are read.
            stage: all channels of the stage.
            form: as in `link_distance`.
        """
        linked = maps[:, self._columns or cast(Tensor, self.column)]
        target = stage[:, self._channels or cast(Tensor, self.channel)]
        return link_distance(linked, self.weight, self.bias, target, form)


class Links(nn.Module):
    """The links that exist between two networks, stage by stage; those that do not exist are not computed.

    Args:
        choice: which.
        channels: of each linked stage.
        heads: of each layer of the student.
        places: where each linked stage, and each layer of the student, is read, in words.

    Attributes:
        linked_stages: stages that have links, from 0.
        linked_layers: layers that have links, from 0.
        grid: rows and columns over which maps and channels are compared.
        bytes_per_image: that a step holds at once on their account.
        decays: whether weight decay wears them off.

    Weights of other links are refused with a `LinksError` when they are loaded: the file that chose these may have
    changed since those were learned.
    """

    grid: tuple[int, int] = (0, 0)
    bytes_per_image: int = 0
    decays: bool = True

    def __init__(
        self, choice: LinkChoice, channels: Sequence[int], heads: Sequence[int], places: Places = ((), ())
    ) -> None:
        super().__init__()
        self.linked_stages, self.linked_layers = choice.linked_stages, choice.linked_layers
        found = dict(zip(choice.linked_stages, channels, strict=True))
        # Of a stage that nothing is linked to none is read.
        self.register_buffer("channels", torch.tensor([found.get(number, 0) for number in range(len(choice.stages))]))
        self.register_buffer("heads", torch.tensor(heads))
        # A state dict holds tensors alone.
        written = torch.tensor(list(json.dumps(places).encode()), dtype=torch.uint8)
        self.register_buffer("places", written)
        read = {layer: heads[layer] for layer in choice.linked_layers}
        self.stages = nn.ModuleDict({
            str(number): nn.ModuleList(Group(group, count, read) for group in choice.stages[number])
            for number, count in found.items()
        })
        self.register_load_state_dict_pre_hook(_refuse_weights_of_other_links)

    def forward(self, maps: Float[Tensor, "b n p"], stages: Sequence[Float[Tensor, "b c p"]], form: Form) -> Tensor:
        """Distances of all groups, summed over channels.

        Args:
            maps: of all heads that are read.
            stages: channels of each linked stage.
            form: as in `link_distance`.
        """
        pairs = zip(self.stages.values(), stages, strict=True)
        found = [group(maps, stage, form) for groups, stage in pairs for group in cast(nn.ModuleList, groups)]
        return torch.stack(found).sum()

    def check_memory(self, images: int, device: torch.device) -> None:
        """Refuse a batch that no memory holds.

        Args:
            images: in it.
            device: where the step runs.

        Raises:
            ValueError: it needs more than the device has.
        """
        channels = [count for count in cast(Tensor, self.channels).tolist() if count]
        check_memory(self.bytes_per_image, images, device, channels)

    def no_weight_decay(self) -> set[str]:
        """Names of what is spared by the optimiser's weight decay, as timm's networks say it."""
        return set() if self.decays else {name for name, _ in self.named_parameters()}

    @property
    def groups(self) -> Iterator[Group]:
        """All groups of all stages."""
        for groups in self.stages.values():
            yield from cast("Iterator[Group]", iter(cast(nn.ModuleList, groups)))

    @property
    def num_channels(self) -> int:
        """Channels that are linked."""
        return sum(len(group.bias) for group in self.groups)

    @property
    def num_links(self) -> int:
        """Weights, without biases."""
        return sum(group.weight.numel() for group in self.groups)


def _refuse_weights_of_other_links(links: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Compare what rows and columns stand for: a weight of the same shape may belong to other layers."""
    # The same networks may spell their modules in another way since; these here are those that run.
    state[prefix + _SAID] = links.get_buffer(_SAID)
    own = {prefix + name: buffer for name, buffer in links.state_dict().items() if not name.endswith(_LEARNED)}
    given = {name: value for name, value in state.items() if name.startswith(prefix) and not name.endswith(_LEARNED)}
    if own.keys() != given.keys() or not all(torch.equal(own[name].cpu(), given[name].cpu()) for name in own):
        raise LinksError(
            "these weights were learned for links between other channels and layers than those that are chosen now: "
            "give the links that they were learned with (has the file changed since?), or train anew in another folder"
        )


def places_of(written: UInt8[Tensor, " n"]) -> Places:
    """What the buffer `places` says."""
    stages, layers = json.loads(bytes(written.tolist()))
    return tuple(stages), tuple(layers)


def _span(numbers: Sequence[int]) -> slice | None:
    """A stretch of numbers as a slice, which is a view; None where there are gaps."""
    first, last = numbers[0], numbers[-1]
    return slice(first, last + 1) if last - first + 1 == len(numbers) else None


# Of each channel over the student's patches: in float32, as they are resized and as they are put together for it.
_COPIES = 2
_FLOAT32 = 4
_GIGABYTE = 1e9


def bytes_of_links(stages: Sequence[Float[Tensor, "b c i j"]], grid: tuple[int, int]) -> int:
    """Bytes that a step holds at once for each image on account of its links.

    Args:
        stages: that are read of the teacher.
        grid: rows and columns to which they are resized.
    """
    kept = sum(prod(stage.shape[1:]) * stage.element_size() for stage in stages)
    return kept + sum(stage.shape[1] for stage in stages) * prod(grid) * _FLOAT32 * _COPIES


def check_memory(bytes_per_image: int, images: int, device: torch.device, channels: Sequence[int]) -> None:
    """Refuse links that no memory holds, before a step fails somewhere.

    Args:
        bytes_per_image: from `bytes_of_links`.
        images: in a batch.
        device: where everything lives.
        channels: of each stage that is read, for the message.

    Raises:
        ValueError: a batch needs more than the device has in all.
    """
    there, needed = memory_of(device), bytes_per_image * images
    if there is not None and needed > there:
        listed = ", ".join(map(str, channels))
        raise InputError(
            f"attention links over stages of {listed} channels hold {needed / _GIGABYTE:.1f} GB for a batch of "
            f"{images}, and {device} has {there / _GIGABYTE:.1f} GB in all: select some stages, such as the "
            "last one (stages=(-1,)), a coarser grid, or a smaller batch"
        )
