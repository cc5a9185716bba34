"""iNaturalist as its archives and annotations lie on disk."""

import json
from pathlib import Path
from typing import Any

import pytest
from torchvision import datasets

from attention_transfer.data import load

SPECIES = ("Aves/0", "Aves/1", "Plantae/2")


@pytest.fixture
def nature(tmp_path: Path, write_image: Any) -> Path:
    """Four training and two validation images of three species, in the layout of 2018."""
    annotations: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for part, labels in (("train", [0, 0, 2, 1]), ("val", [2, 0])):
        content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
        for number, label in enumerate(labels):
            image = number + (100 if part == "val" else 0)
            file = f"train_val2018/{SPECIES[label]}/{part}{number}.jpg"
            write_image(tmp_path / file, 300, 260, seed=image)
            content["images"].append({"id": image, "file_name": file, "width": 300, "height": 260})
            content["annotations"].append({"id": image, "image_id": image, "category_id": label})
        # In no order; names may be numbers, as they were published first.
        content["categories"] = [{"id": i, "name": f"species {i}", "supercategory": "?"} for i in (2, 0, 1)]
        content["annotations"].reverse()
        annotations[part] = content
        (tmp_path / f"{part}2018.json").write_text(json.dumps(content))
    return tmp_path


def edit(file: Path, change: Any) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_photographs_come_with_the_official_split(nature: Path):
    dataset = load("inaturalist-2018", root=nature)
    assert dataset.name == "inaturalist-2018"
    assert dataset.classes == ("species 0", "species 1", "species 2")
    assert dataset.train.labels.tolist() == [0, 1, 2, 0]
    assert dataset.test.labels.tolist() == [2, 0]
    assert dataset.test.images.shape == (2, 224, 224, 3)
    assert dataset.photographs
    assert len(load("inaturalist-2018", root=nature, train_limit=2).train) == 2


def test_torchvisions_folder_does_as_well(nature: Path):
    before = load("inaturalist-2018", root=nature)
    (nature / "train_val2018").rename(nature / "2018")
    after = load("inaturalist-2018", root=nature)
    assert (before.train.images == after.train.images).all()
    theirs = datasets.INaturalist(nature, version="2018")
    assert len(theirs) == 6
    assert [theirs.category_name("full", label) for label in range(3)] == list(SPECIES)
    # The root may be the folder itself.
    assert load("inaturalist-2018", root=nature / "2018").test.labels.tolist() == [2, 0]


def test_the_layout_of_2017_names_folders_after_species(tmp_path: Path, write_image: Any):
    for part in ("train", "val"):
        files = [f"train_val_images/Insecta/Danaus {name}/{part}.jpg" for name in ("plexippus", "gilippus")]
        for number, file in enumerate(files):
            write_image(tmp_path / file, 60, 50, seed=number)
        content = {
            "images": [{"id": number, "file_name": file} for number, file in enumerate(files)],
            "annotations": [{"image_id": number, "category_id": number} for number in range(2)],
            "categories": [{"id": 0, "name": "Danaus plexippus"}, {"id": 1, "name": "Danaus gilippus"}],
        }
        (tmp_path / f"{part}2017.json").write_text(json.dumps(content))
    dataset = load("inaturalist-2017", root=tmp_path, image_size=32)
    assert dataset.classes == ("Danaus plexippus", "Danaus gilippus")
    assert dataset.test.images.shape == (2, 32, 32, 3)


def test_what_is_missing_or_does_not_fit_is_said(nature: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"no folder train_val2019 in .*: unpack train_val2019.tar.gz and the annot"):
        load("inaturalist-2019", root=nature)
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
    with pytest.raises(ValueError, match=r"gives image 101 \(.*val1.jpg\) the category 7, which it does not list"):
        load("inaturalist-2018", root=nature)
    val.write_text("[]")
    with pytest.raises(ValueError, match=r"val2018.json is no file of annotations"):
        load("inaturalist-2018", root=nature)
    train.unlink()
    with pytest.raises(ValueError, match=r"there is no file train2018.json beside .*: put the competition"):
        load("inaturalist-2018", root=nature)
