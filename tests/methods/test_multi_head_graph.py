"""Multi-head graph distillation in a distiller: the authors' values, its phases, its controls, and what it refuses."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.closeness import assert_near
from tests.methods.test_graph_heads import authors_heads
from tests.trained import as_trained
from torch import Tensor

from attention_transfer import DecoupledSoftTargets, Distiller, MultiHeadGraph, SoftTargets, build
from attention_transfer.batch import Batch
from attention_transfer.methods import GradientLimit, Observed, Phase, Schedule
from attention_transfer.methods.multi_head_graph.graphs import graph_divergence, squashed_graph
from attention_transfer.methods.multi_head_graph.heads import GraphParts
from attention_transfer.methods.multi_head_graph.method import share_of_task, teacher_embedding
from attention_transfer.methods.multi_head_graph.singular_vectors import singular_vectors

EXAMPLE = torch.empty(2, 3, 16, 16)


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(count) % 3


def make(student: str = "resnet8", teacher: str = "resnet14", task_weight: float = 1.0, **fields: Any) -> Distiller:
    torch.manual_seed(0)
    teaching, learning = as_trained(build(teacher, 3)), build(student, 3)
    return Distiller(learning, teaching, [MultiHeadGraph(**fields)], task_weight=task_weight, example=EXAMPLE)


def trained(**fields: Any) -> Distiller:
    """With heads that have seen a few batches, so that their graphs say something."""
    distiller = make(**fields)
    if distiller.phases[0].name == "graph":
        distiller.set_phase(distiller.phases[0])
        distiller.train()
        optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
        for _ in range(20):
            optimizer.zero_grad()
            distiller.backward(distiller(*batch(16)))
            optimizer.step()
    distiller.set_phase(distiller.phases[-1])
    return distiller.train()


def parts_of(distiller: Distiller) -> GraphParts:
    parts = distiller.parts["mhgd"]
    assert isinstance(parts, GraphParts)
    return parts


# ---------------------------------------------------------------------- values


def authors(golden: Mapping[str, Tensor]) -> tuple[Observed, Observed, GraphParts]:
    """What the authors' code was given; each image's features turned round where that gives its vector their sign."""
    features: dict[str, list[Tensor]] = {"teacher": [], "student": []}
    for role, found in features.items():
        for i in range(3):
            found.append(golden[f"mhgd.{role}_feature_nhwc{i}"].permute(0, 3, 1, 2))
    parts = GraphParts([authors_heads(dict(golden), i) for i in (1, 2)], {}, bytes(32), bytes(32))
    return Observed(None, tuple(features["teacher"])), Observed(None, tuple(features["student"])), parts


def test_both_losses_are_those_of_the_authors_from_their_features(
    golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the sign of the teacher's vectors, which is theirs here."""
    teacher, student, parts = authors(golden)
    signed = [golden[f"mhgd.teacher_vector{i}"] for i in range(3)]

    def their_signs(features: tuple[Tensor, ...]) -> list[Tensor]:
        own = [singular_vectors(layer, 1)[:, :, 0] for layer in features]
        return [v * (v * w).sum(1, keepdim=True).sign() for v, w in zip(own, signed, strict=True)]

    monkeypatch.setattr("attention_transfer.methods.multi_head_graph.method.teacher_embedding", their_signs)
    method = MultiHeadGraph(head_drop=False)
    images = Batch(torch.empty(6, 3, 8, 8), torch.zeros(6, dtype=torch.int64), torch.arange(6))
    heads_alone = method.terms(images, teacher, Observed(None), copy.deepcopy(parts))
    assert set(heads_alone) == {"mhgd-heads"}
    torch.testing.assert_close(heads_alone["mhgd-heads"].value, golden["mhgd.mhan_loss"], rtol=1e-4, atol=0)
    parts.requires_grad_(False)
    transfer = method.terms(images, teacher, student, parts)
    assert set(transfer) == {"mhgd"}
    torch.testing.assert_close(transfer["mhgd"].value, golden["mhgd.transfer_loss"], rtol=1e-4, atol=0)


def test_vectors_of_the_teacher_have_the_natural_sign(golden: dict[str, Tensor]) -> None:
    teacher, _, _ = authors(golden)
    for i, vectors in enumerate(teacher_embedding(teacher.features)):
        theirs = golden[f"mhgd.teacher_vector{i}"]
        torch.testing.assert_close(vectors, theirs * theirs.sum(1, keepdim=True).sign(), rtol=0, atol=1e-5)


