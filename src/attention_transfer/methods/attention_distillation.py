"""Attention distillation: the layers of a student look where the layers of the teacher look.

>>> AttentionDistillation(weight=3.0, head_match="mean").key
'attention-distillation'
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.capture import Attention
from attention_transfer.errors import InputError
from attention_transfer.methods.attention_maps.averages import Axis, averaged, check_same_in_all_layers, only_map
from attention_transfer.methods.attention_maps.cross_entropy import Form, attention_cross_entropy, tempered
from attention_transfer.methods.attention_maps.head_matching import (
    HeadMatching,
    LayerMixing,
    Matching,
    check_heads,
    chosen_heads,
    head_costs,
    select_heads,
)
from attention_transfer.methods.attention_maps.resampling import (
    check_same_tokens,
    check_same_windows,
    patch_grid,
    resampled,
    share_tokens,
)
from attention_transfer.methods.layers.layer_selection import Layers
from attention_transfer.methods.layers.maps import at_least_float32
from attention_transfer.methods.method import Method, Observed, Reads, Request, Term
from attention_transfer.methods.soft_targets import check_temperature
from attention_transfer.models.introspection.attention_layers import attention_layers
from attention_transfer.models.introspection.description import Description


@dataclass(frozen=True)
class AttentionDistillation(Method):
    """Attention distillation: cross-entropy between the attention maps of teacher and student, layer by layer.

    Section 3.2 of Li et al. (NeurIPS 2024, arXiv:2411.09702): Σ_layers mean over images, heads and queries of
    −Σ_key P_t log P_s, class token included. Maps are not made where they need not be (`attention_cross_entropy`).

    Args:
        weight: λ.
        target: `map`; or the `query`, `key` or `value` of each layer by their mean squared difference.
        temperature: divides the logits of both networks; there is no factor T².
        layers: which take part, and which are partners.
        first_heads: only the first so many heads.
        heads: only these heads, from 0; the same numbers in the teacher.
        head_reduction: `mean` over heads as the authors ran it and their λ belongs to, or `sum` as the paper says it.
        average: axes over which the teacher's maps are averaged after the softmax: the mean is the target of each
            example of the batch, each of the layers that are read, each head or each query (appendix of the paper).
        head_match: `same` pairs heads by number and wants as many in both networks. `mean` compares the averages over
            heads. `matched` finds a teacher head for each of the student's (Hungarian method on the first batch that is
            trained on). `mixed` learns a mixture of the teacher's heads for each, which starts at that matching.
        mix_layers: each layer of the student learns from a learned mixture of all layers of the teacher, which starts
            at its partner.
        resample: maps over other grids of patches are resampled; of other tokens before the patches the class token is
            kept.
        same_drop_path: the teacher runs in training mode and drops the same residuals as the student, as the authors
            ran it; for networks that are built alike.
        form: how the cross-entropy of maps is computed; all give the same.

    Raises:
        ValueError: for settings that contradict each other, or networks that do not fit.

    Departs from the paper: where a mixture is learned (`mixed`, `mix_layers`) the term is the Kullback-Leibler
    divergence, for the cross-entropy alone would seek the sharpest of the teacher's maps. Queries are compared as they
    are before any scaling. The student's attention dropout is not part of its map. Averages over examples are those of
    one process.
    """

    key: ClassVar[str] = "attention-distillation"
    reads_attention: ClassVar[bool] = True

    weight: float = 3.0
    target: Literal["map", "query", "key", "value"] = "map"
    temperature: float = 1.0
    layers: Layers = field(default_factory=Layers)
    first_heads: int | None = None
    heads: tuple[int, ...] | None = None
    head_reduction: Literal["mean", "sum"] = "mean"
    average: tuple[Axis, ...] = ()
    head_match: Literal["same", "mean", "matched", "mixed"] = "same"
    mix_layers: bool = False
    resample: bool = False
    same_drop_path: bool = False
    form: Form = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)
        check_heads(self.first_heads, self.heads)
        of_maps = [name for name in ("average", "mix_layers", "resample") if getattr(self, name)]
        of_maps += ["head_match"] if self.head_match != "same" else []
        if self.target != "map" and of_maps:
            raise InputError(f'{", ".join(of_maps)} can only be had with target="map", not "{self.target}"')
        if "heads" in self.average and self.head_match != "same":
            raise InputError(
                f'average over heads and head_match="{self.head_match}" are mutually exclusive: leave out one of them'
            )
        if "layers" in self.average and self.mix_layers:
            raise InputError("average over layers leaves nothing to mix: leave out mix_layers")
        if self._learns_target and self.form not in ("auto", "explicit"):
            raise InputError(f'a learned mixture of maps needs the form "explicit" (or "auto"), not "{self.form}"')

    @property
    def teacher_mode(self) -> Literal["eval", "train", "same noise"]:
        """In training with the same noise under `same_drop_path`, in evaluation otherwise."""
        return "same noise" if self.same_drop_path else "eval"

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Attention of the paired layers; of every layer of the teacher where layers are mixed."""
        if teacher is None:
            raise InputError("attention distillation needs a teacher")
        ours = attention_layers(student, "student", self.layers.student_modules)
        theirs = attention_layers(teacher, "teacher", self.layers.teacher_modules)
        chosen, partners = self.layers.pairs(ours, theirs)
        # Partners first; a mixture wants all of them besides.
        return Reads(Request(attention=partners + (theirs if self.mix_layers else ())), Request(attention=chosen))

    def check(self, teacher: Observed, student: Observed) -> None:
        """Refuse layers whose heads or tokens cannot be paired."""
        count = len(student.attention)
        partners, every = teacher.attention[:count], teacher.attention[count:]
        for i, (theirs, ours) in enumerate(zip(partners, student.attention, strict=True)):
            self._check(f"pair {i} of layers", theirs, ours)
        for i, theirs in enumerate(every):
            self._check(f"layer {i} of the teacher and layer 0 of the student", theirs, student.attention[0])
        if self.mix_layers or "layers" in self.average:
            what = "mix_layers" if self.mix_layers else "average over layers"
            check_same_in_all_layers(what, student.attention, teacher.attention)
        by_hand = sum(each.weights is not None for each in student.attention)
        if self.target == "map" and self.form == "auto" and by_hand:
            warnings.warn(
                f"{by_hand} of {count} layers of the student write their attention out by hand, so that only maps can "
                "be compared there, which are kept whole: memory grows with the square of the tokens. Take a network "
                'with fused attention, or say form="explicit" to have it so',
                stacklevel=2,
            )

    def parts(self, teacher: Observed, student: Observed) -> Matching | None:
        """Matching or mixing of heads, and mixing of layers, where settings ask for them."""
        count = len(student.attention)
        partners, every = teacher.attention[:count], teacher.attention[count:]
        heads = mixing = None
        if self.head_match in ("matched", "mixed"):
            pairs = zip(student.attention, partners, strict=True)
            sizes = {(len(self._heads(ours)), theirs.num_heads) for ours, theirs in pairs}
            if len(sizes) > 1:
                raise InputError(
                    f'head_match="{self.head_match}" wants the same number of heads in all layers of a network; choose '
                    "layers of one stage"
                )
            heads = HeadMatching(count, *sizes.pop(), mixed=self.head_match == "mixed")
        if self.mix_layers:
            mixing = LayerMixing(
                [next(i for i, each in enumerate(every) if each is partner) for partner in partners], len(every)
            )
        return Matching(heads, mixing) if heads or mixing else None

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The cross-entropy between the attention maps of each pair, averaged over layers."""
        del batch
        partners = teacher.attention[: len(student.attention)]
        if self.target != "map":
            pairs = zip(student.attention, partners, strict=True)
            distances = [self._vector_distance(ours, theirs) for ours, theirs in pairs]
        else:
            own, targets = self._maps(student.attention, partners, teacher.attention, cast(Matching | None, parts))
            distances = [self._distance(*pair) for pair in zip(own, targets, strict=True)]
        return {self.key: Term(torch.stack(distances).sum())}

    # ------------------------------------------------------------------ maps

    def _maps(
        self,
        student: Sequence[Attention],
        partners: Sequence[Attention],
        every: Sequence[Attention],
        parts: Matching | None,
    ) -> tuple[list[Attention], list[Attention]]:
        """What is compared: the student's calls, and their targets."""
        pairs = [self._fitted(ours, theirs) for ours, theirs in zip(student, partners, strict=True)]
        own, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        if parts is not None and parts.layers is not None:
            mixing, fitted = parts.layers, [self._fitted(student[0], theirs)[1] for theirs in every[len(student) :]]
            # Each map is made once, not once per layer of the student.
            maps = [only_map(each, each.map()) for each in fitted]
            targets = [mixing(i, maps) for i in range(len(own))]
        if self.head_match == "mean":
            own, targets = _mean_heads(own), _mean_heads(targets)
        elif parts is not None and parts.heads is not None:
            matching, fitted = parts.heads, list(zip(own, targets, strict=True))
            # torch's annotation of `disable` forgets that methods are bound.
            matching.find(lambda: [head_costs(*pair) for pair in fitted])  # pyright: ignore[reportCallIssue]
            targets = [matching(i, target) for i, target in enumerate(targets)]
        return own, averaged(targets, self.average) if self.average else targets

    def _fitted(self, ours: Attention, theirs: Attention) -> tuple[Attention, Attention]:
        """A layer of the student and one of the teacher over the same tokens, with the heads that take part."""
        if self.resample:
            ours, theirs = share_tokens(ours, theirs)
        if self._some_heads:
            ours = select_heads(ours, self._heads(ours))
            theirs = select_heads(theirs, self._heads(theirs)) if self.head_match == "same" else theirs
        ours, theirs = tempered(ours, self.temperature), tempered(theirs, self.temperature)
        return ours, resampled(theirs, ours) if self.resample else theirs

    def _distance(self, ours: Attention, theirs: Attention) -> Tensor:
        distance = attention_cross_entropy(ours, theirs, form=self.form)
        if self._learns_target:
            maps = theirs.map()
            distance = distance + torch.xlogy(maps, maps).sum(-1).mean()
        return distance * ours.num_heads if self.head_reduction == "sum" else distance

    # ------------------------------------------------------------------ query, key, value

    def _vector_distance(self, ours: Attention, theirs: Attention) -> Tensor:
        first, second = self._vectors(ours), self._vectors(theirs)
        distance = (first - second).square().mean()
        return distance * first.shape[1] if self.head_reduction == "sum" else distance

    def _vectors(self, attention: Attention) -> Tensor:
        found = getattr(attention, self.target)
        if not isinstance(found, Tensor):
            raise InputError(f'the {self.target} of a layer was not read, only its map: take target="map"')
        vectors = at_least_float32(found)
        if self._some_heads:
            vectors = vectors[:, self._heads(attention)]
        if self.target == "query":
            # Some networks scale queries before the call, some leave it to the call.
            return vectors * (attention.scale * sqrt(vectors.shape[-1]))
        return vectors

    # ------------------------------------------------------------------ what fits

    def _heads(self, attention: Attention) -> list[int]:
        return chosen_heads(self.first_heads, self.heads, attention.num_heads)

    @property
    def _some_heads(self) -> bool:
        return self.heads is not None or self.first_heads is not None

    @property
    def _learns_target(self) -> bool:
        return self.mix_layers or self.head_match == "mixed"

    def _check(self, where: str, theirs: Attention, ours: Attention) -> None:
        for role, attention in (("student", ours), ("teacher", theirs)):
            if role == "student" or self.head_match == "same":
                chosen_heads(self.first_heads, self.heads, attention.num_heads, f"{where}: the {role}")
        check_same_windows(where, ours, theirs)
        if self.target != "map":
            shapes = [tuple(self._vectors(attention).shape) for attention in (ours, theirs)]
            if shapes[0] != shapes[1]:
                raise InputError(
                    f"{where}: the student's {self.target} is {shapes[0]}, the teacher's {shapes[1]} (images, heads, "
                    'tokens, size); where they differ, take target="map" with head_match, resample or heads'
                )
            check_same_tokens(ours, theirs, where, 'take target="map" with resample')
            return
        if (
            ours.num_heads != theirs.num_heads
            and self.head_match == "same"
            and not self._some_heads
            and "heads" not in self.average
        ):
            raise InputError(
                f"{where}: the student has {ours.num_heads} heads, the teacher {theirs.num_heads}: set head_match to "
                '"mean", "matched" or "mixed", or choose heads that both have'
            )
        if self.resample:
            ours, theirs = share_tokens(ours, theirs)
            for attention in (ours, theirs):
                patch_grid(attention)
        else:
            check_same_tokens(ours, theirs, where)


def _mean_heads(attentions: Sequence[Attention]) -> list[Attention]:
    return [only_map(each, each.map().mean(1, keepdim=True)) for each in attentions]
