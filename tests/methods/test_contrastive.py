"""Contrastive transfer against the authors' values, a slow loop, what it remembers, and the memory that it asks for."""

import math
import os

import pytest
import torch
from tests.closeness import assert_near
from tests.known import compiled_whole
from torch import Tensor, nn

from attention_transfer import Contrastive, Distiller
from attention_transfer.batch import Batch
from attention_transfer.memory_budget import ChecksMemory, memory_of
from attention_transfer.methods.contrastive import memory_bank
from attention_transfer.methods.contrastive.memory_bank import Bank, Others, Queue, draws_needed
from attention_transfer.methods.contrastive.method import Contrast, contrastive_loss
from attention_transfer.methods.layers.maps import unit

EXAMPLE = torch.empty(2, 3, 16, 16)
LABELS = torch.arange(24) % 3
Pair = tuple[nn.Module, nn.Module]


def unit_rows(count: int, seed: int, dimensions: int = 4) -> Tensor:
    rows = torch.randn(count, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def drawn(golden: dict[str, Tensor]) -> Others:
    """What the authors' loader drew for each image by itself, laid side by side."""
    index = golden["crd_contrast_index"]
    others = index[:, 1:]
    belongs = torch.block_diag(*torch.ones(len(others), 1, others.shape[1])).bool()
    memories = {"student": golden["crd_memory_student"], "teacher": golden["crd_memory_teacher"]}
    return Others(
        {role: memory[golden["crd_index"]] for role, memory in memories.items()},
        {role: memory[others.flatten()] for role, memory in memories.items()},
        belongs,
    )


def test_value_and_gradient_are_those_of_the_authors(golden: dict[str, Tensor]) -> None:
    student = golden["crd_student"].clone().requires_grad_()
    parts = Contrast(1, 1, 16, 0.07)
    value = parts.loss({"student": student, "teacher": golden["crd_teacher"]}, drawn(golden), 64)
    assert_near(value, golden["crd"])
    (gradient,) = torch.autograd.grad(value, student)
    wanted = golden["crd.grad.crd_student"]
    assert_near(gradient, wanted)


def test_memory_after_a_step_is_that_of_the_authors(golden: dict[str, Tensor]) -> None:
    bank = Bank(torch.arange(64), 16, 24, momentum=0.5)
    for role in ("student", "teacher"):
        bank.get_buffer(role).copy_(golden[f"crd_memory_{role}"])
    embeddings = {role: golden[f"crd_{role}"] for role in ("student", "teacher")}
    bank.remember(Batch(torch.empty(6, 3, 1, 1), None, golden["crd_index"]), embeddings)
    for role in ("student", "teacher"):
        assert_near(bank.get_buffer(role), golden[f"crd_memory_{role}_after"])


def slow_loss(anchors: Tensor, same: Tensor, others: Tensor, differ: Tensor, images: int, temperature: float) -> float:
    """One direction, image by image and negative by negative, Z from this batch."""
    positive = [math.exp(float(u @ v) / temperature) for u, v in zip(anchors, same, strict=True)]
    negative = [
        [math.exp(float(u @ v) / temperature) for v, counts in zip(others, row, strict=True) if counts]
        for u, row in zip(anchors, differ, strict=True)
    ]
    every = positive + [value for row in negative for value in row]
    normaliser = sum(every) / len(every) * images
    total = 0.0
    for p, row in zip(positive, negative, strict=True):
        noise = len(row) / images
        total -= math.log(p / normaliser / (p / normaliser + noise + 1e-7))
        total -= sum(math.log(noise / (q / normaliser + noise + 1e-7)) for q in row)
    return total / len(positive)


def random_others() -> tuple[dict[str, Tensor], Others]:
    embeddings = {"student": unit_rows(3, 1), "teacher": unit_rows(3, 2)}
    differ = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 0, 1], [1, 1, 1, 1, 1]]).bool()
    same = {"student": unit_rows(3, 3), "teacher": unit_rows(3, 4)}
    return embeddings, Others(same, {"student": unit_rows(5, 5), "teacher": unit_rows(5, 6)}, differ)


