"""Several teachers: each runs once, each method learns from its own, and what is not said is refused."""

from collections import Counter
from typing import Any

import pytest
import torch
from tests.closeness import assert_near
from tests.conftest import SmallNet
from torch import Tensor, nn

from attention_transfer import (
    AttentionTransfer,
    Distiller,
    FitNet,
    GradientAttention,
    Input,
    InputError,
    Method,
    Relational,
    SettingError,
    SoftTargets,
)
from attention_transfer.capture import Reading
from attention_transfer.counter_rng import uniform

EXAMPLE = torch.empty(2, 3, 16, 16)
IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS, INDEX = torch.arange(6) % 5, torch.arange(6)


def networks() -> tuple[nn.Module, dict[str, nn.Module]]:
    torch.manual_seed(0)
    return SmallNet(4), {"a": SmallNet(6), "b": SmallNet(8)}


def distilled(*methods: Method, **settings: Any) -> Distiller:
    return Distiller(*networks(), methods, example=EXAMPLE, **settings)


def alone(name: str, *methods: Method) -> Distiller:
    student, teachers = networks()
    return Distiller(student, teachers[name], methods, example=EXAMPLE)


def test_each_method_learns_from_its_teacher_as_if_it_were_alone() -> None:
    out = distilled(SoftTargets(teacher="a"), AttentionTransfer(teacher="b"))(IMAGES, LABELS)
    assert list(out.terms) == ["ce", "kd:a", "at:b"]
    assert_near(out.terms["kd:a"].value, alone("a", SoftTargets())(IMAGES, LABELS).terms["kd"].value)
    assert_near(out.terms["at:b"].value, alone("b", AttentionTransfer())(IMAGES, LABELS).terms["at"].value)
    assert isinstance(out.teacher_logits, dict)
    assert out.teacher_logits["b"] is None


def test_a_method_of_several_teachers_is_used_for_each() -> None:
    distiller = distilled(AttentionTransfer(teacher=("a", "b")), teacher_weights={"b": 0.5})
    out = distiller(IMAGES, LABELS)
    assert {name: float(term.weight) for name, term in out.terms.items()} == {"ce": 1.0, "at:a": 1000.0, "at:b": 500.0}
    assert [method.teacher for method in distiller.methods] == ["a", "b"]


def test_soft_targets_of_several_teachers_are_of_their_mean_logits() -> None:
    distiller = distilled(SoftTargets(teacher=("a", "b")))
    out = distiller(IMAGES, LABELS)
    assert isinstance(out.teacher_logits, dict)
    mean = torch.stack([out.teacher_logits[name] for name in "ab"]).mean(0)
    ours, theirs = (each.div(4).log_softmax(1) for each in (out.student_logits, mean))
    assert_near(out.terms["kd:a+b"].value, 16 * (theirs.exp() * (theirs - ours)).sum(1).mean())


def test_each_teacher_runs_once_on_images_of_its_own() -> None:
    student, teachers = networks()
    runs, means = Counter[str](), dict[str, float]()

    def counting(name: str) -> Any:
        def count(module: nn.Module, args: tuple[Tensor]) -> None:
            runs[name] += 1
            means[name] = float(args[0].mean()), tuple(args[0].shape[2:])

        return count

    methods = [SoftTargets(teacher="a"), AttentionTransfer(teacher="a"), AttentionTransfer(teacher="b")]
    inputs = {"b": Input((0.5,) * 3, (0.5,) * 3, (8, 8))}
    distiller = Distiller(student, teachers, methods, example=EXAMPLE, student_input=Input(), teacher_input=inputs)
    for name, teacher in teachers.items():
        teacher.register_forward_pre_hook(counting(name))
    distiller(IMAGES, LABELS)
    assert runs == {"a": 1, "b": 1}
    assert means["a"] == (pytest.approx(float(IMAGES.mean())), (16, 16))
    assert means["b"] == (pytest.approx(2 * float(IMAGES.mean()) - 1, abs=0.02), (8, 8))


def test_one_class_of_method_may_stand_several_times() -> None:
    early = AttentionTransfer(teacher="a", stages=(0,), term="early")
    late = AttentionTransfer(teacher="a", stages=(1,), term="late")
    out = distilled(early, late, FitNet(teacher="b"), FitNet(teacher="a"))(IMAGES, LABELS)
    assert list(out.terms) == ["ce", "early", "late", "fitnet:b", "fitnet:a"]


