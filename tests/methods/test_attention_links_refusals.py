"""Attention links: what they refuse."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from tests.methods.test_attention_links import EXAMPLE, linked, links_of, transformer
from torch import nn

from attention_transfer import AttentionLinks, Distiller, build
from attention_transfer.methods.attention_links import link_weights
from attention_transfer.methods.attention_links.selection import LinkChoice, LinkGroup, links_to_json


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
