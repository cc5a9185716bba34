"""Hints in two stages, as a training runs them."""

from pathlib import Path

from attention_transfer import Data, Experiment, FitNet, SoftTargets, Training
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.progress import Reporter


def test_two_stages_train_to_the_end(tmp_path: Path, images: Path) -> None:
    experiment = Experiment(
        "test",
        "resnet8",
        "resnet14",
        methods=(FitNet(hint_epochs=1, hint_learning_rate=0.01), SoftTargets()),
        untrained_teacher=True,
        data=Data(f"npz:{images}"),
        training=Training(epochs=1, batch_size=8, threads=1, device="cpu"),
    )
    fit_experiment(experiment, tmp_path / "run", Reporter(silent=True))
    rows = RunFolder(tmp_path / "run").read_metrics()
    assert [row["phase"] for row in rows] == ["hint", "task"]
    assert rows[0]["learning_rate"] == 0.01
