"""Attention links: the heads of a transformer look where the channels of a convolutional network respond.

>>> AttentionLinks(links="full").key
'attention-links'
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.capture import Attention, Tap
from attention_transfer.errors import InputError
from attention_transfer.methods.attention_links.link_weights import Links, Places, bytes_of_links
from attention_transfer.methods.attention_links.loss import Form, resized
from attention_transfer.methods.attention_links.selection import chosen_links
from attention_transfer.methods.attention_maps.patch_attention import Softmax, finest, on_one_grid, patch_attention
from attention_transfer.methods.layers.stage_selection import stage_taps
from attention_transfer.methods.method import Method, Observed, Reads, Request, Term
from attention_transfer.models.introspection.attention_layers import attention_layers
from attention_transfer.models.introspection.description import Description
from attention_transfer.models.introspection.layouts import such_as
from attention_transfer.schedule import Schedule


@dataclass(frozen=True)
class AttentionLinks(Method):
    """Adaptive attention links: learned combinations of a transformer's attention maps become a CNN's channels.

    Eq. 3 to 5 of Jin & Choi (arXiv:2211.13852). Each channel of the teacher's stages, resized to the student's patches,
    is compared with a combination Σ w·A + b of the student's maps, both of unit norm. A is what the class token of one
    head takes from each patch. The links w, b are learned with the student and thrown away after training. The teacher
    may have any classes: its head is not run.

    Args:
        weight: λ.
        schedule: of λ; by default × 0.99 per epoch for 200 epochs, then × 0.98.
        links: `full` links every stage to every layer; `alpha` and `beta` are those of the paper's Table 1, for
            EfficientNet-B3 and twelve layers; stages with their layers, both counted from 1, as `1:1-3,2:1-2+5`; or a
            file that `attention-transfer links` wrote.
        softmax: over the `patches` alone, as Eq. 3 is printed, or over `all` tokens, as the network computes it.
        scaled: whether logits are divided by √d, as the network and Eq. 2 have it; Eq. 3 is printed without.
        form: `mean-square` is the mean over positions of the squared difference, which the text says and λ belongs to;
            `norm` the L2 norm that Eq. 5 prints.
        channel_reduction: `mean` over channels, or `sum`.
        activation: `pre` reads the teacher's stages after their last norm and before the activation that follows it,
            `post` as the next stage receives them; `auto` is `pre`, and `post` for networks without norms.
        align_corners: of the bicubic resize.
        antialias: whether what becomes smaller is averaged by the resize.
        grid: rows and columns over which all is compared; None takes the student's patches, in a pyramid those of its
            finest linked layer.
        decay_links: whether the optimiser's weight decay wears links off as it does other weights; if not, they are
            spared where norms and biases are (`decay_norm_and_bias`).
        stages: which top-level stages of the teacher, counted from 0, negative from the end; None takes all. One that
            small images leave a single position says nothing of where (a bias alone fits it): leave it out.
        teacher_layers: module paths in the teacher, instead of stages; their outputs are read, with `pre` their inputs.
        student_layers: module paths of attention in the student; None takes all its layers.

    Raises:
        ValueError: for settings that contradict each other, links of another pair, or networks that do not fit.

    Departs from the paper: logits are divided by √d, since what is regularised is then the attention that the network
    computes (`scaled`). Maps over coarser patches are resized to the finest, keeping their sum; the paper does not say
    how it treats pyramids. Students without a class token are read by their mean query, which the paper does not have.
    """

    key: ClassVar[str] = "attention-links"
    reads_attention: ClassVar[bool] = True
    smaller_teacher: ClassVar[bool] = True

    weight: float = 2000.0
    schedule: Schedule = field(default_factory=lambda: Schedule(decay=((0, 0.99), (200, 0.98))))
    links: str = "full"
    softmax: Softmax = "patches"
    scaled: bool = True
    form: Form = "mean-square"
    channel_reduction: Literal["mean", "sum"] = "mean"
    activation: Literal["auto", "pre", "post"] = "auto"
    align_corners: bool = False
    antialias: bool = False
    grid: tuple[int, int] | None = None
    decay_links: bool = True
    stages: tuple[int, ...] | None = None
    teacher_layers: tuple[str, ...] = ()
    student_layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid is not None and min(self.grid) < 2:
            raise InputError(f"grid must be at least 2 rows and 2 columns, not {self.grid}")
        if self.stages is not None and (self.teacher_layers or not self.stages):
            raise InputError("give either stages (at least one) or teacher_layers")

    def resolved(self, teacher: Description | None, student: Description) -> "AttentionLinks":
        """With its stages by number."""
        del student
        if teacher is None or self.teacher_layers or self.stages is not None:
            return self
        return replace(self, stages=tuple(range(len(teacher.stages))) or None)

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Stages of the CNN that are linked, and the student's attention layers."""
        if teacher is None:
            raise InputError("attention links need a teacher, such as a convolutional network with its weights")
        layers = attention_layers(student, "student", self.student_layers)
        stages = self._stage_taps(teacher)
        _refuse_twice("teacher", stages)
        _refuse_twice("student", layers)
        choice = chosen_links(self.links, len(stages), len(layers))
        choice.check_places(*_places(stages, layers))
        return Reads(Request(tuple(stages[number] for number in choice.linked_stages)), Request(attention=layers))

    def parts(self, teacher: Observed, student: Observed) -> Links:
        """One weight for each link between an attention head and a channel."""
        assert student.logits is not None
        images, device = len(student.logits), student.logits.device
        # Only stages that are linked are read.
        num_stages = len(self.teacher_layers) or len(self.stages or ())
        choice = chosen_links(self.links, num_stages, len(student.attention))
        channels = [stage.shape[1] for stage in teacher.features]
        heads = [attention.num_heads for attention in student.attention]
        choice.check_sizes(channels, heads)
        links = Links(choice, channels, heads, _places(teacher.taps, student.taps))
        with torch.no_grad():
            maps = self._maps(student.attention, links, images)
        links.to(maps[0].dtype)
        links.grid, links.decays = self.grid or finest(maps), self.decay_links
        if min(links.grid) < 2:
            raise InputError(
                f"the student has a grid of {links.grid[0]}×{links.grid[1]} patches: where a map has so few positions, "
                "nothing can be learned from its unit norm; take larger images, smaller patches, or layers with more "
                "patches by student_layers"
            )
        links.bytes_per_image = bytes_of_links(teacher.features, links.grid)
        links.check_memory(images, device)
        return links

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The distance between combined attention maps and the linked channels."""
        assert isinstance(parts, Links)
        maps = on_one_grid(self._maps(student.attention, parts, len(batch.image)), parts.grid)
        with torch.no_grad():
            stages = resized(teacher.features, parts.grid, align_corners=self.align_corners, antialias=self.antialias)
        distance = parts(maps, stages, self.form)
        return {self.key: Term(distance if self.channel_reduction == "sum" else distance / parts.num_channels)}

    def _maps(self, layers: Sequence[Attention], links: Links, images: int) -> list[Float[Tensor, "b h r c"]]:
        linked = (layers[number] for number in links.linked_layers)
        return [patch_attention(layer, images, self.softmax, scaled=self.scaled) for layer in linked]

    def _stage_taps(self, teacher: Description) -> tuple[Tap, ...]:
        if self.teacher_layers:
            site = "input" if self.activation == "pre" else "output"
            return tuple(teacher.tap(layer, site) for layer in self.teacher_layers)
        if not teacher.stages:
            raise InputError(
                "no stages were found in the teacher: name modules of it with teacher_layers"
                f"{such_as(teacher.suggested)}"
            )
        outputs = stage_taps(teacher, "teacher", "post", self.stages)
        if self.activation == "post" or (self.activation == "auto" and not teacher.normalised):
            return outputs
        before = {stage.output: stage.pre_activation for stage in teacher.stages}
        unknown = [tap.module for tap in outputs if before[tap] is None]
        if unknown:
            raise InputError(
                f"where the teacher's stages {', '.join(unknown)} are between their last norm and the activation that "
                'follows it is not known: take activation="post", which reads them after it, or name modules with '
                "teacher_layers"
            )
        return tuple(before[tap] or tap for tap in outputs)


def _places(stages: Sequence[Tap], layers: Sequence[Tap]) -> Places:
    """Where both are, in words; of attention the layer, however it is read there."""
    inner = [tap.module.rpartition(".")[0] if tap.site == "map" else tap.module for tap in layers]
    return tuple(map(str, stages)), tuple(inner)


def _refuse_twice(role: str, taps: Sequence[Tap]) -> None:
    """Refuse a place that is named twice: its links would be learned and counted twice."""
    twice = sorted({str(tap) for tap in taps if taps.count(tap) > 1})
    if twice:
        raise InputError(f"{', '.join(twice)} of the {role} is chosen more than once: name each place once")
