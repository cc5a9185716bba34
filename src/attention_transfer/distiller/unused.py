"""Weights that a replacement leaves without use, and that weight decay would shrink all the same."""

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from attention_transfer.capture import Attention, Replacement, Tap


class UnusedRows:
    """Rows of the weights of attention layers that only made what is replaced, such as those of query and key.

    Found by differentiation: a row is unused if the layer's own query, key and value depend on it, and what is computed
    in their place does not. Nothing is assumed of how a network makes its queries.

    Args:
        model: the student.
        attention: its own calls, with their graph.
        replaced: what is computed instead.
    """

    def __init__(
        self, model: nn.Module, attention: Mapping[Tap, Attention], replaced: Mapping[Tap, Replacement]
    ) -> None:
        self.rows: dict[str, Bool[Tensor, ...]] = {}
        self._kept: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        for tap, own in attention.items():
            function = replaced.get(tap)
            if function is None or isinstance(function, Tensor):
                continue
            module = model.get_submodule(tap.module)
            named = {f"{tap.module}.{name}": p for name, p in module.named_parameters() if p.requires_grad}
            mattered, matters = _rows(own, named), _rows(function(own), named)
            for name, parameter in named.items():
                unused = mattered[name] & ~matters[name]
                if unused.any():
                    self.rows[name] = unused
                    self._kept.append((parameter, unused, parameter.detach()[unused].clone()))

    @torch.no_grad()
    def restore(self) -> None:
        """Give the rows the values that they had when this was made, or last remembered."""
        for parameter, rows, values in self._kept:
            parameter[rows.to(parameter.device)] = values.to(parameter)

    def remember(self) -> None:
        """Take the values that the rows have now as those to restore: after weights were loaded."""
        self._kept = [
            (parameter, rows, parameter.detach()[rows.to(parameter.device)].clone())
            for parameter, rows, _ in self._kept
        ]


def _rows(attention: Attention, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Which rows of each parameter a call depends on."""
    tensors = [attention.query, attention.key, attention.value, attention.weights, attention.bias]
    generator = torch.Generator().manual_seed(0)
    sums = [
        (tensor * torch.rand(tensor.shape, generator=generator).to(tensor)).sum()
        for tensor in tensors
        if tensor is not None and tensor.requires_grad
    ]
    if not sums:
        return {name: torch.zeros(len(p), dtype=torch.bool, device=p.device) for name, p in named.items()}
    total = torch.stack([each.float() for each in sums]).sum()
    gradients = torch.autograd.grad(total, list(named.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros(len(p), dtype=torch.bool, device=p.device)
        if gradient is None
        else gradient.reshape(len(p), -1).abs().amax(1) > 0
        for (name, p), gradient in zip(named.items(), cast("tuple[Tensor | None, ...]", gradients), strict=True)
    }
