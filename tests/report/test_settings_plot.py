"""Accuracy is drawn over any setting in which finished runs differ."""

from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest
from tests.report.test_compare import write_run

from attention_transfer.cli import main
from attention_transfer.report.settings_plot import settings_figure
from attention_transfer.runs import find_runs


def copying(**layers: int | None) -> dict[str, Any]:
    return {"name": "attention-copy", "weight": 1.0, "layers": {"first": None, "last": None} | layers}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for seed, shift in ((0, 0.0), (1, 2.0)):
        write_run(folder / f"alone{seed}", seed, [40.0 + shift])
        write_run(folder / f"all{seed}", seed, [60.0 + shift], methods=(copying(),))
        for count in (2, 4):
            write_run(folder / f"first{count}{seed}", seed, [50.0 + count + shift], methods=(copying(first=count),))
            write_run(folder / f"last{count}{seed}", seed, [55.0 + count + shift], methods=(copying(last=count),))
    return folder


def kept(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that is saved from here on."""
    figures: list[Any] = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )
    return figures


def test_every_setting_is_a_line_and_other_runs_lie_across(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = kept(monkeypatch)
    settings_figure(find_runs([runs]), ["layers.first", "layers.last"], tmp_path / "plot.png")
    (ax,) = figures[0].axes
    lines = {container.get_label(): container.lines[0].get_xydata().tolist() for container in ax.containers}
    assert lines == {"layers.first": [[2, 53], [4, 55]], "layers.last": [[2, 58], [4, 60]]}
    names = ax.get_legend_handles_labels()[1]
    assert {"CE", "attention-copy"} < {name.partition(",")[0] for name in names}
    heights = {line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"}
    assert heights == {41.0, 61.0}


def test_the_command_draws_it(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", str(runs), "--over", "layers.first", "--plot", str(tmp_path / "plot.png")])
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert "plot: " in capsys.readouterr().out


def test_nothing_to_draw_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished run has a number for temperature"):
        settings_figure(find_runs([runs]), ["temperature"], tmp_path / "plot.png")
    with pytest.raises(ValueError, match=r"has weight and layers\.first: draw over one of them"):
        settings_figure(find_runs([runs]), ["weight", "layers.first"], tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()


def test_methods_have_lines_of_their_own_and_other_differences_are_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = kept(monkeypatch)
    for count in (2, 4):
        distilling = copying(first=count) | {"name": "attention-distillation"}
        write_run(tmp_path / f"other{count}", 0, [70.0 + count], methods=(distilling,))
    settings_figure(find_runs([runs, *tmp_path.glob("other*")]), ["layers.first"], tmp_path / "plot.png")
    lines = {each.get_label(): each.lines[0].get_ydata().tolist() for each in figures[0].axes[0].containers}
    assert lines == {"attention-copy, layers.first": [53, 55], "attention-distillation, layers.first": [72, 74]}
    both = (copying(first=2), copying(first=4) | {"name": "attention-distillation"})
    write_run(tmp_path / "both", 0, [1.0], methods=both)
    with pytest.raises(ValueError, match=r"both has several settings layers\.first: write more of the path"):
        settings_figure(find_runs([tmp_path / "both"]), ["layers.first"], tmp_path / "plot.png")
    write_run(tmp_path / "slower", 0, [1.0], methods=(copying(first=2),), optimisation={"learning_rate": 0.1})
    with pytest.raises(ValueError, match=r"two groups of runs have layers\.first=2"):
        settings_figure(find_runs([runs, tmp_path / "slower"]), ["layers.first"], tmp_path / "plot.png")


def test_one_flag_without_the_other_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs), "--over", "layers.first"]) != 0
    assert "give --over and --plot together" in capsys.readouterr().err