def stages_of(network: torch.nn.Module | None, images: Tensor) -> list[Tensor]:
    """Their outputs, through hooks of our own."""
    assert network is not None
    found: list[Tensor] = []
    stages = [network.get_submodule(f"layer{number}") for number in (1, 2, 3)]
    handles = [
        stage.register_forward_hook(lambda _module, _arguments, output: found.append(output)) for stage in stages
    ]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return found


def graphs_of(distiller: Distiller) -> tuple[list[Tensor], list[Tensor]]:
    """Logarithms of the graphs that student and teacher have of `batch`."""
    method, parts, (images, _) = MultiHeadGraph(), parts_of(distiller), batch()
    teacher, student = (stages_of(network, images) for network in (distiller.teacher, distiller.student))
    own = teacher_embedding(teacher)
    with torch.no_grad():
        ours = method.student_embedding(student, own, parts)
        both = [[squashed_graph(scores) for scores in method.scores(vectors, parts)] for vectors in (ours, own)]
    return both[0], both[1]


def test_options_change_the_transfer_as_they_say() -> None:
    whole = trained(limit_gradient=False)
    parts = parts_of(whole)
    value = whole(*batch()).terms["mhgd"].value.detach()

    def again(**fields: Any) -> float:
        distiller = make(limit_gradient=False, **fields)
        distiller.parts.load_state_dict(whole.parts.state_dict(), strict=True)
        distiller.set_phase(distiller.phases[-1])
        return float(distiller.train()(*batch()).terms["mhgd"].value.detach())

    assert again() == pytest.approx(float(value), rel=1e-5)
    assert again(reduction="mean") == pytest.approx(float(value) / (8 * 6), rel=1e-5)
    student, teacher = graphs_of(whole)
    divergences = [(t.exp() * (t - s)).sum() for s, t in zip(student, teacher, strict=True)]
    assert again(direction="teacher-first") == pytest.approx(float(sum(divergences)), rel=1e-4)
    divergences = [(s.exp() * (s - t)).sum() for s, t in zip(student, teacher, strict=True)]
    assert float(value) == pytest.approx(float(sum(divergences)), rel=1e-4)
    assert len(parts.heads) == 2
    assert len(parts_of(make(stages=(1, 2))).heads) == 1
    names = ("conv1", "layer1", "layer2", "layer3")
    assert len(parts_of(make(student_layers=names, teacher_layers=names)).heads) == 3


def test_scaled_reaches_the_heads() -> None:
    heads = [parts_of(make(graph_epochs=0, scaled=scaled)).graph(1) for scaled in (False, True)]
    generator = torch.Generator().manual_seed(2)
    front, back = (torch.randn(5, width, generator=generator) for width in (32, 64))
    plain, scaled = (each.eval().scores(front, back) for each in heads)
    torch.testing.assert_close(scaled, plain / 48**0.5)


def test_more_vectors_of_the_student_agree_better_with_the_teachers() -> None:
    generator = torch.Generator().manual_seed(3)
    features, target = torch.randn(20, 6, 4, 4, generator=generator), torch.randn(20, 6, generator=generator)
    agreements = [
        (MultiHeadGraph(student_vectors=count).student_embedding([features], [target], None)[0] * target).sum(1)
        for count in (1, 4)
    ]
    assert (agreements[0] >= 0).all()
    assert (agreements[1] >= agreements[0] - 1e-5).all()
    assert (agreements[1] > agreements[0] + 0.1).any()


@pytest.mark.parametrize("graph", ["random", "constant", "identity"])
def test_a_control_replaces_the_target_and_leaves_the_students_graph(graph: str) -> None:
    distiller = trained(graph=graph, limit_gradient=False)
    seen: list[Tensor] = []
    method = distiller.methods[0]
    assert isinstance(method, MultiHeadGraph)
    torch.manual_seed(5)
    value = distiller(*batch()).terms["mhgd"].value
    parts, teacher = parts_of(distiller), distiller.teacher
    assert teacher is not None
    # The same by hand: the student's graphs against the control.
    features: dict[str, list[Tensor]] = {"teacher": [], "student": []}
    for role, network in (("teacher", teacher), ("student", distiller.student)):
        handles = [
            network.get_submodule(f"layer{i}").register_forward_hook(
                lambda m, a, out, role=role: features[role].append(out)
            )
            for i in (1, 2, 3)
        ]
        network(batch()[0])
        for handle in handles:
            handle.remove()
    own = teacher_embedding(features["teacher"])
    ours = method.student_embedding(features["student"], own, parts)
    torch.manual_seed(5)
    for scores in method.scores(ours, parts):
        target = {
            "random": torch.randn(8, 6, 6),
            "constant": torch.zeros(8, 6, 6),
            "identity": (2 * torch.eye(6) - 1).expand(8, 6, 6) * 100,
        }[graph]
        seen.append(graph_divergence(squashed_graph(scores), squashed_graph(target)))
    assert_near(value, torch.stack(seen).sum(), steps=1024)


