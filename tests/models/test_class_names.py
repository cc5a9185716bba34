"""Names of classes and their order: which are the same, and when nobody can tell."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attention_transfer.data.dataset import are_numbered
from attention_transfer.models import OpenedModel, build, describe, open_model, save_model
from attention_transfer.models.class_names import imagenet_synsets, names_in, pair_classes
from attention_transfer.models.class_order import with_classes_of

THEIRS, OURS = ("ant", "bee", "cow", "dog"), ("cow", "ant", "dog", "bee")
ORDER = [2, 0, 3, 1]
SIDE = 32


def logits(module: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        return module.eval()(torch.randn(2, 3, SIDE, SIDE, generator=generator))


def opened(name: str, folder: Path, classes: Any = THEIRS) -> OpenedModel:
    """A trained network with names of its classes, as a run keeps it."""
    torch.manual_seed(0)
    save_model(build(name, 4, image_size=SIDE), folder, name, 4, SIDE, extra={"classes": classes})
    return open_model(str(folder))


@pytest.mark.parametrize(
    "name",
    [
        "resnet8",
        "vgg8",
        "timm:test_vit",
        "timm:test_convnext",
        "timm:deit_tiny_distilled_patch16_224(embed_dim=12, depth=1, num_heads=1)",
        "torchvision:squeezenet1_1",
    ],
)
def test_logits_come_in_the_order_of_the_data(name: str, tmp_path: Path) -> None:
    before = opened(name, tmp_path)
    wanted = logits(before.module)[:, ORDER]
    found = with_classes_of(before, OURS, (SIDE, SIDE))
    torch.testing.assert_close(logits(found.module), wanted)
    assert found.classes == OURS
    assert "4 of its 4 classes are brought from its own order into that of the data" in found.notes[0]


def test_a_network_of_transformers_too(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8,
        id2label=dict(enumerate(THEIRS)),
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    before = open_model(f"hf:{tmp_path}@pretrained")
    assert before.classes == THEIRS
    wanted = logits(before.module)[:, ORDER]
    torch.testing.assert_close(logits(with_classes_of(before, OURS, (SIDE, SIDE)).module), wanted)
    # Labels that transformers numbers are no names.
    numbered = open_model(f"hf:{tmp_path}@pretrained", 3, new_head=True)
    assert numbered.classes is None


@pytest.mark.parametrize(
    "classes", [THEIRS[:3], list("abcd"), [f"LABEL_{i}" for i in range(4)], ["ant", 2, "cow", "dog"]]
)
def test_what_says_nothing_of_the_order_is_left_alone(classes: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build("resnet8", 4)
    torch.save({"state_dict": model.state_dict(), "classes": classes}, tmp_path / "file.pt")
    before = open_model(f"resnet8@{tmp_path / 'file.pt'}")
    found = with_classes_of(before, OURS, (SIDE, SIDE))
    assert found is before
    assert torch.equal(logits(found.module), logits(model))


@pytest.mark.parametrize(
    ("key", "value"), [("classes", THEIRS), ("class_to_idx", {n: i for i, n in enumerate(THEIRS)})]
)
def test_a_checkpoint_may_say_what_its_classes_are(key: str, value: Any, tmp_path: Path) -> None:
    model = build("resnet8", 4)
    torch.save({"model": model.state_dict(), key: value}, tmp_path / "file.pt")
    assert open_model(f"resnet8@{tmp_path / 'file.pt'}").classes == THEIRS
    assert open_model(str(tmp_path / "file.pt")).classes == THEIRS


def test_the_weights_of_a_run_know_their_classes_under_another_name_too(tmp_path: Path) -> None:
    opened("resnet8", tmp_path)
    assert open_model(f"resnet8@{tmp_path / 'student.safetensors'}").classes == THEIRS
    assert open_model(str(tmp_path), 4, new_head=True).classes is None


def test_a_run_without_names_opens_as_before(tmp_path: Path) -> None:
    save_model(build("resnet8", 4), tmp_path, "resnet8", 4)
    assert open_model(str(tmp_path)).classes is None


class Shuffled(nn.Module):
    """A network whose logits are not in the order of its last layer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        return self.inner.state_dict(*arguments, **options)

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images).flip(1)


def test_logits_that_do_not_follow_the_last_layer_are_refused() -> None:
    module = Shuffled(build("resnet8", 4)).eval()
    network = OpenedModel(module, "resnet8", 4, None, describe(module), trained=True, classes=THEIRS)
    with pytest.raises(ValueError, match="its logits do not follow its last layer"):
        with_classes_of(network, ("bee", "ant", "cow", "dog"), (SIDE, SIDE))


