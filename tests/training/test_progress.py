"""Bars on a terminal, plain lines elsewhere."""

import io

from rich.console import Console

from attention_transfer.training.progress import Reporter

ROW = {
    "epoch": 2,
    "learning_rate": 0.05,
    "terms": {"at": {"raw": 0.0025, "weight": 1000.0, "weighted": 2.5}},
    "train": {"loss": 1.0, "top1": 50.0},
    "test": {"loss": 1.0, "top1": 40.0},
    "seconds": 3.0,
}


def shown(terminal: bool) -> str:
    text = io.StringIO()
    reporter = Reporter(Console(file=text, force_terminal=terminal, width=120, highlight=False), prefix="run: ")
    assert list(reporter.steps(range(5), 5, 0, "epoch 2/3")) == [0, 1, 2, 3, 4]
    reporter.epoch(ROW, 3)
    return text.getvalue()


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    assert "5/5" in shown(terminal=True)
    assert "\x1b[" in shown(terminal=True)


def test_a_file_gets_one_plain_line_per_epoch() -> None:
    text = shown(terminal=False)
    assert text == "run: epoch 2/3  lr 0.05  at 0.0025×1000  train 50.00 %  test 40.00 %  3 s\n"


def test_a_silent_reporter_says_nothing() -> None:
    text = io.StringIO()
    reporter = Reporter(Console(file=text), silent=True)
    assert list(reporter.steps(range(2), 2, 0, "epoch")) == [0, 1]
    reporter.line("hello")
    assert text.getvalue() == ""