def test_loss_equals_a_loop_written_from_the_paper() -> None:
    embeddings, others = random_others()
    wanted = sum(
        slow_loss(embeddings[own], others.same[other], others.drawn[other], others.differ, 40, 0.3)
        for own, other in (("student", "teacher"), ("teacher", "student"))
    )
    found = Contrast(1, 1, 4, 0.3).double().loss(embeddings, others, 40)
    # Added before the logarithm in a slightly different place.
    assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_gradient_is_right_in_double_precision() -> None:
    embeddings, others = random_others()
    parts = Contrast(1, 1, 4, 0.3).double().eval()
    parts.normalisers.fill_(50.0)

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return parts.loss({"student": student, "teacher": teacher}, others, 40)

    student, teacher = (embeddings[role].requires_grad_() for role in ("student", "teacher"))
    assert torch.autograd.gradcheck(loss, (student, teacher))


def test_an_image_without_negatives_costs_next_to_nothing_and_stays_finite() -> None:
    positive = torch.full((2,), 0.1, requires_grad=True)
    negative = torch.full((2, 3), 0.1, requires_grad=True)
    value = contrastive_loss(positive, negative, torch.zeros(2, 3).bool(), 10)
    value.backward()
    assert value.isfinite()
    assert positive.grad.isfinite().all()
    assert torch.equal(negative.grad, torch.zeros(2, 3))


def make(pair: Pair, **settings: object) -> Distiller:
    return Distiller(*pair, [Contrastive(**settings)], example=EXAMPLE, task_weight=0, train_labels=LABELS)


def step(distiller: Distiller, places: list[int]) -> Tensor:
    images = torch.randn(len(places), 3, 16, 16, generator=torch.Generator().manual_seed(places[0]))
    index = torch.tensor(places)
    return distiller(images, LABELS[index], index).loss


def test_an_image_without_a_label_has_no_negatives_in_a_queue_and_is_nobodys() -> None:
    queue, rows = Queue(3, 2), torch.ones(3, 2)
    batch = Batch(torch.empty(3, 3, 1, 1), torch.tensor([0, -100, 1]))
    for _ in range(2):
        others = queue.others(batch, {"student": rows, "teacher": rows})
        queue.remember(batch, {"student": rows, "teacher": rows})
    assert others.differ.int().tolist() == [[0, 0, 1] * 2, [0] * 6, [1, 0, 0] * 2]


def test_an_image_without_a_label_contradicts_no_training_label(small_pair: Pair) -> None:
    distiller, images = make(small_pair).train(), torch.randn(2, 3, 16, 16)
    out = distiller(images, torch.tensor([0, -100]), torch.tensor([0, 1]))
    assert out.loss.isfinite()


@pytest.mark.parametrize("memory", ["bank", "queue"])
def test_normaliser_is_that_of_the_first_batch_and_stays(small_pair: Pair, memory: str) -> None:
    distiller = make(small_pair, memory=memory, num_negatives=16)
    found = distiller.parts["crd"].normalisers
    assert torch.equal(found, torch.zeros(2))
    distiller.eval()
    step(distiller, [0, 1, 2])
    assert torch.equal(found, torch.zeros(2))
    distiller.train()
    step(distiller, [0, 1, 2])
    first = found.clone()
    assert (first > 0).all()
    step(distiller, [3, 4, 5])
    assert torch.equal(found, first)


def test_only_entries_of_the_batch_move_and_keep_unit_norm(small_pair: Pair) -> None:
    distiller = make(small_pair)
    bank = distiller.parts["crd"].memory
    before = bank.student.clone()
    step(distiller, [4, 7])
    moved = (bank.student != before).any(1)
    assert moved.nonzero().flatten().tolist() == [4, 7]
    torch.testing.assert_close(bank.student[[4, 7]].norm(dim=1), torch.ones(2))
    before = bank.student.clone()
    distiller.eval()
    step(distiller, [4, 7])
    assert torch.equal(bank.student, before)


def test_new_memories_have_a_norm_of_about_one_and_are_alike_everywhere() -> None:
    bank = Bank(torch.arange(500) % 7, 128, 100, 0.5)
    assert float(bank.student.norm(dim=1).mean()) == pytest.approx(1, abs=0.02)
    assert float(bank.student.mean()) == pytest.approx(0, abs=0.01)
    assert not torch.equal(bank.student, bank.teacher)
    torch.manual_seed(5)
    assert torch.equal(bank.teacher, Bank(torch.arange(500) % 7, 128, 100, 0.5).teacher)