@pytest.mark.parametrize(
    ("name", "count"), [("torchvision:squeezenet1_1", 1000), ("timm:test_vit", 1000), ("timm:test_vit", 999)]
)
def test_published_weights_have_the_classes_that_their_library_names(
    name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attention_transfer.models import opening

    module = build(name, count, image_size=64)
    monkeypatch.setattr(opening, "build", lambda *arguments, **options: module)
    classes = open_model(f"{name}@pretrained", 5, 64).classes
    first = {1000: {"tench", "n01440764"}, 999: {None}}[count]
    assert (classes[0] if classes else None) in first


def test_a_network_of_timm_from_a_folder_has_the_names_that_stand_there() -> None:
    from attention_transfer.models.class_names import published_classes

    module = build("timm:test_vit", 2)
    module.pretrained_cfg = {**module.pretrained_cfg, "label_names": ["cat", "dog"], "num_classes": 2}  # pyright: ignore
    assert published_classes(module, "timm:test_vit", 2) == ("cat", "dog")


# ---------------------------------------------------------------- names of classes


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("cat", "dog", "cow"), ("cat", "dog", "cow")),
        (("Cat", "DOG", "cow"), ("cat", "dog", "COW")),
        (("aquarium_fish", "maple tree"), ("aquarium fish", "maple-tree")),
        (("Köln", "Mañana"), ("koln", "manana")),
        (("001.Black_footed_Albatross", "002.Laysan_Albatross"), ("Black footed Albatross", "Laysan Albatross")),
        (("tench, Tinca tinca", "goldfish"), ("n01440764", "n01443537")),
        (("n01440764 tench", "n01443537_goldfish"), ("tench", "Carassius auratus")),
        (("A", "a"), ("A", "a")),
    ],
)
def test_the_same_classes_are_known_however_they_are_spelled(theirs: tuple[str, ...], ours: tuple[str, ...]) -> None:
    found = pair_classes(theirs, ours)
    assert (found.order, found.difference) == (None, "")
    turned = pair_classes(theirs[::-1], ours)
    assert (turned.order, turned.difference) == (tuple(range(len(ours)))[::-1], "")


def test_an_order_says_where_each_class_of_the_data_is() -> None:
    names = [f"{word} fish" for word in ["red", "green", "blue", "black", "white"]]
    shuffled = random.Random(0).sample(names, len(names))
    order = pair_classes(names, shuffled).order
    assert order is not None
    assert [names[index] for index in order] == shuffled


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("LABEL_0", "LABEL_1"), ("cat", "dog")),
        (("0", "1"), ("cat", "dog")),
        (("class 1", "class 2"), ("cat", "dog")),
        (None, ("cat", "dog")),
        (("cat", "dog", "cow"), ("cat", "dog")),
    ],
)
def test_without_names_nothing_is_said(theirs: tuple[str, ...] | None, ours: tuple[str, ...]) -> None:
    found = pair_classes(theirs, ours)
    assert (found.order, found.difference) == (None, "")


def test_numbers_of_the_data_are_names_only_where_they_are_said_to_be() -> None:
    assert pair_classes(("cat", "dog"), ("0", "1"), named=False).difference == ""
    assert "'cat', 'dog'" in pair_classes(("cat", "dog"), ("0", "1"), named=True).difference
    assert pair_classes(("1", "0"), ("0", "1"), named=False).order == (1, 0)


def test_other_classes_are_named_on_both_sides() -> None:
    cifar = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    stl = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    difference = pair_classes(cifar, stl).difference
    assert "2 of the data's 10 classes" in difference
    assert "('car', 'monkey')" in difference
    assert "('automobile', 'frog')" in difference


def test_one_other_class_is_enough_to_be_others() -> None:
    assert "'cow'" in pair_classes(("cat", "dog", "cow"), ("cat", "dog", "hen")).difference


def test_a_class_that_could_be_two_is_not_guessed() -> None:
    assert pair_classes(("crane", "crane, bird"), ("crane", "other")).difference
    assert pair_classes(("big cat, puma", "small cat, puma"), ("puma", "puma, small cat")).order is None


def test_imagenet_is_known_by_its_order_and_by_its_names() -> None:
    categories = pytest.importorskip("torchvision").models.get_model_weights("resnet18").DEFAULT.meta["categories"]
    synsets = imagenet_synsets()
    assert pair_classes(categories, synsets).order is None
    assert not pair_classes(categories, synsets).difference
    order = random.Random(0).sample(range(1000), 1000)
    assert pair_classes(categories, [synsets[index] for index in order]).order == tuple(order)


@pytest.mark.parametrize(
    ("names", "numbered"),
    [
        (("0", "1", "2"), True),
        (("1", "10", "2", "3", "4", "5", "6", "7", "8", "9"), True),
        (("flower 1", "flower 2"), True),
        (("LABEL_0", "LABEL_1"), True),
        (("n01440764", "n01443537"), False),
        (("A318", "A319"), False),
        (("cat", "1"), False),
        (("0", "0"), False),
        ((), False),
    ],
)
def test_numbers_are_told_from_names(names: tuple[str, ...], numbered: bool) -> None:
    assert are_numbered(names) == numbered


@pytest.mark.parametrize(
    "content",
    [
        ["cat", "dog"],
        ("cat", "dog"),
        {"cat": 0, "dog": 1},
        {1: "dog", 0: "cat"},
        {"0": "cat", "1": "dog"},
    ],
)
def test_names_are_read_as_people_write_them(content: object) -> None:
    assert names_in(content, 2) == ("cat", "dog")


@pytest.mark.parametrize(
    "content",
    [None, "cat", ["cat"], ["cat", "cat"], ["cat", 1], {"cat": 1, "dog": 2}, {"a": "cat"}, {0: "cat", 2: "dog"}, 3, {}],
)
def test_anything_else_is_no_list_of_names(content: object) -> None:
    assert names_in(content, 2) is None
