"""iNaturalist as its archives and annotations lie on disk."""

import json
from pathlib import Path
from typing import Any

import pytest
from torchvision import datasets

from attention_transfer.data import load

SPECIES = ("Aves/0", "Aves/1", "Plantae/2")


def edit(file: Path, change: Any) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_photographs_come_with_the_official_split(nature: Path):
    dataset = load("inaturalist-2018", root=nature)
    assert dataset.name == "inaturalist-2018"
    assert dataset.classes == ("species 0", "species 1", "species 2")
    assert dataset.train.labels.tolist() == [0, 1, 2, 0, 2, 0, 0]
    assert dataset.test.labels.tolist() == [2, 0, 1]
    assert dataset.test.images.shape == (3, 224, 224, 3)
    assert dataset.photographs
    assert len(load("inaturalist-2018", root=nature, train_limit=2).train) == 2


def test_torchvisions_folder_does_as_well(nature: Path):
    before = load("inaturalist-2018", root=nature)
    (nature / "train_val2018").rename(nature / "2018")
    after = load("inaturalist-2018", root=nature)
    assert (before.train.images == after.train.images).all()
    theirs = datasets.INaturalist(nature, version="2018")
    assert len(theirs) == 10
    assert [theirs.category_name("full", label) for label in range(3)] == list(SPECIES)
    # The root may be the folder itself.
    assert load("inaturalist-2018", root=nature / "2018").test.labels.tolist() == [2, 0, 1]


def test_the_layout_of_2017_names_folders_after_species(nature: Path):
    dataset = load("inaturalist-2017", root=nature, image_size=32)
    assert dataset.classes == ("species 0", "species 1", "species 2")
    assert dataset.test.images.shape == (3, 32, 32, 3)


def test_what_is_missing_or_does_not_fit_is_said(nature: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"no folder train_val2019 in .*: unpack train_val2019.tar.gz and the annot"):
        load("inaturalist-2019", root=tmp_path / "elsewhere")
    val, train = nature / "val2018.json", nature / "train2018.json"
    kept = val.read_text()
    edit(val, lambda content: content["categories"].pop())
    with pytest.raises(ValueError, match=r"the categories of .*val2018.json are not numbered 0…1"):
        load("inaturalist-2018", root=nature)
    val.write_text(kept)
    edit(val, lambda content: content["categories"][0].update(name="other"))
    with pytest.raises(ValueError, match="list different categories: take both from the same archive"):
        load("inaturalist-2018", root=nature)
    val.write_text(kept)
    edit(val, lambda content: content["annotations"][0].update(category_id=7))
    with pytest.raises(ValueError, match=r"gives image 102 \(.*val2.jpg\) the category 7, which it does not list"):
        load("inaturalist-2018", root=nature)
    val.write_text("[]")
    with pytest.raises(ValueError, match=r"val2018.json is no file of annotations"):
        load("inaturalist-2018", root=nature)
    train.unlink()
    with pytest.raises(ValueError, match=r"there is no file train2018.json beside .*: put the competition"):
        load("inaturalist-2018", root=nature)


@pytest.mark.parametrize("content", ['{"categories": [{"id": Infinity, "name": "a"}]}', "[" * 100_000, "null", "3"])
def test_annotations_that_cannot_be_are_refused(nature: Path, content: str):
    (nature / "val2018.json").write_text(content)
    with pytest.raises(ValueError, match=r"val2018.json is no file of annotations"):
        load("inaturalist-2018", root=nature)