def test_methods_without_a_teacher_need_none() -> None:
    assert (
        "gradient" in distilled(GradientAttention(target="flip"), SoftTargets(teacher=("a", "b")))(IMAGES, LABELS).terms
    )


def test_lists_give_numbers() -> None:
    student, teachers = networks()
    distiller = Distiller(student, list(teachers.values()), [SoftTargets(teacher=("0", "1"))], example=EXAMPLE)
    assert list(distiller.teachers) == ["0", "1"]
    with pytest.raises(InputError, match="name one of them, not None"):
        _ = distiller.teacher


def test_teachers_are_left_alone_and_given_back() -> None:
    distiller = distilled(SoftTargets(teacher="a"), AttentionTransfer(teacher="b"))
    teachers = distiller.teachers
    assert not any(name.startswith("teacher") for name, _ in distiller.named_parameters())
    distiller.double()
    assert all(p.dtype == torch.float64 and not p.requires_grad for t in teachers.values() for p in t.parameters())
    distiller.detach()
    assert all(p.requires_grad for t in teachers.values() for p in t.parameters())


def test_a_teacher_may_stay_where_it_is() -> None:
    distiller = distilled(SoftTargets(teacher=("a", "b")), teacher_device={"b": "cpu"}).double()
    kinds = {name: next(teacher.parameters()).dtype for name, teacher in distiller.teachers.items()}
    assert kinds == {"a": torch.float64, "b": torch.float32}
    assert distiller(IMAGES.double(), LABELS).loss.dtype == torch.float64


def test_the_summary_names_the_teachers() -> None:
    shown = distilled(SoftTargets(teacher="a"), AttentionTransfer(teacher="b")).summary()
    assert "teacher 'a'  SmallNet" in shown
    assert "at:b    1000    layer1 (2, 8, 16, 16)" in shown


class Memory:
    def __init__(self) -> None:
        self.read_of: list[tuple[int, list[int]]] = []

    def read(self, epoch: int, index: Tensor, run: Any) -> Reading:
        self.read_of.append((epoch, index.tolist()))
        return run()


def test_each_teacher_has_a_cache_of_its_own() -> None:
    distiller, memory = distilled(SoftTargets(teacher="a"), AttentionTransfer(teacher="b")), Memory()
    distiller.remember_teacher(memory, "b")
    distiller.train()(IMAGES, LABELS, INDEX)
    assert memory.read_of == [(0, INDEX.tolist())]
    with pytest.raises(InputError, match="name one of them"):
        distiller.remember_teacher(memory)


def test_teachers_are_dropped_image_by_image_but_for_the_worst_matched() -> None:
    """Against a loop over images, from the words of the paper."""
    methods = SoftTargets(teacher="a"), SoftTargets(teacher="b"), AttentionTransfer(teacher="b", weight=10.0)
    distiller = distilled(*methods, teacher_dropping=0.5)
    distiller.set_epoch(3)
    kept = {name: [0.0] * len(IMAGES) for name in "ab"}
    values: dict[str, list[float]] = {"kd:a": [], "kd:b": [], "at:b": []}
    plain = distilled(*methods).eval()
    distiller.eval()
    for i in range(len(IMAGES)):
        terms = plain(IMAGES[i : i + 1], LABELS[i : i + 1]).terms
        for name in values:
            values[name].append(float(terms[name].value.detach()))
        of = {"a": 0.9 * values["kd:a"][i], "b": 0.9 * values["kd:b"][i] + 10 * values["at:b"][i]}
        for number, name in enumerate("ab"):
            draw = float(uniform(0x7EAC4E85, number, 3, INDEX[i : i + 1]))
            kept[name][i] = 1.0 if of[name] == max(of.values()) or draw >= 0.5 else 0.0
    out = distiller(IMAGES, LABELS, INDEX)
    for name, each in values.items():
        share = kept[name[-1]]
        expected = sum(c * value for c, value in zip(share, each, strict=True)) / max(1.0, sum(share))
        assert float(out.terms[name].value.detach()) == pytest.approx(expected, rel=1e-4)
    assert any(0.0 in each for each in kept.values())