def test_negatives_are_of_other_classes_never_twice_and_as_many_as_asked_for() -> None:
    labels = torch.tensor([0] * 10 + [1] * 30 + [2] * 60)
    bank = Bank(labels, 2, 20, 0.5)
    bank.student.copy_(torch.stack([torch.arange(100.0), labels.float()], 1))
    index = torch.tensor([0, 50])
    counts = []
    for _ in range(200):
        others = bank.others(Batch(torch.empty(2, 3, 1, 1), None, index), {})
        places, classes = others.drawn["student"].T
        assert len(places.unique()) == len(places)
        assert torch.equal(others.differ, labels[index][:, None] != classes)
        assert torch.equal(others.same["student"][:, 0], index.float())
        counts.append(others.differ.sum(1).tolist())
    # Drawn so that the mean over images, not over classes, is right.
    shares = torch.tensor([0.1, 0.3, 0.6])
    assert bank.num_drawn == draws_needed(labels, 20) == round(20 / (1 - float(shares.square().sum())))
    means = torch.tensor(counts).double().mean(0)
    torch.testing.assert_close(means, bank.num_drawn * torch.tensor([0.9, 0.4]).double(), rtol=0.05, atol=0)


def test_a_small_data_set_gives_all_that_it_has(small_pair: Pair) -> None:
    bank = make(small_pair).parts["crd"].memory
    others = bank.others(Batch(EXAMPLE, None, torch.tensor([0, 1])), {})
    assert others.differ.sum(1).tolist() == [16, 16]


def test_a_queue_keeps_the_latest_and_leaves_out_its_own_class_and_empty_places() -> None:
    queue = Queue(4, 2)
    for start in (0, 3):
        rows = torch.arange(start, start + 3.0)[:, None].expand(3, 2)
        batch = Batch(torch.empty(3, 3, 1, 1), torch.tensor([0, 1, start]))
        others = queue.others(batch, {"student": rows, "teacher": -rows})
        queue.remember(batch, {"student": rows, "teacher": -rows})
        if start == 0:
            wanted = [[0, 1, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0]]
            assert others.differ.int().tolist() == wanted
    assert queue.student[:, 0].tolist() == [3, 4, 5, 0]
    assert queue.teacher[:, 0].tolist() == [-3, -4, -5, 0]
    assert queue.labels.tolist() == [0, 1, 3, 0]
    assert others.drawn["teacher"][:, 0].tolist() == [-3, -4, -5, 0, -1, -2, 0]
    assert others.differ[2].tolist() == [True, True, False, True, True, True, False]


@pytest.mark.parametrize("memory", ["bank", "queue"])
def test_training_goes_on_from_what_was_saved(small_pair: Pair, memory: str) -> None:
    distiller = make(small_pair, memory=memory, num_negatives=4)
    step(distiller, [0, 1, 2, 3])
    saved = {name: value.clone() for name, value in distiller.state_dict().items()}
    torch.manual_seed(1)
    wanted = step(distiller, [0, 4])
    distiller.load_state_dict(saved)
    torch.manual_seed(1)
    assert torch.equal(step(distiller, [0, 4]), wanted)
    # The labels of the data set are no part of it.
    assert "parts.crd.memory.student" in saved
    assert ("parts.crd.memory.labels" in saved) == (memory == "queue")


@pytest.mark.parametrize("memory", ["bank", "queue"])
def test_training_tells_the_same_image_from_others(small_pair: Pair, memory: str) -> None:
    torch.manual_seed(0)
    distiller = make(small_pair, memory=memory, temperature=0.2, num_negatives=24)
    parts = distiller.parts["crd"]
    optimizer = torch.optim.Adam(distiller.trainable_parameters(), 0.01)
    # Each image has one colour.
    images = 2 * torch.randn(24, 3, 1, 1).expand(-1, -1, 16, 16)

    def ranks() -> float:
        """How many other images come before the same one, on average."""
        with torch.no_grad():
            pooled = [network.layer2(network.layer1(images)).mean((2, 3)) for network in small_pair]
            likeness = unit(parts.student(pooled[0])) @ unit(parts.teacher(pooled[1])).T
        return float((likeness > likeness.diag()[:, None]).float().sum(1).mean())

    before = ranks()
    for _ in range(40):
        optimizer.zero_grad()
        distiller(images, LABELS, torch.arange(24)).loss.backward()
        optimizer.step()
    assert before > 8
    assert ranks() < 4


