"""Named settings: functions that return an experiment, by the name that the command line uses."""

from collections.abc import Callable

from attention_transfer.experiment import Experiment
from attention_transfer.recipes.cifar import cifar100_resnet56_resnet20
from attention_transfer.recipes.digits import digits, digits_teacher
from attention_transfer.recipes.photographs import photographs

RECIPES: dict[str, Callable[[], Experiment]] = {
    "digits": digits,
    "digits-teacher": digits_teacher,
    "cifar100-resnet56-resnet20": cifar100_resnet56_resnet20,
    "photographs": photographs,
}

__all__ = ["RECIPES"]