@pytest.mark.parametrize("method", [SoftTargets(), AttentionTransfer(), AttentionTransfer(form="paper"), FitNet()])
def test_values_of_images_have_the_mean_of_the_batch(method: Method) -> None:
    from dataclasses import replace

    both = [replace(method, teacher=name) for name in "ab"]
    distiller = distilled(*both, teacher_dropping=1e-9)
    dropped, plain = distiller(IMAGES, LABELS, INDEX), distilled(*both)(IMAGES, LABELS)
    for name, term in plain.terms.items():
        assert_near(dropped.terms[name].value, term.value)


@pytest.mark.parametrize(
    ("methods", "settings", "words"),
    [
        (
            [SoftTargets()],
            {},
            r"kd must say which teacher it learns from, of 'a', 'b': give SoftTargets\(teacher='a'\)",
        ),
        ([SoftTargets(teacher="c")], {}, "kd learns from the teacher 'c', and there is 'a', 'b'"),
        ([SoftTargets(teacher="a")], {}, "nothing is read of the teacher 'b', .*: name it in a method"),
        ([SoftTargets(teacher=("a", "a"))], {}, "kd names the teacher 'a' twice"),
        (
            [SoftTargets(teacher="a", term="x"), AttentionTransfer(teacher="b", term="x")],
            {},
            r"two methods are called 'x': give each a name of its own, AttentionTransfer\(term=...\)",
        ),
        ([AttentionTransfer(teacher=("a", "b"), term="x")], {}, "used once for each of 'a', 'b', and has one term='x'"),
        ([SoftTargets(teacher=("a", "b"))], {"teacher_input": Input()}, "teacher_input must say which of the teachers"),
        ([SoftTargets(teacher=("a", "b"))], {"teacher_logits": {"c": 0}}, "teacher_logits names the teacher 'c'"),
        ([SoftTargets(teacher=("a", "b"))], {"teacher_weights": {"a": 0.0}}, "must be finite numbers above 0, not 0.0"),
        ([SoftTargets(teacher=("a", "b"))], {"teacher_dropping": 1.0}, "a probability from 0 to below 1, not 1"),
        (
            [SoftTargets(teacher="a"), Relational(teacher="b")],
            {"teacher_dropping": 0.5},
            "rkd:b-distance, rkd:b-angle compares images with each other",
        ),
    ],
)
def test_what_is_not_said_of_teachers_is_refused(methods: list[Method], settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        distilled(*methods, **{"student_input": Input(), **settings})


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ({}, "there is no teacher in the ones that were given"),
        ({"a b": SmallNet(6)}, "a teacher's name must be of letters"),
        ({"a": SmallNet(6), "b": "resnet20"}, "the teacher 'b' must be a torch.nn.Module, not a value of type str"),
        ([SmallNet(6), None], "the teacher '1' must be a torch.nn.Module"),
    ],
)
def test_what_are_no_teachers_is_refused(teacher: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Distiller(SmallNet(4), teacher, [SoftTargets(teacher="a")], example=EXAMPLE)


def test_one_network_cannot_be_two_teachers() -> None:
    teacher = SmallNet(6)
    with pytest.raises(InputError, match="the teachers 'a' and 'b' are one network"):
        Distiller(SmallNet(4), {"a": teacher, "b": teacher}, [SoftTargets(teacher=("a", "b"))], example=EXAMPLE)


def test_a_name_without_named_teachers_is_refused() -> None:
    with pytest.raises(InputError, match="the only one was given without a name"):
        alone("a", SoftTargets(teacher="a"))
    with pytest.raises(InputError, match="teacher_dropping leaves out some of several teachers"):
        Distiller(SmallNet(4), SmallNet(6), [SoftTargets()], example=EXAMPLE, teacher_dropping=0.5)
    with pytest.raises(SettingError, match="SoftTargets: teacher must be"):
        SoftTargets(teacher=3)  # pyright: ignore[reportArgumentType]


def test_dropping_wants_the_dataset_index() -> None:
    distiller = distilled(SoftTargets(teacher="a"), SoftTargets(teacher="b"), teacher_dropping=0.5)
    with pytest.raises(InputError, match="index is needed by teacher_dropping"):
        distiller(IMAGES, LABELS)
