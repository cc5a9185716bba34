"""Which attention links there are, what they refuse, and their modules compiled and in a state dict."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from tests.closeness import assert_near
from tests.known import compiled_whole
from tests.methods.test_attention_links import EXAMPLE, images, linked, links_of, transformer
from tests.trained import as_trained
from torch import Tensor, nn

from attention_transfer import AttentionLinks, Distiller, build
from attention_transfer.methods.attention_links import link_weights
from attention_transfer.methods.attention_links.extraction import extracted, trained_links
from attention_transfer.methods.attention_links.selection import (
    LinkChoice,
    LinkGroup,
    LinksError,
    chosen_links,
    links_to_json,
    read_links,
)

CHOICE = LinkChoice(
    ((LinkGroup((0, 1)),), (LinkGroup((2,), (0, 3)), LinkGroup((0, 2), (1,))), ()), channels=(2, 4, 8), heads=(3, 3, 6)
)
STAGES, LAYERS = ("layer1", "layer2", "layer3"), ("blocks.0", "blocks.1", "blocks.2")


def layers(choice: LinkChoice) -> list[list[int]]:
    """Of each stage, from 1, as the paper counts."""
    return [[layer + 1 for group in groups for layer in group.layers] for groups in choice.stages]


def test_the_papers_tables_are_written_as_they_are_printed():
    def span(first: int, last: int) -> list[int]:
        return list(range(first, last + 1))

    alpha = [span(*each) for each in ((1, 3), (1, 5), (3, 5), (4, 6), (4, 6), (6, 11), (7, 12))]
    beta = [span(*each) for each in ((1, 2), (1, 5), (3, 5), (4, 6), (4, 7), (6, 10), (7, 10))]
    assert layers(chosen_links("alpha", 7, 12)) == alpha
    assert layers(chosen_links("beta", 7, 12)) == beta


def test_full_links_are_all_of_them():
    choice = chosen_links("full", 3, 4)
    assert layers(choice) == [[1, 2, 3, 4]] * 3
    assert choice.linked_stages == (0, 1, 2)
    assert choice.linked_layers == (0, 1, 2, 3)
    assert choice.num_groups == 12


def test_links_can_be_written_by_stage():
    assert layers(chosen_links("1:1-3, 3:2+4", 3, 4)) == [[1, 2, 3], [], [2, 4]]
    assert chosen_links("3:2+4", 3, 4).linked_stages == (2,)


@pytest.mark.parametrize(
    ("links", "reason"),
    [
        ("alpha", "7 stages and 12 layers"),
        ("4:1", "no stage 4"),
        ("0:1", "no stage 0"),
        ("1:0-2", "counted from 1"),
        ("1:3-2", "ascend"),
        ("1:1,1:2", "given twice"),
        ("some", "none of these"),
        ("1:1-999999999", "no layer 999999999 to link: the student has layers 1 to 4"),
        ("1:1+5", "no layer 5 to link"),
        (f"1:1-{'9' * 50}", "none of these"),
        ("nowhere.json", "none of these"),
    ],
)
def test_links_that_do_not_exist_are_refused(links: str, reason: str):
    with pytest.raises(LinksError, match=reason):
        chosen_links(links, 3, 4)


def test_a_file_gives_back_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "links.json"
    path.write_text(links_to_json(CHOICE, {"threshold": 0.05}))
    assert read_links(path) == CHOICE
    assert json.loads(path.read_text())["threshold"] == 0.05
    assert len(path.read_text().splitlines()) < 50
    monkeypatch.setenv("LINKS", str(tmp_path))
    placed = replace(CHOICE, stage_places=STAGES, layer_places=LAYERS)
    path.write_text(links_to_json(placed, {}))
    assert chosen_links("$LINKS/links.json", 3, 3) == placed


def test_files_that_hold_no_links_are_refused(tmp_path: Path):
    path = tmp_path / "links.json"
    empty = links_to_json(LinkChoice(((), ()), channels=(1, 2), heads=(3,)), {})
    for text, reason in (
        ("{", "holds no links as"),
        ("[]", "holds no links as"),
        ("[" * 100_000, "holds no links as"),
        ('{"kind": "attention links", "heads": [Infinity], "stages": []}', "holds no links as"),
        ('{"kind": "student"}', "kind is 'student'"),
        (empty, "no link at all"),
        (links_to_json(CHOICE, {}).replace('"layers": [1, 2]', '"layers": []'), "links nothing"),
        (links_to_json(CHOICE, {}).replace('"stage": 1', '"stage": 3'), "its stages are numbered"),
        (links_to_json(CHOICE, {}).replace('"layers": []', '"layers": "abc"'), "its layers are 'abc', not a list"),
        ('{"kind": "attention links", "heads": [1], "stages": [{"stage": 1, "links": ["x"]}]}', "holds no links as"),
        (links_to_json(replace(CHOICE, layer_places=LAYERS[:2]), {}), "names 2 layers and has heads of 3"),
        (links_to_json(CHOICE, {}).replace('"layers": [1, 2]', '"layers": [1, 1]'), "names a layer twice"),
        (links_to_json(CHOICE, {}).replace("[0, 3]", "[-1, 3]"), "a channel below 0"),
        # One combination for each channel: that of all its layers.
        (links_to_json(CHOICE, {}).replace("[0, 3]", "[0, 1]"), "channels of stage 2 in several of its links"),
        (links_to_json(CHOICE, {}).replace("[0, 3]", "[0, 0]"), "channels of stage 2 in several of its links"),
        (links_to_json(CHOICE, {}).replace("[0, 3]", "null"), "channels of stage 2 in several of its links"),
    ):
        path.write_text(text)
        with pytest.raises(LinksError, match=reason):
            read_links(path)


def test_links_of_another_pair_are_refused():
    CHOICE.check_places(STAGES, LAYERS)
    # The third stage has no links, so that it is not read.
    CHOICE.check_sizes((2, 4), (3, 3, 6))
    for stages, layers in (((*STAGES, "layer4"), LAYERS), (STAGES, LAYERS[:2])):
        with pytest.raises(LinksError, match=r"the links belong to a (teacher|student) of 3 .*extract its own"):
            CHOICE.check_places(stages, layers)
    with pytest.raises(LinksError, match="no layer 3 to link: the student has layers 1 to 2"):
        chosen_links("1:1-3", 1, 2).check_places(STAGES[:1], LAYERS[:2])
    with pytest.raises(LinksError, match="teacher with 2, 4 channels in its linked stages, and this one has 2, 9"):
        CHOICE.check_sizes((2, 9), (3, 3, 6))
    with pytest.raises(LinksError, match="student with 3, 3, 6 heads in its layers, and this one has 3 times 3"):
        CHOICE.check_sizes((2, 4), (3, 3, 3))
    with pytest.raises(LinksError, match="stage 1 of the teacher has 2 channels, and none has number 5"):
        LinkChoice(((LinkGroup((0,), (5,)),),)).check_sizes((2,), (3,))


def test_links_of_networks_of_the_same_sizes_that_are_read_elsewhere_are_refused():
    choice = replace(
        CHOICE, stage_places=("input of layer1.0.relu2", "input of layer2.0.relu2", ""), layer_places=LAYERS
    )
    choice.check_places(("input of layer1.0.relu2", "input of layer2.0.relu2", "anything"), LAYERS)
    deeper = ("input of layer1.8.relu2", "input of layer2.8.relu2", "input of layer3.8.relu2")
    with pytest.raises(LinksError, match=r"stage 1 is «input of layer1.0.relu2», and this one's is «input of layer1.8"):
        choice.check_places(deeper, LAYERS)
    with pytest.raises(LinksError, match=r"student whose layer 3 is «blocks.2», and this one's is «blocks.3»"):
        choice.check_places(("input of layer1.0.relu2", "input of layer2.0.relu2", ""), (*LAYERS[:2], "blocks.3"))


# ---------------------------------------------------------------- attention links


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"stages": ()}, "at least one"),
        ({"stages": (0,), "teacher_layers": ("layer1",)}, "either stages"),
        ({"grid": (1, 4)}, "at least 2 rows"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=reason):
        AttentionLinks(**settings)


def test_pairs_that_do_not_fit_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="the student has no self-attention layers"):
        linked(AttentionLinks(), student=build("resnet8", 3))
    with pytest.raises(ValueError, match="need a teacher"):
        Distiller(transformer(), None, [AttentionLinks()], example=EXAMPLE)
    with pytest.raises(ValueError, match="no stage 5"):
        linked(AttentionLinks(stages=(5,)))
    with pytest.raises(ValueError, match="no stages were found in the teacher: name modules of it with teacher_layers"):
        linked(AttentionLinks(), teacher=nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))
    with pytest.raises(ValueError, match=r"the student has a grid of 1×1 patches"):
        linked(AttentionLinks(), student=transformer(patch_size=16))
    path = tmp_path / "links.json"
    path.write_text(links_to_json(LinkChoice(((LinkGroup((0,)),),) * 3, (16, 32, 99), (3, 3, 3)), {}))
    with pytest.raises(ValueError, match="16, 32, 99 channels in its linked stages, and this one has 16, 32, 64"):
        linked(AttentionLinks(links=str(path)))
    for twice in ({"stages": (0, -3)}, {"teacher_layers": ("layer1", "layer1")}):
        with pytest.raises(ValueError, match=r"layer1.* of the teacher is chosen more than once"):
            linked(AttentionLinks(**twice))
    with pytest.raises(ValueError, match=r"blocks.0.attn of the student is chosen more than once"):
        linked(AttentionLinks(student_layers=("blocks.0.attn", "blocks.0.attn")))


def test_stages_whose_end_is_not_known_are_refused_with_a_way_out():
    teacher = torchvision.models.googlenet(num_classes=3, aux_logits=False, init_weights=False)
    student = transformer(img_size=32, patch_size=8)
    with pytest.raises(ValueError, match='take activation="post"'):
        Distiller(student, teacher, [AttentionLinks()], example=torch.empty(2, 3, 32, 32))


def test_more_than_memory_holds_is_refused_with_what_to_select(monkeypatch: pytest.MonkeyPatch):
    needed = links_of(linked(AttentionLinks())).bytes_per_image
    channels = 16 * 16 * 16 + 32 * 8 * 8 + 64 * 4 * 4
    assert needed == 4 * channels + 4 * 2 * 112 * 16
    monkeypatch.setattr(link_weights, "memory_of", lambda device: 2 * needed - 1)
    with pytest.raises(ValueError, match=r"16, 32, 64 channels hold .* for a batch of 2.*stages=\(-1,\)"):
        linked(AttentionLinks())
    # Of what is left the last one is not the last of the teacher.
    monkeypatch.setattr(link_weights, "memory_of", lambda device: 0)
    with pytest.raises(ValueError, match=r"16, 32 channels hold .*stages=\(-1,\)"):
        linked(AttentionLinks(stages=(0, 1)))


# ---------------------------------------------------------------- the modules of attention links


def gradients(distiller: Distiller, compiled: bool) -> tuple[float, dict[str, Tensor]]:
    torch.compiler.reset()
    step = torch.compile(distiller, fullgraph=True, backend="aot_eager") if compiled else distiller
    distiller.zero_grad()
    loss = step(images()).loss
    loss.backward()
    # What nothing reaches has no gradient, or compiled one of zero.
    found = {name: p.grad.clone() for name, p in distiller.named_parameters() if p.grad is not None and p.grad.any()}
    return loss.item(), found


@pytest.mark.filterwarnings("ignore:the student learns in evaluation mode")
@compiled_whole
def test_a_step_compiles_in_one_graph_with_links_by_channel_too(tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    groups = (LinkGroup((0, 2), (1, 4)), LinkGroup((1,), (0, 2, 3)))
    path.write_text(links_to_json(LinkChoice((groups, (), (LinkGroup((0,)),)), (16, 32, 64), (3, 3, 3)), {}))
    distiller = linked(AttentionLinks(links=str(path), weight=1.0)).eval()
    (plain, expected), (compiled, found) = (gradients(distiller, compiled) for compiled in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-5)
    assert found.keys() == expected.keys()
    assert sum(name.startswith("parts.") for name in found) == 6
    for name, gradient in expected.items():
        assert_near(found[name], gradient, steps=1024, msg=name)


def test_weights_of_other_links_are_refused_though_they_fit() -> None:
    learned = linked(AttentionLinks(links="1:1-2,3:3")).state_dict()
    same, others = linked(AttentionLinks(links="1:1-2,3:3")), linked(AttentionLinks(links="1:2-3,3:3"))
    same.load_state_dict(learned)
    assert {name: value.shape for name, value in others.state_dict().items()} == {
        name: value.shape for name, value in learned.items()
    }
    for links in ("1:2-3,3:3", "1:1-2,3:2-3", "full"):
        with pytest.raises(ValueError, match="other channels and layers than those that are chosen now"):
            linked(AttentionLinks(links=links)).load_state_dict(learned)


def test_links_of_some_stages_are_extracted_for_the_same_pair_and_no_other(tmp_path: Path) -> None:
    distiller = linked(AttentionLinks(links="1:1-3,2:1-2"))
    state = {f"attention-links.{name}": value for name, value in links_of(distiller).state_dict().items()}
    path = tmp_path / "links.json"
    path.write_text(links_to_json(extracted(trained_links(state), 0.0), {}))
    again = links_of(linked(AttentionLinks(links=str(path))))
    assert again.num_links == links_of(distiller).num_links
    with pytest.raises(ValueError, match=r"stage 1 is «input of layer1.0.relu2», and this one's is «input of l"):
        linked(AttentionLinks(links=str(path)), teacher=as_trained(build("resnet14", 3)))
    # Written before places were.
    del state["attention-links.places"]
    path.write_text(links_to_json(extracted(trained_links(state), 0.0), {}))
    linked(AttentionLinks(links=str(path)), teacher=as_trained(build("resnet14", 3)))


def test_weights_from_before_places_were_written_are_taken() -> None:
    first, second = linked(AttentionLinks()), linked(AttentionLinks())
    state = links_of(first).state_dict()
    del state["places"]
    links_of(second).load_state_dict(state)
    for one, other in zip(links_of(first).parameters(), links_of(second).parameters(), strict=True):
        assert torch.equal(one, other)