def test_plain_similarity_has_no_heads_and_no_first_phase() -> None:
    distiller = make(graph="similarity")
    assert [phase.name for phase in distiller.phases] == ["all"]
    assert not distiller.parts.state_dict()
    assert set(distiller(*batch()).terms) == {"ce", "mhgd"}
    # Of a network that has its teacher's weights nothing is left to learn.
    same = as_trained(build("resnet8", 3))
    alike = Distiller(copy.deepcopy(same), same, [MultiHeadGraph(graph="similarity")], example=EXAMPLE)
    assert float(alike.eval()(*batch()).terms["mhgd"].value.detach()) == pytest.approx(0, abs=1e-5)


# ---------------------------------------------------------------------- phases


def test_heads_learn_on_the_teacher_alone_and_then_rest() -> None:
    distiller = make()
    graph, transfer = distiller.phases
    assert (graph.epochs, graph.learning_rate, graph.weight_decay) == (40, 0.1, 1e-3)
    before = copy.deepcopy(distiller.student.state_dict())
    distiller.set_phase(graph)
    distiller.train()
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1, momentum=0.9)
    losses: list[float] = []
    for _ in range(40):
        out = distiller(*batch(16))
        optimizer.zero_grad()
        distiller.backward(out)
        optimizer.step()
        losses.append(float(out.terms["mhgd-heads"].value.detach()))
    assert set(out.terms) == {"mhgd-heads"}
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert all(torch.equal(value, before[name]) for name, value in distiller.student.state_dict().items())
    heads = copy.deepcopy(parts_of(distiller).state_dict())
    distiller.set_phase(transfer)
    distiller.train()
    assert all(p.grad is None for p in parts_of(distiller).parameters())
    out = distiller(*batch())
    assert set(out.terms) == {"ce", "mhgd"}
    distiller.backward(out)
    optimizer.step()
    assert [p for p in distiller.trainable_parameters() if p.grad is not None] == list(distiller.student.parameters())
    assert all(torch.equal(value, heads[name]) for name, value in parts_of(distiller).state_dict().items())


def test_the_transfer_lowers_the_difference_of_the_graphs() -> None:
    distiller = trained(task_weight=0.0)
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.02)
    values: list[float] = []
    for _ in range(15):
        out = distiller(*batch(12))
        optimizer.zero_grad()
        distiller.backward(out)
        torch.nn.utils.clip_grad_norm_(distiller.student.parameters(), 1.0)
        optimizer.step()
        values.append(float(out.terms["mhgd"].value.detach()))
    assert values[-1] < 0.8 * values[0]


def test_the_gradient_of_the_transfer_stays_below_the_share_of_the_tasks() -> None:
    distiller = trained(weight=1e4)
    out = distiller(*batch())
    assert isinstance(out.terms["mhgd"].limit, GradientLimit)
    parameters = dict(distiller.student.named_parameters())
    task = torch.autograd.grad(out.terms["ce"].value, list(parameters.values()), retain_graph=True)
    distiller.backward(out)
    for gradient, (name, parameter) in zip(task, parameters.items(), strict=True):
        assert parameter.grad is not None
        added = (parameter.grad - gradient).norm()
        if name.startswith("fc"):
            assert_near(added, 0.0, scale=float(gradient.norm()), msg=name)
        else:
            assert float(added) == pytest.approx(0.5 * float(gradient.norm()), rel=1e-2)


def test_the_share_of_the_task_grows_with_the_epochs_of_the_phase() -> None:
    assert [share_of_task(epochs) for epochs in (0, 1, 100)] == [0.5, pytest.approx(0.7310586), pytest.approx(1)]
    distiller = make(limit_gradient=False)
    distiller.set_epoch(40)
    assert distiller(*batch()).terms["mhgd"].limit is None


@pytest.mark.parametrize("weight", [50.0, 0.0])
def test_weight_and_schedule_are_those_of_the_transfer_alone(weight: float) -> None:
    distiller = make(weight=weight, schedule=Schedule(warmup_epochs=10))
    distiller.set_phase(Phase("all"))
    distiller.set_epoch(4)
    terms = distiller(*batch()).terms
    assert float(terms["mhgd"].weight) == weight / 2
    assert terms["mhgd-heads"].weight == 1


