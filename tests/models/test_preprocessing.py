"""What a preprocessor's file says of a network's images, in whatever way it says it."""

import json
from pathlib import Path
from typing import Any

import pytest

from attention_transfer.models import Input
from attention_transfer.models.preprocessing import images_of, preprocessing

HALF = Input((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def assert_same(found: Input | None, wanted: Input) -> None:
    assert found is not None
    assert (*found.mean, *found.std) == pytest.approx((*wanted.mean, *wanted.std), rel=1e-9)


@pytest.mark.parametrize(
    "values",
    [
        {"image_mean": [0.5] * 3, "image_std": [0.25] * 3},
        {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_rescale": True, "rescale_factor": 0.00392156862745098},
        {"image_mean": 0.5, "image_std": 0.25},
        {"image_mean": [0.5], "image_std": [0.25]},
        {"image_mean": [127.5] * 3, "image_std": [63.75] * 3, "do_rescale": False},
        {"image_mean": [127.5] * 3, "image_std": [63.75] * 3, "rescale_factor": 1},
        {"image_mean": [1] * 3, "image_std": [0.5] * 3, "rescale_factor": 2 / 255},
    ],
)
def test_mean_and_deviation_are_those_of_pixels_from_0_to_1(values: dict[str, Any]) -> None:
    assert_same(images_of(values), HALF)


def test_images_that_are_not_normalised_are_known_to_be_so() -> None:
    """They were taken for images of which nothing is known."""
    usual = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_normalize": False}
    assert_same(images_of(usual), Input())
    assert_same(images_of({**usual, "do_rescale": False}), Input((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)))


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {"image_mean": [0.5] * 4, "image_std": [0.5] * 4},
        {"image_mean": ["0.5"] * 3, "image_std": [0.5] * 3},
        {"image_mean": [0.5] * 3, "image_std": [0.5, 0.0, 0.5]},
        {"image_mean": [0.5] * 3, "image_std": [float("nan")] * 3},
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": "x"},
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_offset": True},
    ],
)
def test_what_does_not_tell_is_not_guessed(values: Any) -> None:
    assert images_of(values) is None


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]", b'"x"', b"null"])
def test_a_damaged_file_tells_nothing(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "preprocessor_config.json").write_bytes(content)
    assert preprocessing(str(tmp_path)) is None


def test_a_file_in_a_folder_is_read(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    said = {"image_processor_type": "ViTImageProcessor", "image_mean": [127.5] * 3, "image_std": [63.75] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**said, "do_rescale": False}))
    assert_same(preprocessing(str(tmp_path)), HALF)
