"""`pretrain`, as a user types it."""

from pathlib import Path

import pytest
from tests.folders import unsplit
from tests.training.conftest import images

from attention_transfer.cli import main
from attention_transfer.commands.pretrain import command, parse
from attention_transfer.models import open_model
from attention_transfer.runs import RunFolder

__all__ = ["images"]

VIT = "timm:vit_tiny_patch16_224(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2)"


def test_flags_make_a_run_that_opens(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--data", f"npz:{images}", "--epochs", "1", "--batch-size", "16", "--threads", "1", "--device", "cpu"]
    flags += ["--warmup-epochs", "0"]
    command([VIT, *flags, "--mask-ratio", "0.5", "--decoder-width", "16", "--run-folder", str(folder)])
    assert RunFolder(folder).experiment["pretraining"]["mask_ratio"] == 0.5
    assert open_model(str(folder)).num_classes == 0


def test_the_rate_is_for_256_images_unless_it_is_given_for_the_batch() -> None:
    assert parse([VIT])[0].optimisation.learning_rate == pytest.approx(1.5e-4)
    scaled = parse([VIT, "--batch-size", "1024", "--base-learning-rate", "1e-3"])[0]
    assert scaled.optimisation.learning_rate == pytest.approx(4e-3)
    given = parse([VIT, "--batch-size", "1024", "--learning-rate=1e-3"])[0]
    assert given.optimisation.learning_rate == 1e-3
    with pytest.raises(ValueError, match="not both"):
        parse([VIT, "--learning-rate", "1e-3", "--base_learning_rate=1e-3"])


def test_the_defaults_are_those_of_the_paper_where_it_has_some() -> None:
    experiment, folder = parse([VIT, "--seed", "3"])
    optimisation = experiment.optimisation
    assert (optimisation.optimizer, optimisation.betas, optimisation.weight_decay) == ("adamw", (0.9, 0.95), 0.05)
    assert (optimisation.schedule, optimisation.cosine_after_warmup, optimisation.decay_norm_and_bias) == (
        "cosine",
        True,
        False,
    )
    assert experiment.data.augment == "random-resized-crop"
    assert experiment.pretraining is not None
    assert (experiment.pretraining.mask_ratio, experiment.pretraining.normalise_patches) == (0.75, True)
    name = "timm-vit-tiny-patch16-224-img-size-16-patch-size-4-embed-dim-24-depth-2-num-heads-2-seed3"
    assert folder == Path("runs", "masked-autoencoding", name)


def test_a_tiny_run_takes_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = "timm:vit_tiny_patch16_224(img_size=32, patch_size=4)"
    assert main(["pretrain", model, "--tiny", "--threads", "1", "--run-folder", str(tmp_path / "run")]) == 0
    assert "4 of 16 patches are seen" in capsys.readouterr().out


def test_a_tiny_run_reads_a_few_images_of_the_data_that_are_given(tmp_path: Path) -> None:
    name = unsplit(tmp_path / "images", a=30, b=30)
    model = "timm:vit_tiny_patch16_224(img_size=32, patch_size=4)"
    experiment, _ = parse([model, "--tiny", "--data", name])
    assert (experiment.data.name, experiment.data.image_size, experiment.data.train_sample) == (name, 64, 16)
    run = tmp_path / "run"
    assert main(["pretrain", model, "--tiny", "--data", name, "--threads", "1", "--run-folder", str(run)]) == 0
    # All images lie below a folder without parts, of which none is a test image.
    assert (RunFolder(run).summary or {})["samples_seen"] == 16


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet8", "--tiny"], "vision transformers of timm"),
        # Before data are fetched.
        (["timm:vit_none"], "unknown model 'timm:vit_none'"),
        ([VIT, "--mask-ratio", "1.5"], "mask_ratio must be 0 < r < 1"),
        ([VIT, "--epochs", "10"], "a warm-up of 10 epochs leaves nothing of 10: give fewer --warmup-epochs"),
        (["timm:vit_tiny_patch16_224(size=3)", "--tiny"], "'size' cannot be an argument"),
    ],
)
def test_bad_input_is_said_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["pretrain", *arguments, "--run-folder", str(tmp_path / "run")])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    captured = capsys.readouterr()
    assert words in captured.err + captured.out
