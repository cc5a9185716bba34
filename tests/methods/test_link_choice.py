"""Which links there are, in words and in files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

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
