"""The vector that a network's last layer takes."""

import pytest
import timm
import torch
from torch import nn

from attention_transfer import Description, Stage, Tap, build, describe
from attention_transfer.methods.layers.stage_selection import embedding, embedding_tap


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2_half", "wrn_16_1"])
def test_it_is_what_the_head_takes(name: str) -> None:
    model = build(name, 5).eval()
    tap = embedding_tap(describe(model), "student")
    head = model.get_submodule(tap.module)
    assert isinstance(head, nn.Linear)
    assert (tap.site, tap.layout) == ("input", "raw")


def test_it_holds_for_a_class_token_too() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=1, num_classes=5)
    assert embedding_tap(describe(model), "teacher") == Tap("head", "input", "raw")


def test_without_a_linear_head_it_is_the_average_of_the_last_stage() -> None:
    description = Description(stages=(Stage(Tap("a"), None), Stage(Tap("b"), None)))
    assert embedding_tap(description, "student") == Tap("b")
    features = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(embedding(features, "student"), features.sum((2, 3)) / 20)
    assert embedding(features.half(), "student").dtype == torch.float32


def test_a_named_layer_comes_first() -> None:
    description = Description(stages=(Stage(Tap("a", layout="nhwc"), None),), head="fc")
    assert embedding_tap(description, "student", "b") == Tap("b", layout="nhwc")


def test_what_is_no_vector_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"neither a linear head nor stages were found in the teacher.*teacher_layer="):
        embedding_tap(Description(stages=()), "teacher")
    with pytest.raises(ValueError, match=r"the student's head takes a value of shape \(2, 3, 4\).*student_layer="):
        embedding(torch.zeros(2, 3, 4), "student")
