"""The overhaul of feature distillation against the authors' values, slow loops, and its margins."""

import copy
import math

import pytest
import torch
from tests.closeness import assert_near
from tests.trained import as_trained
from torch import Tensor, nn

from attention_transfer import Description, Distiller, Overhaul, Stage, Tap, build
from attention_transfer.methods import Observed
from attention_transfer.methods.overhaul import Connector, margin_of_norm, partial_distance
from attention_transfer.models.introspection.pre_activations import BatchNorms, Norm

EXAMPLE = torch.empty(2, 3, 16, 16)


def test_value_and_gradient_are_those_of_the_authors(golden: dict[str, Tensor]) -> None:
    student = golden["student_feature2"].clone().requires_grad_()
    value = partial_distance(student, golden["teacher_feature2"], golden["margin"])
    assert_near(value, golden["ofd_last_feature"])
    (gradient,) = torch.autograd.grad(value, student)
    wanted = golden["ofd_last_feature.grad.student_feature2"]
    assert_near(gradient, wanted)


def random_features() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(3, 2, 2, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    return student, teacher, torch.tensor([-0.4, -0.1], dtype=torch.float64).reshape(1, 2, 1, 1)


def test_distance_equals_a_loop_written_from_the_paper() -> None:
    student, teacher, margin = random_features()
    total = 0.0
    for image in range(3):
        for channel in range(2):
            pairs = zip(student[image, channel].flatten(), teacher[image, channel].flatten(), strict=True)
            for s, t in pairs:
                wanted = float(t) if t > 0 else max(float(t), float(margin[0, channel, 0, 0]))
                if not (wanted <= 0 and float(s) <= wanted):
                    total += (float(s) - wanted) ** 2
    assert float(partial_distance(student, teacher, margin)) == pytest.approx(total / 3, rel=1e-12)


def test_gradient_is_right_in_double_precision() -> None:
    student, teacher, margin = random_features()
    assert torch.autograd.gradcheck(lambda s: partial_distance(s, teacher, margin), (student.requires_grad_(),))


@pytest.mark.parametrize(("scale", "shift"), [(0.7, 0.3), (-1.2, -0.5), (0.5, 1.4)])
def test_margin_is_the_mean_of_what_is_negative_in_a_normal_distribution(scale: float, shift: float) -> None:
    x = torch.linspace(shift - 12 * abs(scale), 0, 200_001, dtype=torch.float64)
    density = (-((x - shift) / scale).square() / 2).exp()
    wanted = float((x * density).sum() / density.sum())
    found = margin_of_norm(torch.tensor([scale]), torch.tensor([shift]))
    assert float(found) == pytest.approx(wanted, rel=1e-3)


def test_margin_of_what_is_hardly_ever_negative_lies_three_deviations_below_zero() -> None:
    found = margin_of_norm(torch.tensor([-0.5, 0.0, 0.0]), torch.tensor([2.0, 1.0, -1.0]))
    torch.testing.assert_close(found, torch.tensor([-1.5, 0.0, -1.0]))


def test_margins_come_from_the_norm_before_the_activation() -> None:
    teacher = as_trained(build("resnet14", 5))
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    distiller = Distiller(build("resnet8", 5), teacher, [Overhaul()], example=EXAMPLE)
    for i, connector in enumerate(distiller.parts["ofd"], start=1):
        norm = teacher.get_submodule(f"layer{i}.1.bn2")
        torch.testing.assert_close(connector.margin, margin_of_norm(norm.weight, norm.bias).detach())
    estimated = Distiller(build("resnet8", 5), teacher, [Overhaul(margins="data")], example=EXAMPLE)
    assert torch.equal(estimated.parts["ofd"][0].margin, torch.zeros(16))


def test_estimated_margins_are_the_mean_of_all_negative_values_seen_in_training() -> None:
    batches = [torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(i)) - i for i in range(3)]
    for batch in batches:
        batch[:, 2] = batch[:, 2].abs()
    connector = Connector(torch.zeros(2, 2, 5, 5), batches[0], None)
    connector.eval()(torch.zeros(4, 2, 5, 5), batches[0])
    assert torch.equal(connector.margin, torch.zeros(3))
    connector.train()
    for batch in batches:
        connector(torch.zeros(4, 2, 5, 5), batch)
    for channel in range(2):
        values = torch.cat([batch[:, channel].flatten() for batch in batches])
        torch.testing.assert_close(connector.margin[channel], values[values < 0].mean())
    assert float(connector.margin[2]) == 0
    assert {"margin", "seen"} <= set(connector.state_dict())


def test_each_stage_weighs_half_as_much_as_the_one_after_it() -> None:
    generator = torch.Generator().manual_seed(2)
    features = [torch.randn(2, 3, 4, 4, generator=generator) for _ in range(3)]
    norm = Norm(torch.ones(3), torch.zeros(3))
    teacher, student = (
        Observed(None, tuple(features), provided={BatchNorms(): (norm,) * 3}),
        Observed(None, tuple(-f for f in features)),
    )
    method = Overhaul()
    parts = method.parts(teacher, student)
    distances = [float(c(s, t).detach()) for c, s, t in zip(parts, student.features, teacher.features, strict=True)]
    found = method.terms(None, teacher, student, parts)["ofd"].value.detach()
    assert float(found) == pytest.approx(distances[0] / 4 + distances[1] / 2 + distances[2], rel=1e-5)


def test_larger_features_are_averaged_to_the_smaller_size() -> None:
    connector = Connector(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4, 4), Norm(torch.ones(1), torch.zeros(1)))
    nn.init.ones_(connector.connect[0].weight)
    connector.eval()
    teacher = torch.arange(16.0).reshape(1, 1, 4, 4)
    small = nn.functional.avg_pool2d(teacher, 2)
    wanted = (math.sqrt(1 / (1 + 1e-5)) - 1) ** 2 * float(small.square().sum())
    assert_near(connector(small, teacher), wanted, scale=float(small.square().sum()))


@pytest.mark.parametrize("runs", ["train", "eval"])
def test_teacher_runs_as_asked_and_keeps_its_statistics(runs: str) -> None:
    student, teacher = build("resnet8", 5), as_trained(build("resnet14", 5))
    before = copy.deepcopy(teacher.state_dict())
    distiller = Distiller(student, teacher, [Overhaul(teacher_runs=runs)], example=EXAMPLE)
    distiller(torch.randn(4, 3, 16, 16), torch.arange(4))
    assert teacher.training == (runs == "train")
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_stages_of_unknown_activations_are_refused_with_their_names() -> None:
    known = Description((Stage(Tap("a"), Tap("a")),))
    with pytest.raises(ValueError, match="where the teacher's stages layer1 end in an activation is not known"):
        Overhaul().reads(Description((Stage(Tap("layer1"), None),)), known)
    with pytest.raises(ValueError, match="needs a teacher"):
        Overhaul().reads(None, known)
