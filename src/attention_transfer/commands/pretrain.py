"""`pretrain MODEL [flags]`: masked autoencoding."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, cast

import tyro

from attention_transfer.commands.flags.parsing import parsed
from attention_transfer.commands.train import names_data
from attention_transfer.errors import InputError
from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.pretraining import MaskedAutoencoding

RECIPE = "masked-autoencoding"
_RATE_FOR = 256  # images, as the paper states its rate


@dataclass(frozen=True)
class Flags:
    """Pre-train a vision transformer of timm without labels, by masked autoencoding.

    The run folder opens as a model: as teacher for its attention or features, or as a student's start.

    Args:
        model: timm:NAME, with arguments in parentheses where wanted, as in 'timm:vit_tiny_patch16_224(img_size=32,
            patch_size=4)', and with @FILE or @pretrained behind it to go on from weights; or a run folder.
        base_learning_rate: at its peak, for 256 images; --learning-rate gives it for the batch as it is.
        seed: of everything that is random.
        run_folder: where the run is kept; runs/masked-autoencoding/MODEL-seedN if not given. Giving the folder of an
            interrupted run goes on with it.
        tiny: shrink everything so that it runs in seconds, to see whether it runs: on a few images of --data, or on
            digits where it is not given.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    pretraining: Annotated[MaskedAutoencoding, tyro.conf.arg(name="")] = field(default_factory=MaskedAutoencoding)
    data: Annotated[Data, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Data(name="cifar100", augment="random-resized-crop")
    )
    optimisation: Annotated[Optimisation, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Optimisation(
            optimizer="adamw",
            learning_rate=1.5e-4,
            betas=(0.9, 0.95),
            weight_decay=0.05,
            decay_norm_and_bias=False,
            schedule="cosine",
            warmup_epochs=10,
            cosine_after_warmup=True,
        )
    )
    training: Annotated[Training, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Training(epochs=200, batch_size=256, evaluate_every_epochs=10)
    )
    base_learning_rate: float = 1.5e-4
    seed: int = 0
    run_folder: Path | None = None
    tiny: bool = False


def command(arguments: Sequence[str]) -> None:
    """Run `pretrain`."""
    experiment, folder = parse(arguments)
    from attention_transfer.training.experiment_run import fit_experiment

    fit_experiment(experiment, folder)


def parse(arguments: Sequence[str]) -> tuple[Experiment, Path]:
    """The experiment that flags make, and its run folder.

    Args:
        arguments: as typed.

    Raises:
        ValueError: for settings that contradict each other.
    """
    flags = parsed(Flags, "pretrain", arguments, Flags(model=cast(str, tyro.MISSING)))
    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    if {"--learning-rate", "--base-learning-rate"} <= given:
        raise InputError("give --base-learning-rate (for 256 images) or --learning-rate (for the batch), not both")
    optimisation = flags.optimisation
    if flags.tiny:
        optimisation = replace(optimisation, warmup_epochs=0)
    elif optimisation.warmup_epochs >= flags.training.epochs:
        raise InputError(
            f"a warm-up of {optimisation.warmup_epochs:g} epochs leaves nothing of {flags.training.epochs}: give fewer "
            "--warmup-epochs"
        )
    if "--learning-rate" not in given:
        rate = flags.base_learning_rate * flags.training.batch_size / _RATE_FOR
        optimisation = replace(optimisation, learning_rate=rate)
    experiment = Experiment(
        recipe=RECIPE,
        student=flags.model,
        seed=flags.seed,
        data=flags.data,
        optimisation=optimisation,
        training=flags.training,
        pretraining=flags.pretraining,
    )
    if flags.tiny:
        experiment = experiment.tiny(own_data=names_data(arguments, experiment.data))
    return experiment, flags.run_folder or _default_folder(experiment, flags.tiny)


def _default_folder(experiment: Experiment, tiny: bool) -> Path:
    words = "".join(character if character.isalnum() else "-" for character in experiment.student)
    label = "-".join(word for word in words.split("-") if word)
    return Path("runs", RECIPE, f"{'tiny-' if tiny else ''}{label}-seed{experiment.seed}")
