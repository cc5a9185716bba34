"""How much memory a device has, and which parts of methods ask for it."""

import os

import pytest
import torch
from torch import nn

from attention_transfer import Contrastive, Distiller
from attention_transfer.memory_budget import ChecksMemory, memory_of
from attention_transfer.methods.contrastive import memory_bank


@pytest.mark.skipif(not hasattr(os, "sysconf_names"), reason="this system does not say how much memory it has")
def test_main_memory_is_known_here() -> None:
    there = memory_of(torch.device("cpu"))
    assert there is not None
    assert there > 2**28


def test_a_bank_asks_for_the_memory_of_the_device_that_it_moves_to(
    small_pair: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Distiller(
        *small_pair, [Contrastive()], example=torch.empty(2, 3, 16, 16), train_labels=torch.arange(24) % 3
    )
    bank = built.parts["crd"]
    assert isinstance(bank, ChecksMemory)
    small = torch.device("meta")
    monkeypatch.setattr(memory_bank, "memory_of", lambda device: 20_000 if device == small else 2**40)
    bank.check_memory(64, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"meta has 0\.0191 MiB in all: use memory='queue'"):
        bank.check_memory(64, small)
