"""Training protocols for vision transformers of Li et al. (NeurIPS 2024, arXiv:2411.09702), with and without teacher.

Copy and distillation follow the paper's tables «Training recipe», completed by the authors' code. Training from scratch
and fine-tuning follow MAE (He et al., CVPR 2022, arXiv:2111.06377), whose results the paper compares with: table 11 of
that paper, and FINETUNE.md of its code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.methods import Method
from attention_transfer.models.naming import split_weights, written
from attention_transfer.recipes.photographs import IMAGENET

IMAGES = replace(
    IMAGENET, auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25, mixup=0.8, cutmix=1.0, label_smoothing=0.1
)
EMA_DECAY = 0.9999
# Learning rates are stated for so many images.
BASE_BATCH = 256
# Where the cosine ends in the code of MAE, and in the paper where it states no other value.
LEAST_RATE = 1e-6


@dataclass(frozen=True)
class Size:
    """What a vision transformer's size decides.

    Args:
        distilled_layers: of so many layers attention is distilled, the first ones.
        drop_path: from scratch, and in distillation, which follows that.
        scratch_epochs: from scratch.
        tuning_rate: base learning rate of fine-tuning.
        tuning_layer_decay: of fine-tuning.
        tuning_drop_path: of fine-tuning.
        tuning_epochs: of fine-tuning.
    """

    distilled_layers: int
    drop_path: float
    scratch_epochs: int
    tuning_rate: float
    tuning_layer_decay: float
    tuning_drop_path: float
    tuning_epochs: int


# The paper says 18 of ViT-L's 24 layers, and drop path 0.2 for it; three quarters of the others, and MAE's drop path.
BASE = Size(9, 0.1, 300, 5e-4, 0.65, 0.1, 100)
LARGE = Size(18, 0.2, 200, 1e-3, 0.75, 0.2, 50)
HUGE = Size(24, 0.2, 200, 1e-3, 0.75, 0.3, 50)


@dataclass(frozen=True)
class Transformer:
    """A vision transformer of timm, and where its weights come from.

    Args:
        name: in timm, with the tag of the weights.
        size: what follows from it.
        published: whether there are weights for it.
    """

    name: str
    size: Size
    published: bool = True

    def untrained(self, drop_path: float) -> str:
        """The network with random weights; the mean of the patches is classified."""
        return _written(self.name.partition(".")[0], _pooled(drop_path))

    def trained(self, drop_path: float) -> str:
        """The network with its weights, to learn from."""
        return _written(self.name, _dropping(drop_path)) + self._weights

    def start(self, drop_path: float) -> str:
        """The network with its weights, to go on with; the mean of the patches is classified.

        As in MAE's fine-tuning, the norm behind that mean is new: the weights have one before it, which timm has to
        ignore.
        """
        arguments = _pooled(drop_path) | {"pretrained_strict": False}
        return _written(self.name, arguments) + self._weights

    @property
    def _weights(self) -> str:
        return "@pretrained" if self.published else ""


def from_scratch(recipe: str, network: Transformer, data: Data = IMAGES) -> Experiment:
    """A network alone, from random weights: batch 4096, 20 epochs of warm-up, moving average.

    Args:
        recipe: its name.
        network: to train.
        data: images, and how they are prepared.
    """
    size = network.size
    return Experiment(
        recipe,
        network.untrained(size.drop_path),
        data=data,
        optimisation=_adamw(1e-4, 4096, beta2=0.95, weight_decay=0.3, warmup_epochs=20),
        training=Training(epochs=size.scratch_epochs, batch_size=4096, ema_decay=EMA_DECAY),
    )


def fine_tuning(recipe: str, network: Transformer, data: Data = IMAGES) -> Experiment:
    """A network alone, from its weights: batch 1024, 5 epochs of warm-up, rates that fall from layer to layer.

    Args:
        recipe: its name.
        network: to go on with.
        data: images, and how they are prepared.
    """
    size = network.size
    optimisation = _adamw(size.tuning_rate, 1024, beta2=0.999, weight_decay=0.05, warmup_epochs=5)
    return Experiment(
        recipe,
        network.start(size.tuning_drop_path),
        data=data,
        optimisation=replace(optimisation, layer_decay=size.tuning_layer_decay),
        training=Training(epochs=size.tuning_epochs, batch_size=1024),
    )


def copying(
    recipe: str,
    teacher: Transformer,
    method: Method,
    *,
    beta2: float = 0.999,
    fine_tuned: bool = False,
    untrained_teacher: bool = False,
    data: Data = IMAGES,
) -> Experiment:
    """Attention copy to an untrained network of the same kind, under the recipe that the paper gives for it.

    Args:
        recipe: its name.
        teacher: whose attention is copied.
        method: what of it.
        beta2: of AdamW.
        fine_tuned: whether the teacher is what `fine_tuning` leaves, which the user gives.
        untrained_teacher: whether it may be untrained.
        data: images, and how they are prepared.
    """
    tuned = split_weights(teacher.start(teacher.size.tuning_drop_path))[0]
    # The rate ends at an absolute value, a quarter of where it begins.
    optimisation = _adamw(1e-3, 2048, beta2=beta2, weight_decay=0.05, warmup_epochs=5)
    return Experiment(
        recipe,
        teacher.untrained(drop_path=0),
        tuned if fine_tuned else teacher.trained(drop_path=0),
        (method,),
        untrained_teacher=untrained_teacher,
        data=data,
        optimisation=replace(optimisation, layer_decay=0.75, min_learning_rate=2e-3),
        training=Training(epochs=100, batch_size=2048, ema_decay=EMA_DECAY),
    )


def distilling(
    recipe: str,
    teacher: Transformer,
    method: Method,
    *,
    student: Transformer | None = None,
    untrained_teacher: bool = False,
    data: Data = IMAGES,
) -> Experiment:
    """Distillation under the recipe that the paper gives for attention distillation.

    Args:
        recipe: its name.
        teacher: to learn from; it has the student's drop path, for methods that drop the same of both.
        method: what of it.
        student: whose weights the student starts from; an untrained network of the teacher's kind if None.
        untrained_teacher: whether the teacher may be untrained.
        data: images, and how they are prepared.
    """
    drop_path = teacher.size.drop_path
    return Experiment(
        recipe,
        teacher.untrained(drop_path) if student is None else student.start(drop_path),
        teacher.trained(drop_path),
        (method,),
        untrained_teacher=untrained_teacher,
        data=data,
        optimisation=_adamw(1e-4, 2048, beta2=0.95, weight_decay=0.3, warmup_epochs=20),
        training=Training(epochs=200, batch_size=2048, ema_decay=EMA_DECAY),
    )


def _adamw(base_rate: float, batch: int, *, beta2: float, weight_decay: float, warmup_epochs: int) -> Optimisation:
    return Optimisation(
        optimizer="adamw",
        learning_rate=base_rate * batch / BASE_BATCH,
        betas=(0.9, beta2),
        weight_decay=weight_decay,
        decay_norm_and_bias=False,
        schedule="cosine",
        warmup_epochs=warmup_epochs,
        cosine_after_warmup=True,
        min_learning_rate=LEAST_RATE,
    )


def _pooled(drop_path: float) -> dict[str, Any]:
    return {"global_pool": "avg"} | _dropping(drop_path)


def _dropping(drop_path: float) -> dict[str, Any]:
    return {"drop_path_rate": drop_path} if drop_path else {}


def _written(name: str, arguments: Mapping[str, Any]) -> str:
    return f"timm:{name}" + (f"({written(arguments).removeprefix(', ')})" if arguments else "")
