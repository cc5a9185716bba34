from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attention_transfer.data import load


@pytest.fixture
def tiny(tmp_path: Path, write_image: Callable[..., None]) -> Path:
    """Tiny-ImageNet with two of its three classes present."""
    place = tmp_path / "tiny-imagenet-200"
    for c, wnid in enumerate(("n02", "n01")):
        lines: list[str] = []
        for i in range(3):
            write_image(place / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 64, 64, seed=3 * c + i)
            lines.append(f"{wnid}_{i}.JPEG\t{i}\t10\t{63 - i}\t{58 if i else 10}")
        (place / "train" / wnid / f"{wnid}_boxes.txt").write_text("\n".join(lines) + "\n")
    write_image(place / "val" / "images" / "val_0.JPEG", 64, 64)
    (place / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\t1\t2\t3\t4\nval_1.JPEG\tn03\t1\t2\t3\t4\n")
    (place / "wnids.txt").write_text("n02\nn03\nn01\n")
    (place / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\ttrilobite\nn03\tscorpion\n")
    return tmp_path


def test_tiny_imagenet_is_read_with_its_boxes(tiny: Path):
    dataset = load("tiny-imagenet", root=tiny)
    assert dataset.classes == ("trilobite", "goldfish")
    assert dataset.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert dataset.test.labels.tolist() == [1]
    assert dataset.train.images.shape == (6, 64, 64, 3)
    assert dataset.test.boxes.tolist() == [[1, 2, 4, 5]]
    assert np.isnan(dataset.train.boxes[0]).all()  # a box without height
    assert dataset.train.boxes[2].tolist() == [1, 10, 63, 59]
    assert load("tiny-imagenet", root=tiny / "tiny-imagenet-200", image_size=32).train.boxes[2].tolist() == [
        0.5,
        5,
        31.5,
        29.5,
    ]


def test_a_damaged_table_is_refused(tiny: Path, birds: Path):
    (tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\t1\t2\t3\n")
    with pytest.raises(ValueError, match=r"row 0 of .*val_annotations.txt should end with the four sides of a box"):
        load("tiny-imagenet", root=tiny)
    (birds / "CUB_200_2011" / "classes.txt").write_text("1 001.Black_footed_Albatross\n")
    with pytest.raises(ValueError, match=r"gives image 4 class 2, which .*classes.txt does not list"):
        load("cub200", root=birds)


def test_an_incomplete_tiny_imagenet_is_refused(tiny: Path, tmp_path: Path):
    (tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt").unlink()
    with pytest.raises(ValueError, match=r"no file .*val_annotations.txt"):
        load("tiny-imagenet", root=tiny)
    with pytest.raises(ValueError, match=r"no folder tiny-imagenet-200 in .*: unpack http.*or give the root"):
        load("tiny-imagenet", root=tmp_path / "elsewhere")


@pytest.fixture
def birds(tmp_path: Path, write_image: Callable[..., None]) -> Path:
    """CUB with two classes and five photographs of 200×100."""
    place = tmp_path / "CUB_200_2011"
    for i in range(1, 6):
        write_image(place / "images" / ("001.Black_footed_Albatross" if i < 4 else "002.Auk") / f"{i}.jpg", 200, 100, i)
    texts = {
        "classes": ["1 001.Black_footed_Albatross", "2 002.Auk"],
        "images": [f"{i} {'001.Black_footed_Albatross' if i < 4 else '002.Auk'}/{i}.jpg" for i in range(1, 6)],
        "image_class_labels": [f"{i} {1 if i < 4 else 2}" for i in range(1, 6)],
        "train_test_split": [f"{i} {0 if i == 3 else 1}" for i in range(1, 6)],
        "bounding_boxes": [f"{i} 60.0 20.0 40.0 50.0" for i in range(1, 6)],
    }
    for name, lines in texts.items():
        (place / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_birds_are_read_with_their_official_split(birds: Path):
    dataset = load("cub200", root=birds)
    assert dataset.classes == ("Black footed Albatross", "Auk")
    assert dataset.train.labels.tolist() == [0, 1, 0, 1]
    assert dataset.test.labels.tolist() == [0]
    assert dataset.test.images.shape == (1, 224, 224, 3)
    assert dataset.train.images.shape == (4, 256, 512, 3)
    # 100 pixels become 256, of which the central 224 are seen: (512 − 224) / 2 = 144 are cut left, 16 above
    expected = np.array([60, 20, 100, 70]) * 2.56 - [144, 16, 144, 16]
    np.testing.assert_allclose(dataset.test.boxes[0], expected.clip(0, 224), rtol=1e-5)
    assert load("cub200", root=birds / "CUB_200_2011", train_limit=2).train.labels.tolist() == [0, 1]


def test_a_box_outside_the_visible_part_is_unknown(birds: Path):
    (birds / "CUB_200_2011" / "bounding_boxes.txt").write_text(
        "".join(f"{i} 0.0 20.0 {50 if i == 3 else 60}.0 50.0\n" for i in range(1, 6))
    )
    dataset = load("cub200", root=birds)
    assert np.isnan(dataset.test.boxes).all()
    assert not np.isnan(dataset.train.boxes).any()


def test_incomplete_birds_are_refused(birds: Path):
    (birds / "CUB_200_2011" / "train_test_split.txt").write_text("1 1\n2 1\n")
    with pytest.raises(ValueError, match=r"train_test_split.txt says nothing of image 3 and 2 others"):
        load("cub200", root=birds)
    (birds / "CUB_200_2011" / "images.txt").unlink()
    with pytest.raises(ValueError, match=r"no file .*images.txt"):
        load("cub200", root=birds)
