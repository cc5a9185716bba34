"""What `--compile` cannot do is refused."""

from pathlib import Path

import pytest

from attention_transfer import AttentionDistillation
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.progress import Reporter
from tests.training.conftest import Make

VIT = "timm:vit_tiny_patch16_224(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3)"


def test_networks_that_must_draw_the_same_numbers_are_not_compiled(make: Make, tmp_path: Path) -> None:
    methods = (AttentionDistillation(same_drop_path=True),)
    experiment = make(student=VIT, teacher=VIT, methods=methods, training={"compile": True})
    with pytest.raises(ValueError, match="has same_drop_path, and compiled networks need not draw the same numbers"):
        fit_experiment(experiment, tmp_path / "run", Reporter(silent=True))


def test_versions_of_torch_that_cannot_compile_are_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_transfer.training.refusals.compiles", lambda: False)
    with pytest.raises(ValueError, match=r"cannot compile a distiller: leave out --compile, or take torch 2\.1\d"):
        fit_experiment(make(training={"compile": True}), tmp_path / "run", Reporter(silent=True))
