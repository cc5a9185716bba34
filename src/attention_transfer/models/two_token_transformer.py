"""A vision transformer of timm with a distillation token that timm itself cannot give it."""

from typing import Any, cast

import torch
from timm.layers.weight_init import trunc_normal_
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class _BesideTheFirst(nn.Identity):
    """Puts the second token of a network beside the first, where timm may drop patches, which these networks keep.

    Args:
        network: that it is a part of.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that no part counts as a part of itself.
        self._network = (network,)

    def forward(self, input: Tensor) -> Tensor:
        """All tokens."""
        token = cast(Any, self._network[0]).dist_token
        return torch.cat([input[:, :1], token.expand(len(input), -1, -1), input[:, 1:]], 1)


class DistilledVisionTransformer(VisionTransformer):
    """Any of timm's vision transformers with a class token, and beside it a second token with a head of its own.

    For those that are not timm's distilled DeiT with other sizes: with register tokens, CLIP's norms, parallel blocks
    or a convolutional stem. The token has no place; what its place would add is in itself. Logits are the mean of both
    heads' (Touvron et al., ICML 2021, arXiv:2012.12877, as in the authors' code).
    """

    dist_token: nn.Parameter
    head_dist: nn.Module

    @classmethod
    def of(cls, network: VisionTransformer) -> "DistilledVisionTransformer":
        """The same object, which now has a token and a head more, drawn at random.

        timm makes networks by their names alone, so one that is made becomes one of this class.

        Args:
            network: of timm's class itself, that classifies by its class token.
        """
        known = cast(Any, network)
        known.__class__ = cls
        known.num_prefix_tokens += 1
        known.dist_token = nn.Parameter(trunc_normal_(torch.empty_like(known.cls_token), std=0.02))
        head = known.head
        known.head_dist = nn.Identity()
        if isinstance(head, nn.Linear):
            known.head_dist = nn.Linear(head.in_features, head.out_features).to(head.weight)
        known.patch_drop = _BesideTheFirst(network)
        heads = {"classifier": ("head", "head_dist")}
        known.pretrained_cfg = known.default_cfg = {**known.pretrained_cfg, **heads}
        return cast(DistilledVisionTransformer, network)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits, or without the heads the mean of what they take."""
        by_class, by_teacher = (self.head_drop(self.fc_norm(token)) for token in (x[:, 0], x[:, 1]))
        if pre_logits:
            return (by_class + by_teacher) / 2
        return (self.head(by_class) + self.head_dist(by_teacher)) / 2

    def group_matcher(self, coarse: bool = False) -> Any:
        """Which of its parameters belong to which layer."""
        groups = super().group_matcher(coarse)
        return {**groups, "stem": f"{groups['stem']}|dist_token"}
