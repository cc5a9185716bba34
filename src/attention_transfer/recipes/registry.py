"""Registry of recipes: functions that return an experiment, by name.

>>> RECIPES["digits"]().teacher is None
False
"""

from itertools import chain

from attention_transfer.recipes import (
    attention_links,
    attention_transfer,
    baselines,
    class_attention,
    class_attention_distillation,
    distillation_token,
    links_in_small,
    multi_head_graph,
    vision_transformers,
    vit_cifar,
)
from attention_transfer.recipes.cifar import alone, cifar100_resnet56_resnet20
from attention_transfer.recipes.described import Recipe, by_name
from attention_transfer.recipes.digits import digits, digits_teacher, strong
from attention_transfer.recipes.photographs import photographs

RECIPES: dict[str, Recipe] = {
    "digits": digits,
    "digits-teacher": digits_teacher,
    "cifar100-resnet56-resnet20": cifar100_resnet56_resnet20,
    "photographs": photographs,
    **by_name(
        chain(
            strong(),
            alone(),
            attention_transfer.recipes(),
            class_attention.recipes(),
            class_attention_distillation.recipes(),
            baselines.recipes(),
            distillation_token.recipes(),
            attention_links.recipes(),
            links_in_small.recipes(),
            multi_head_graph.recipes(),
            vision_transformers.recipes(),
            vit_cifar.recipes(),
        )
    ),
}