@compiled_whole
@pytest.mark.parametrize("memory", ["bank", "queue"])
def test_a_compiled_step_gives_the_same(small_pair: Pair, memory: str) -> None:
    # All are drawn: which ones are is the only thing that differs.
    distiller = make(small_pair, memory=memory, num_negatives=24).eval()
    wanted = step(distiller, [0, 1, 2])
    compiled = torch.compile(distiller, backend="eager", fullgraph=True)
    torch.testing.assert_close(step(compiled, [0, 1, 2]), wanted)


def test_what_cannot_be_contrasted_is_refused_when_it_is_built(
    small_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="crd needs the labels of all training images"):
        Distiller(*small_pair, [Contrastive()], example=EXAMPLE)
    for memory in ("bank", "queue"):
        with pytest.raises(ValueError, match="all 5 training images are of class 2, which has no negatives"):
            Distiller(*small_pair, [Contrastive(memory=memory)], example=EXAMPLE, train_labels=torch.full((5,), 2))
    monkeypatch.setattr(memory_bank, "memory_of", lambda device: 20_000)
    with pytest.raises(ValueError, match=r"0\.0234 MiB, twice that while it is built, and cpu has 0\.0191 MiB in"):
        Distiller(*small_pair, [Contrastive()], example=EXAMPLE, train_labels=LABELS)
    assert Distiller(*small_pair, [Contrastive(memory="queue")], example=EXAMPLE).parts["crd"].memory is not None


def test_smoothed_labels_are_no_contradiction(small_pair: Pair) -> None:
    shares = torch.full((2, 6), 0.02).scatter(1, torch.tensor([[0], [1]]), 0.9)
    out = make(small_pair).train()(torch.randn(2, 3, 16, 16), shares, torch.tensor([0, 1]))
    assert out.terms["crd"].value.isfinite()


@pytest.mark.parametrize(
    ("index", "labels", "words"),
    [
        ([0, 99], [0, 1], "dataset indices from 0 to 99, and train_labels are those of 24 images"),
        ([-1, 0], [2, 0], "dataset indices from -1 to 0"),
        ([0, 1, 2], [0, 1], "one whole number .* for each of the 2 images, not torch.int64 of shape"),
        ([0.0, 1.0], [0, 1], "one whole number .* not torch.float32"),
        ([0, 1], [1, 0], "both must count the training images in the same order"),
    ],
)
def test_places_that_are_not_those_of_the_images_are_refused(
    small_pair: Pair, index: list[float], labels: list[int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        make(small_pair).train()(torch.randn(2, 3, 16, 16), torch.tensor(labels), torch.tensor(index))


def test_what_a_step_needs_is_asked_for(small_pair: Pair) -> None:
    images = torch.randn(2, 3, 16, 16)
    with pytest.raises(ValueError, match="index is needed"):
        make(small_pair)(images, torch.tensor([0, 1]))
    queue = make(small_pair, memory="queue")
    with pytest.raises(ValueError, match="labels are needed"):
        queue(images)
    with pytest.raises(ValueError, match="crd: labels must be class indices"):
        queue(images, torch.full((2, 5), 0.2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_negatives": 0}, "at least 1, not 0 and 128"),
        ({"dimensions": 0}, "at least 1, not 16384 and 0"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0"),
        ({"momentum": 1.0}, "momentum must be 0 ≤ m < 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Contrastive(**settings)


# ---------------- how much memory a device has, and which parts of methods ask for it


@pytest.mark.skipif(not hasattr(os, "sysconf_names"), reason="this system does not say how much memory it has")
def test_main_memory_is_known_here() -> None:
    there = memory_of(torch.device("cpu"))
    assert there is not None
    assert there > 2**28


def test_a_bank_asks_for_the_memory_of_the_device_that_it_moves_to(
    small_pair: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Distiller(
        *small_pair, [Contrastive()], example=torch.empty(2, 3, 16, 16), train_labels=torch.arange(24) % 3
    )
    bank = built.parts["crd"]
    assert isinstance(bank, ChecksMemory)
    small = torch.device("meta")
    monkeypatch.setattr(memory_bank, "memory_of", lambda device: 20_000 if device == small else 2**40)
    bank.check_memory(64, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"meta has 0\.0191 MiB in all: use memory='queue'"):
        bank.check_memory(64, small)
