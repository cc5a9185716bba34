"""One training run as data: what is trained, on what, how. Everything is a frozen dataclass that survives JSON."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from attention_transfer.methods import Method


@dataclass(frozen=True)
class Data:
    """Which images, and how they are prepared.

    Args:
        name: `cluttered-digits`, `cifar10`, `cifar100`, `npz:PATH`, `folder:PATH`, `tiny-imagenet` or `cub200`.
        root: folder that holds (or receives) `cifar10`, `cifar100`, `tiny-imagenet` and `cub200`.
        image_size: side in pixels that images are brought to; None keeps the data set's own (224 for photographs).
        augment: what happens to training images; `auto` is `crop-flip` for small images, `random-resized-crop` for
            photographs and `crop` for digits, which must not be mirrored.
        validation_fraction: share of the training images, 0 ≤ f < 1, set aside by (seed, index) for validation.
        train_limit: use only the first so many training images; None uses all.
        num_workers: processes that decode photographs; small sets live on the device and need none.
    """

    name: str = "cluttered-digits"
    root: Path | None = None
    image_size: int | None = None
    augment: Literal["auto", "none", "crop", "crop-flip", "random-resized-crop"] = "auto"
    validation_fraction: float = 0.0
    train_limit: int | None = None
    num_workers: int = 0


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and learning-rate schedule.

    Args:
        optimizer: `momentum` is plain SGD with momentum, `nesterov` its variant; any other name is timm's.
        learning_rate: at its peak.
        momentum: of the SGD variants.
        weight_decay: in units of the optimiser.
        decay_norm_and_bias: whether 1-D parameters are decayed too, as the CIFAR protocols have it.
        schedule: `steps` multiplies by `step_factor` at each of `steps`; `cosine` falls to `min_learning_rate`.
        steps: fractions of the whole training, ascending.
        step_factor: factor of each step.
        warmup_epochs: linear rise from zero.
        min_learning_rate: absolute end of the cosine.
        clip_gradient_norm: largest norm of the whole gradient; None leaves it alone.
    """

    optimizer: str = "momentum"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = True
    schedule: Literal["steps", "cosine", "constant"] = "steps"
    steps: tuple[float, ...] = (150 / 240, 180 / 240, 210 / 240)
    step_factor: float = 0.1
    warmup_epochs: float = 0.0
    min_learning_rate: float = 0.0
    clip_gradient_norm: float | None = None


@dataclass(frozen=True)
class Training:
    """How long, how large, on what.

    Args:
        epochs: passes over the training images.
        batch_size: images per step and process.
        device: `auto` takes an accelerator if there is one.
        precision: arithmetic of the networks; losses are always float32.
        channels_last: memory format of networks and images; None means yes for networks of convolutions.
        compile: run the distiller through `torch.compile`.
        threads: CPU threads; None leaves torch's choice.
        checkpoint_every_steps: write a checkpoint inside epochs too; None only at their ends.
        evaluate_every_epochs: how often the student is measured; the last epoch always is.
    """

    epochs: int = 240
    batch_size: int = 64
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool | None = None
    compile: bool = False
    threads: int | None = None
    checkpoint_every_steps: int | None = None
    evaluate_every_epochs: int = 1


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a run.

    Args:
        recipe: name of the recipe that it came from.
        student: model to train: a name of ours, `timm:NAME`, `torchvision:NAME`, `hf:NAME`, a run folder, or any of these
            names followed by `@FILE` with weights to start from.
        teacher: model to learn from, written the same way; None trains the student alone.
        methods: what is transferred.
        task_weight: weight of the cross-entropy with the labels; 0 trains without labels.
        seed: of initialisation, order, augmentation and everything else that is random.
    """

    recipe: str
    student: str
    teacher: str | None = None
    methods: tuple[Method, ...] = ()
    task_weight: float = 1.0
    seed: int = 0
    data: Data = field(default_factory=Data)
    optimisation: Optimisation = field(default_factory=Optimisation)
    training: Training = field(default_factory=Training)
