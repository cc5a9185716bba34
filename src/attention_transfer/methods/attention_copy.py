"""Attention copy: the student computes with the teacher's attention in place of its own.

>>> from attention_transfer.methods.layers.layer_selection import Layers
>>> AttentionCopy(layers=Layers(first=6)).key
'attention-copy'
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.capture import Attention, Replacement, Tap
from attention_transfer.errors import InputError
from attention_transfer.methods.attention_maps.averages import Axis, averaged, check_same_in_all_layers, only_map
from attention_transfer.methods.attention_maps.head_matching import (
    HeadMatching,
    check_heads,
    chosen_heads,
    in_turn,
    select_heads,
)
from attention_transfer.methods.attention_maps.resampling import (
    check_same_tokens,
    check_same_windows,
    class_tokens,
    keep_prefix,
    patch_grid,
    resampled,
    same_prefix,
)
from attention_transfer.methods.layers.layer_selection import Layers
from attention_transfer.methods.method import Method, Observed, Reads, Request, Term
from attention_transfer.models.introspection.attention_layers import attention_layers
from attention_transfer.models.introspection.description import Description


@dataclass(frozen=True)
class AttentionCopy(Method):
    """Attention copy: each layer of the student applies the teacher's attention map to values of its own.

    Section 3.1 of Li et al. (NeurIPS 2024, arXiv:2411.09702): A_T·V_S in place of A_S·V_S. Nothing is added to the
    loss; the student learns values, projections and everything between the layers. The teacher is needed for as long as
    the student is used, at test time too.

    Args:
        weight: only 1, for there is no term that it could multiply.
        schedule: only the constant one, for the same reason.
        target: what is copied: the `map`, or only its `query` (softmax(Q_T K_Sᵀ)), its `key`, or the `value`
            (section 4.2 there).
        layers: which take part, and which are partners; the others keep their own attention.
        first_heads: only the first so many heads; the others stay the student's (section 4.1 there).
        heads: only these heads, from 0; the same numbers in the teacher.
        average: axes over which the teacher's maps are averaged after the softmax; as in attention distillation.
        head_match: `same` pairs heads by number and wants as many in both networks. `mean` gives every head of the
            student the teacher's mean. `spread` gives them the teacher's heads in turn, evenly. `mixed` learns a
            mixture of the teacher's heads for each, which starts there.
        resample: maps over other grids of patches are resampled; where the tokens before the patches differ, the
            student may have a class token or none, and what else the teacher has is left out.
        same_drop_path: the teacher runs in training mode and drops the same residuals as the student, as the authors
            ran it; for networks that are built alike.

    Query and key of a student whose map is copied receive no gradient. Where they share a matrix with the values,
    weight decay shrinks them all the same, as it did for the authors; `Optimisation.hold_without_gradient` prevents it.

    Raises:
        ValueError: for settings that contradict each other, or networks that do not fit.

    Departs from the paper: other numbers of heads, other grids and other tokens, of which it has none. Where query, key
    and scale are known the map is never made: torch's fused kernel computes A_T·V_S from the teacher's query and key.
    """

    key: ClassVar[str] = "attention-copy"
    reads_attention: ClassVar[bool] = True

    target: Literal["map", "query", "key", "value"] = "map"
    layers: Layers = field(default_factory=Layers)
    first_heads: int | None = None
    heads: tuple[int, ...] | None = None
    average: tuple[Axis, ...] = ()
    head_match: Literal["same", "mean", "spread", "mixed"] = "same"
    resample: bool = False
    same_drop_path: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight != 1 or not self.schedule.constant:
            raise InputError(
                f"{self.key} adds no term to the loss, so that weight={self.weight} and a schedule of it would have no "
                "effect: leave them out"
            )
        check_heads(self.first_heads, self.heads)
        of_maps = [name for name in ("average", "resample") if getattr(self, name)]
        of_maps += ["head_match"] if self.head_match != "same" else []
        if self.target != "map" and of_maps:
            raise InputError(f'{", ".join(of_maps)} can only be had with target="map", not "{self.target}"')
        if "heads" in self.average and self.head_match != "same":
            raise InputError(
                f'average over heads and head_match="{self.head_match}" are mutually exclusive: leave out one of them'
            )

    @property
    def teacher_mode(self) -> Literal["eval", "train", "same noise"]:
        """In training with the same noise under `same_drop_path`, in evaluation otherwise."""
        return "same noise" if self.same_drop_path else "eval"

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Attention of the paired layers of both networks."""
        if teacher is None:
            raise InputError("attention copy needs a teacher")
        ours, theirs = self.layers.pairs(
            attention_layers(student, "student", self.layers.student_modules),
            attention_layers(teacher, "teacher", self.layers.teacher_modules),
        )
        return Reads(Request(attention=theirs), Request(attention=ours))

    def check(self, teacher: Observed, student: Observed) -> None:
        """Refuse layers whose heads or tokens cannot be paired."""
        for i, (theirs, ours) in enumerate(zip(teacher.attention, student.attention, strict=True)):
            self._check(f"pair {i} of layers", theirs, ours)
        if "layers" in self.average:
            check_same_in_all_layers("average over layers", student.attention, teacher.attention)

    def parts(self, teacher: Observed, student: Observed) -> nn.Module | None:
        """A learned mixture of heads, under `head_match="mixed"`."""
        if self.head_match != "mixed":
            return None
        pairs = list(zip(teacher.attention, student.attention, strict=True))
        sizes = {(ours.num_heads, theirs.num_heads) for theirs, ours in pairs}
        if len(sizes) > 1:
            raise InputError('head_match="mixed" wants the same number of heads in all layers of a network')
        mixing = HeadMatching(len(pairs), *sizes.pop(), mixed=True)
        mixing.order.copy_(in_turn(mixing.order.shape[1], mixing.teacher_heads).expand_as(mixing.order))
        return mixing

    def replace(self, teacher: Observed, reads: Reads, parts: nn.Module | None) -> Mapping[Tap, Replacement]:
        """The teacher's queries and keys, or its map, in place of the student's, layer by layer."""
        given = _Given(self, teacher.attention)
        return {
            tap: self._answer(given, i, cast(HeadMatching | None, parts))
            for i, tap in enumerate(reads.student.attention)
        }

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """None: the student computes with what it was given, and learns by the task alone."""
        del batch, teacher, student, parts
        return {}

    # ------------------------------------------------------------------ one layer

    def _answer(self, given: "_Given", layer: int, mixing: HeadMatching | None) -> Callable[[Attention], Attention]:
        def answer(own: Attention) -> Attention:
            if self.target != "map":
                return self._with_vectors(own, given.calls[layer])
            return self._with_map(own, self._in_heads_of(own, given.fitted(layer, own), layer, mixing))

        return answer

    def in_tokens_of(self, own: Attention, theirs: Attention) -> Attention:
        """The teacher's call over the student's tokens, with the heads that are averaged."""
        if self.resample:
            theirs = resampled(keep_prefix(theirs, own.prefix_tokens), own)
        if "heads" in self.average and self._some_heads:
            theirs = select_heads(theirs, chosen_heads(self.first_heads, self.heads, theirs.num_heads))
        return theirs

    def _in_heads_of(self, own: Attention, theirs: Attention, layer: int, mixing: HeadMatching | None) -> Attention:
        """The teacher's call with as many heads as the student has."""
        if self.head_match == "mean":
            return only_map(theirs, theirs.map().mean(1, keepdim=True))
        if self.head_match == "spread":
            order = in_turn(own.num_heads, theirs.num_heads)
            return only_map(theirs, theirs.map()[:, order])
        return theirs if mixing is None else mixing(layer, theirs)

    def _with_map(self, own: Attention, theirs: Attention) -> Attention:
        """The student's values under the teacher's map, in the heads that are copied."""
        copied = self._copied(own)
        if copied is None and theirs.weights is None and own.weights is None:
            return replace(own, query=theirs.query, key=theirs.key, scale=theirs.scale, bias=theirs.bias)
        foldable = theirs.query is not None and own.query is not None and theirs.bias is None and own.bias is None
        if copied is not None and foldable and _alike(own, theirs):
            assert theirs.query is not None
            query = _chosen(copied, theirs.query * (theirs.scale / own.scale), own.query)
            return replace(own, query=query, key=_chosen(copied, theirs.key, own.key))
        # What was averaged away has size 1.
        weights = theirs.map().expand(own.shape)
        if copied is not None:
            weights = _chosen(copied, weights, own.map())
        return replace(own, query=None, key=None, bias=None, weights=weights)

    def _with_vectors(self, own: Attention, theirs: Attention) -> Attention:
        copied, vectors = self._copied(own), getattr(theirs, self.target)
        if self.target == "query":
            # Some networks scale queries before the call, some leave it to the call.
            vectors = vectors * (theirs.scale / own.scale)
        mine = getattr(own, self.target)
        return replace(own, **{self.target: vectors if copied is None else _chosen(copied, vectors, mine)})

    def _copied(self, own: Attention) -> Tensor | None:
        """Which heads are copied, as a mask; None for all."""
        if not self._some_heads:
            return None
        mask = torch.zeros(own.num_heads, dtype=torch.bool)
        mask[chosen_heads(self.first_heads, self.heads, own.num_heads)] = True
        tensor = own.query if own.query is not None else own.weights
        assert tensor is not None
        return mask.to(tensor.device)[:, None, None]

    @property
    def _some_heads(self) -> bool:
        return self.first_heads is not None or self.heads is not None

    def _check(self, where: str, theirs: Attention, ours: Attention) -> None:
        chosen_heads(self.first_heads, self.heads, ours.num_heads, f"{where}: the student")
        if self.head_match == "same":
            chosen_heads(self.first_heads, self.heads, theirs.num_heads, f"{where}: the teacher")
        check_same_windows(where, ours, theirs)
        if self.target != "map":
            wanted, given = getattr(ours, self.target), getattr(theirs, self.target)
            if wanted is None or given is None:
                raise InputError(f'{where}: only a map can be read there, not its {self.target}: take target="map"')
            if wanted.shape != given.shape:
                raise InputError(
                    f"{where}: the student's {self.target} is {tuple(wanted.shape)}, the teacher's "
                    f"{tuple(given.shape)} (images, heads, tokens, size); copying it wants equal networks: take "
                    'target="map"'
                )
            check_same_tokens(ours, theirs, where, 'take target="map" with resample')
            return
        if ours.num_heads != theirs.num_heads and self.head_match == "same" and "heads" not in self.average:
            raise InputError(
                f"{where}: the student has {ours.num_heads} heads, the teacher {theirs.num_heads}: set head_match to "
                '"mean", "spread" or "mixed"'
            )
        if self.resample:
            kept = min(class_tokens(ours), class_tokens(theirs))
            if not same_prefix(ours, theirs) and kept != ours.prefix_tokens:
                raise InputError(
                    f"{where}: the student has {ours.prefix_tokens} tokens before its patches, the teacher "
                    f"{theirs.prefix_tokens}, {kept} of them the same, which says nothing about where the others "
                    "should look; use a student without them"
                )
            for attention in (ours, theirs):
                patch_grid(attention)
        else:
            check_same_tokens(ours, theirs, where)


class _Given:
    """The teacher's calls of one step, fitted to the student's when these come.

    Their tokens must be known before maps can be averaged.
    """

    def __init__(self, method: AttentionCopy, calls: Sequence[Attention]) -> None:
        self.method, self.calls = method, calls
        self.of_all_layers: Attention | None = None

    def fitted(self, layer: int, own: Attention) -> Attention:
        """What one layer of the student is given."""
        axes = self.method.average
        if "layers" not in axes:
            theirs = self.method.in_tokens_of(own, self.calls[layer])
            return averaged([theirs], axes)[0] if axes else theirs
        if self.of_all_layers is None:
            # The same for all layers, whose tokens are the same.
            self.of_all_layers = averaged([self.method.in_tokens_of(own, each) for each in self.calls], axes)[0]
        return self.of_all_layers


def _alike(own: Attention, theirs: Attention) -> bool:
    """Whether queries and keys of both can lie in one tensor."""
    assert own.query is not None
    assert theirs.query is not None
    return own.query.shape == theirs.query.shape


def _chosen(mask: Tensor, theirs: Tensor | None, own: Tensor | None) -> Tensor:
    assert theirs is not None
    assert own is not None
    return torch.where(mask, theirs.to(own.dtype), own)
