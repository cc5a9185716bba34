"""Bytes counted against bytes known."""

import torch

from attention_transfer.analysis.peak_memory import LiveTensors, peak_bytes

CPU = torch.device("cpu")
KILO = 1000  # bytes of 250 numbers


def test_tensors_count_for_as_long_as_anything_refers_to_them() -> None:
    held = torch.zeros(250)
    with LiveTensors([held]) as live:
        first = held + 1
        assert live.now == 2 * KILO
        view = first.view(25, 10)
        del first
        assert live.now == 2 * KILO  # the view keeps the storage
        second = view * 2
        assert live.now == 3 * KILO
        del view
        assert (live.now, live.peak) == (2 * KILO, 3 * KILO)
        live.restart()
        assert live.peak == 2 * KILO
        second.mul_(3)  # in place
        assert live.peak == 2 * KILO


def test_what_autograd_keeps_counts_until_the_backward_pass() -> None:
    weight = torch.ones(250, requires_grad=True)
    with LiveTensors([weight]) as live:
        loss = weight.exp().sum()  # the backward pass of exp needs its result
        assert live.now == 2 * KILO + 4
        loss.backward()
        assert live.now == 2 * KILO + 4  # the gradient is there, the result of exp is gone
        assert live.peak >= 3 * KILO
        del loss
        assert live.now == 2 * KILO


def test_several_names_of_one_storage_count_once() -> None:
    held = torch.zeros(250)
    with LiveTensors([held, held.view(5, 50), held[:10]]) as live:
        assert live.now == KILO


def test_the_peak_of_the_preparation_is_forgotten_and_what_it_leaves_counts() -> None:
    held = torch.zeros(250)
    left: list[torch.Tensor] = []

    def prepare() -> None:
        torch.zeros(250_000)
        left.append(held + 1)

    peak = peak_bytes([held], CPU, prepare, lambda: (held + 1) + 1)
    assert peak == 4 * KILO  # held, left, and two at once


def test_other_tensors_do_not_count() -> None:
    other = torch.zeros(10_000)
    assert peak_bytes([], CPU, lambda: None, lambda: other[:250] + 1) == KILO + 40_000  # read through a view
    assert peak_bytes([other], CPU, lambda: None, lambda: other[:250] + 1) == KILO + 40_000
    del other
    assert peak_bytes([], CPU, lambda: None, lambda: torch.zeros(250)) == KILO
