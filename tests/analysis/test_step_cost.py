"""What a step with methods costs beyond the student's own."""

import pytest

from attention_transfer import AttentionTransfer, Experiment, FitNet, SoftTargets
from attention_transfer.analysis.step_cost import measure_step_cost
from attention_transfer.pretraining import MaskedAutoencoding
from tests.training.conftest import Make, images, make

__all__ = ["images", "make"]


def test_what_is_learned_beside_the_student_and_the_teacher_are_counted(make: Make) -> None:
    costs = [measure_step_cost(make(methods=(method,)), rounds=1) for method in (SoftTargets(), FitNet())]
    teacher_bytes = 4 * 175_000  # ResNet-14 of three classes has some 175,258 parameters
    for cost in costs:
        assert cost.extra_bytes > teacher_bytes
        assert min(cost.seconds, cost.alone_seconds, cost.time_ratio) > 0
        assert cost.batch_size == 16
    # A 1×1 convolution between the 32 channels of both, with its bias, and a batch norm.
    assert [cost.extra_parameters for cost in costs] == [0, 32 * 32 + 32 + 2 * 32]
    assert costs[1].extra_bytes > costs[0].extra_bytes
    assert costs[0].row()["extra_parameters"] == 0


def test_a_student_alone_costs_nothing_beyond_itself(make: Make) -> None:
    cost = measure_step_cost(make(methods=(), teacher=None, untrained_teacher=False), rounds=2)
    assert (cost.extra_parameters, cost.extra_bytes) == (0, 0)


def test_the_last_phase_is_measured(make: Make) -> None:
    cost = measure_step_cost(make(methods=(FitNet(hint_epochs=1), AttentionTransfer())), rounds=1)
    assert cost.extra_parameters > 0


def test_bad_input_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1, not 0"):
        measure_step_cost(make(), rounds=0)
    with pytest.raises(ValueError, match="no methods whose cost"):
        measure_step_cost(Experiment("p", "resnet8", pretraining=MaskedAutoencoding()))
