"""The methods of the comparison: every one between every pair, with the weights of the public benchmark."""

import pytest

from attention_transfer.methods import METHODS, DecoupledSoftTargets, SoftTargets
from attention_transfer.recipes import RECIPES, baselines
from attention_transfer.recipes.baselines import BASELINES, ON_IMAGENET, PAIRS

# Weight of the method, and of the cross-entropy beside it, where they are the same for all pairs.
WEIGHTS = {
    "kd": (0.9, 0.1),
    "fitnet": (100.0, 1.0),
    "rkd": (1.0, 1.0),
    "sp": (3000.0, 1.0),
    "pkt": (30000.0, 1.0),
    "crd": (0.8, 1.0),
    "ofd": (0.001, 1.0),
    "mhgd": (1.0, 1.0),
    "at": (1000.0, 1.0),
}
# β of DKD, and the weight of ReviewKD where its authors publish one.
BY_PAIR = {
    "resnet56-resnet20": (2.0, 0.6),
    "resnet110-resnet32": (2.0, 1.0),
    "resnet32x4-resnet8x4": (8.0, 5.0),
    "wrn_40_2-wrn_16_2": (6.0, 5.0),
    "wrn_40_2-wrn_40_1": (6.0, 5.0),
    "vgg13-vgg8": (6.0, None),
    "resnet32x4-shufflenetv1": (8.0, 5.0),
    "wrn_40_2-shufflenetv1": (8.0, 5.0),
    "resnet32x4-shufflenetv2": (8.0, 8.0),
    "resnet50_cifar-mobilenetv2_half": (8.0, None),
    "vgg13-mobilenetv2_half": (6.0, None),
}


def test_every_method_runs_between_all_eleven_pairs() -> None:
    assert {f"{teacher}-{student}" for teacher, student in PAIRS} == set(BY_PAIR)
    for pair in BY_PAIR:
        for key in BASELINES:
            experiment = RECIPES[f"cifar100-{pair}-{key}"]()
            assert f"{experiment.teacher}-{experiment.student}" == pair
            assert [method.key for method in experiment.methods] == [key]
    # Those that want transformers, and those that have recipes of their own, are not among them.
    others = {"cat", "gradient", "attention-copy", "attention-distillation", "feature-distillation"}
    assert set(BASELINES) == set(METHODS) - others - {"distillation-token", "attention-links"}


@pytest.mark.parametrize("key", WEIGHTS)
def test_weights_are_those_of_the_benchmark(key: str) -> None:
    for pair in BY_PAIR:
        experiment = RECIPES[f"cifar100-{pair}-{key}"]()
        assert (experiment.methods[0].weight, experiment.task_weight) == WEIGHTS[key]


def test_weights_that_depend_on_the_pair_are_those_of_the_authors() -> None:
    for pair, (other_weight, review) in BY_PAIR.items():
        (method,) = RECIPES[f"cifar100-{pair}-dkd"]().methods
        assert isinstance(method, DecoupledSoftTargets)
        assert (method.target_weight, method.other_weight, method.temperature) == (1.0, other_weight, 4.0)
        assert method.schedule.warmup_epochs == 20
        (method,) = RECIPES[f"cifar100-{pair}-reviewkd"]().methods
        assert method.schedule.warmup_epochs == 20
        assert review in (None, method.weight)


def test_the_protocol_is_the_same_for_every_method() -> None:
    for pair in BY_PAIR:
        theirs = RECIPES[f"cifar100-{pair}-kd"]()
        for key in BASELINES:
            ours = RECIPES[f"cifar100-{pair}-{key}"]()
            assert (ours.data, ours.optimisation, ours.training) == (theirs.data, theirs.optimisation, theirs.training)
        assert (theirs.training.epochs, theirs.training.batch_size) == (240, 64)
        assert [round(240 * step) for step in theirs.optimisation.steps] == [150, 180, 210]
        fragile = theirs.student.startswith(("mobile", "shuffle"))
        assert theirs.optimisation.learning_rate == (0.01 if fragile else 0.05)


def test_imagenet_follows_the_class_attention_paper() -> None:
    found = [experiment for experiment, _ in baselines.recipes() if experiment.recipe.startswith("imagenet-")]
    assert len(found) == 2 * (1 + len(ON_IMAGENET))
    for experiment in found:
        assert (experiment.training.epochs, experiment.training.batch_size) == (100, 512)
        assert experiment.optimisation.learning_rate == 0.2
        # Warm-ups over 20 epochs are CIFAR's.
        assert all(method.schedule.constant for method in experiment.methods)
    (kd,) = RECIPES["imagenet-resnet34-resnet18-kd"]().methods
    assert isinstance(kd, SoftTargets)
    assert (kd.temperature, kd.weight) == (1.0, 0.5)
    by_student = [
        [RECIPES[f"imagenet-{pair}-{key}"]().methods[0] for pair in ("resnet34-resnet18", "resnet50-mobilenetv1")]
        for key in ("dkd", "reviewkd", "ofd")
    ]
    assert [method.other_weight for method in by_student[0]] == [0.5, 2.0]  # pyright: ignore
    assert [[method.weight for method in pair] for pair in by_student[1:]] == [[1.0, 8.0], [1e-3, 1e-4]]
