"""Older versions of torch run a compiled distiller as it is."""

import pytest
import torch
from torch import Tensor, nn

from attention_transfer.distiller import compiling


@pytest.mark.parametrize(
    ("version", "able"), [("2.8.0+cu128", False), ("2.9.1", False), ("2.10.0", True), ("2.15.0", True)]
)
def test_versions_are_compared_as_versions(monkeypatch: pytest.MonkeyPatch, version: str, able: bool) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert compiling.compiles() == able


@pytest.mark.parametrize("able", [False, True])
def test_a_step_is_compiled_where_it_can_be(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    monkeypatch.setattr(compiling, "compiles", lambda: able)

    class Module(nn.Module):
        @compiling.compiled_where_it_can_be
        def forward(self, x: Tensor) -> tuple[Tensor, bool]:
            return 2 * x, torch.compiler.is_compiling()

    torch.compiler.reset()
    value, compiled = torch.compile(Module(), backend="eager")(torch.ones(2))
    assert value.tolist() == [2, 2]
    assert compiled == able
