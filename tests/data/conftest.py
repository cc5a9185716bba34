"""Small data sets, in memory and on disk."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from attention_transfer.data import DataSet, Split


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _write_image(path: Path, width: int, height: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_noise(height, width, 3, seed=seed)).save(path)


@pytest.fixture
def write_image() -> Callable[..., None]:
    """Writes noise: (path, width, height, seed=0), with the folders that lead there."""
    return _write_image


@pytest.fixture
def small_set() -> DataSet:
    """50 training and 10 test images of 16×16 in memory."""
    labels = np.arange(60) % 5
    return DataSet(
        name="small",
        classes=tuple("abcde"),
        train=Split(_noise(50, 16, 16, 3), labels[:50]),
        validation=None,
        test=Split(_noise(10, 16, 16, 3, seed=1), labels[50:]),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
        image_size=16,
        photographs=False,
    )


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of two classes, 12 + 4 pictures of different sizes and kinds."""
    for part, num in (("train", 6), ("val", 2)):
        for c, name in enumerate(("cat", "dog")):
            for i in range(num):
                suffix = (".png", ".jpg", ".bmp")[i % 3]
                _write_image(tmp_path / part / name / f"{i}{suffix}", 100 + 7 * i, 120 - 9 * i, seed=10 * c + i)
    return tmp_path


@pytest.fixture
def write_npz(tmp_path: Path) -> Callable[..., Path]:
    """Writes train.npz and test.npz; keyword arguments replace arrays of the training file, None removes them."""

    def write(**changes: np.ndarray | None) -> Path:
        for name, num in (("train", 12), ("test", 6)):
            arrays: dict[str, np.ndarray | None] = {
                "images": _noise(num, 16, 16, 3),
                "labels": np.arange(num) % 3,
            }
            arrays |= changes if name == "train" else {}
            np.savez(tmp_path / f"{name}.npz", **{key: array for key, array in arrays.items() if array is not None})
        return tmp_path

    return write


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


class FakeCifar:
    """What torchvision offers of CIFAR-10, with files that appear when they are downloaded."""

    base_folder = "cifar-10-batches-py"
    filename = "cifar-10-python.tar.gz"
    url = "https://example.org/cifar-10-python.tar.gz"
    reachable = True

    def __init__(self, root: Path, train: bool, download: bool = False) -> None:
        place = Path(root) / self.base_folder
        if download:
            if not self.reachable:
                raise OSError("no route to host")
            place.mkdir(parents=True, exist_ok=True)
        if not place.is_dir():
            raise RuntimeError("Dataset not found or corrupted.")
        number = np.arange(20 if train else 8)
        self.data = np.tile((2 * number + train).astype(np.uint8)[:, None, None, None], (1, 32, 32, 3))
        self.targets = (3 * number % 10).tolist()
        self.classes = list("abcdefghij")


@pytest.fixture
def fake_cifar(monkeypatch: pytest.MonkeyPatch) -> type[FakeCifar]:
    """Takes the place of torchvision's CIFAR-10 and of its CIFAR-100."""
    monkeypatch.setattr(datasets, "CIFAR10", FakeCifar)
    monkeypatch.setattr(datasets, "CIFAR100", FakeCifar)
    return FakeCifar


@pytest.fixture
def stl10(tmp_path: Path) -> Path:
    """STL-10 with 30 + 20 images, in the order of bytes that its files have."""
    place = tmp_path / "stl10_binary"
    place.mkdir()
    for seed, (name, num) in enumerate((("train", 30), ("test", 20))):
        images = _noise(num, 96, 96, 3, seed=seed)
        np.stack([image[:, :, channel].T for image in images for channel in range(3)]).tofile(place / f"{name}_X.bin")
        (7 * np.arange(num) % 10 + 1).astype(np.uint8).tofile(place / f"{name}_y.bin")
    (place / "class_names.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n")
    return tmp_path


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """MIT Indoor67 with three classes of five photographs: three to learn from, one for testing, one listed nowhere."""
    place = tmp_path / "scenes"
    for c, name in enumerate(("bar", "airport_inside", "pantry")):
        for i in range(5):
            _write_image(place / "Images" / name / f"{i}.jpg", 120 + i, 100, seed=10 * c + i)
    for part, numbers in (("Train", (2, 0, 1)), ("Test", (3,))):
        rows = [f"{name}/{i}.jpg" for name in ("pantry", "bar", "airport_inside") for i in numbers]
        (place / f"{part}Images.txt").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.fixture
def nature(tmp_path: Path) -> Path:
    """iNaturalist of three years, each with seven photographs to learn from and three for testing, of three species."""
    for year, folder in ((2017, "train_val_images"), (2018, "train_val2018"), (2019, "train_val2019")):
        for part, labels in (("train", [0, 0, 2, 1, 0, 2, 0]), ("val", [2, 0, 1])):
            content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
            for number, label in enumerate(labels):
                image = number + (100 if part == "val" else 0)
                species = f"Danaus species {label}" if year == 2017 else str(label)
                file = f"{folder}/{('Aves', 'Aves', 'Plantae')[label]}/{species}/{part}{number}.jpg"
                _write_image(tmp_path / file, 300, 260, seed=image)
                content["images"].append({"id": image, "file_name": file, "width": 300, "height": 260})
                content["annotations"].append({"id": image, "image_id": image, "category_id": label})
            # In no order.
            content["annotations"].reverse()
            content["categories"] = [{"id": i, "name": f"species {i}", "supercategory": "?"} for i in (2, 0, 1)]
            (tmp_path / f"{part}{year}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def flowers102(tmp_path: Path) -> Path:
    """Flowers-102 with nine photographs of three classes: one each to learn from, for validation and for testing."""
    place = tmp_path / "flowers-102"
    for number in range(1, 10):
        _write_image(place / "jpg" / f"image_{number:05}.jpg", 100, 120, seed=number)
    savemat(place / "imagelabels.mat", {"labels": np.array([[1, 1, 1, 2, 2, 2, 3, 3, 3]], dtype=np.uint8)})
    sets = {"trnid": [[1, 4, 7]], "valid": [[9, 3, 6]], "tstid": [[2, 5, 8]]}
    savemat(place / "setid.mat", {name: np.array(rows, dtype=np.uint16) for name, rows in sets.items()})
    return tmp_path