def test_narrower_students_learn_an_adapter_with_the_transfer() -> None:
    distiller = trained(student="resnet8", teacher="resnet8x4", task_weight=0.0, limit_gradient=False)
    parts = parts_of(distiller)
    assert set(parts.adapters) == {"0", "1", "2"}
    distiller.backward(distiller(*batch()))
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parts.adapters.parameters())
    assert not any(p.requires_grad for p in parts.heads.parameters())
    assert {id(p) for p in parts.adapters.parameters()} < {id(p) for p in distiller.trainable_parameters()}
    similar = make(student="resnet8", teacher="resnet8x4", graph="similarity")
    assert set(parts_of(similar).adapters) == {"0", "1", "2"}


# Dynamo looks at tensors that it was handed over.
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_compiled_distiller_is_one_graph_of_the_same_gradients_adapters_included() -> None:
    found: list[dict[str, Tensor]] = []
    for compiled in (False, True):
        distiller = trained(student="resnet8", teacher="resnet8x4")
        if compiled:
            torch.compiler.reset()
            distiller.compile(fullgraph=True, backend="aot_eager")
        distiller.backward(distiller(*batch()))
        found.append({name: p.grad for name, p in distiller.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any("adapters" in name for name in found[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-2, atol=1e-5)


def test_other_methods_learn_along_in_the_second_phase_only() -> None:
    methods = [MultiHeadGraph(graph_epochs=3), SoftTargets()]
    distiller = Distiller(build("resnet8", 3), as_trained(build("resnet14", 3)), methods, example=EXAMPLE)
    names = []
    for phase in distiller.phases:
        distiller.set_phase(phase)
        names.append(set(distiller(*batch()).terms))
    assert names == [{"mhgd-heads"}, {"ce", "mhgd", "kd"}]


def test_schedules_count_from_the_phase_in_which_the_student_learns() -> None:
    torch.manual_seed(0)
    methods = [MultiHeadGraph(graph_epochs=3), DecoupledSoftTargets(schedule=Schedule(warmup_epochs=4))]
    distiller = Distiller(build("resnet8", 3), as_trained(build("resnet14", 3)), methods, example=EXAMPLE)
    distiller.set_phase(distiller.phases[1], first_epoch=3)
    weights = []
    for epoch in range(3, 8):
        distiller.set_epoch(epoch)
        weights.append(float(distiller(*batch()).terms["dkd-target"].weight))
    assert weights == [0.25, 0.5, 0.75, 1.0, 1.0]


# ---------------------------------------------------------------------- doors


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"heads": 0}, "heads must be at least 1, not 0"),
        ({"heads": 2.5}, "heads must be a whole number, not 2.5"),
        ({"graph": "Constant"}, "graph must be 'learned' or 'random' or 'constant' or .*, not 'Constant'"),
        ({"direction": "student_first"}, "direction must be 'student-first' or 'teacher-first', not 'student_first'"),
        ({"graph_from": Path("$NO_SUCH_VARIABLE/run")}, "names an environment variable that is not set"),
        ({"student_vectors": 0}, "student_vectors must be at least 1"),
        ({"graph_epochs": -1}, "graph_epochs must be at least 0"),
        ({"graph_learning_rate": 0.0}, "graph_learning_rate must be above 0"),
        ({"graph_weight_decay": float("nan")}, "graph_weight_decay at least 0"),
        ({"graph": "similarity", "graph_from": Path("x")}, "leave out graph_from"),
        ({"stages": ()}, "at least one"),
        ({"student_layers": ("a",)}, "must pair up, not 1 with 0"),
        ({"stages": (1,)}, "a graph links two layers, and 1 is read"),
        ({"teacher": "resnet8x4", "adapter": False}, "leave adapter on"),
    ],
)
def test_bad_settings_are_refused_with_a_way_out(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(**fields)


def test_a_teacher_is_needed() -> None:
    with pytest.raises(ValueError, match="needs a teacher"):
        Distiller(build("resnet8", 3), None, [MultiHeadGraph()], example=EXAMPLE)


def test_a_batch_of_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="compares the images of a batch with each other, and this one has 1"):
        make().eval()(batch()[0][:1], torch.zeros(1, dtype=torch.int64))


def test_untrained_heads_are_a_choice() -> None:
    distiller = make(graph_epochs=0)
    assert [phase.name for phase in distiller.phases] == ["all"]
    assert set(distiller.train()(*batch()).terms) == {"ce", "mhgd"}
    assert not any(p.requires_grad for p in parts_of(distiller).heads.parameters())


def test_features_that_are_not_finite_show_in_the_loss_and_do_not_crash() -> None:
    distiller = trained()
    images, labels = batch()
    distiller.eval()(images, labels)
    # Finite itself, but no longer after the first convolution.
    images[2] = 3e38
    assert distiller(images, labels).terms["mhgd"].value.isnan()
    first = make()
    first.set_phase(first.phases[0])
    assert first.train()(images, labels).terms["mhgd-heads"].value.isnan()
