"""Flowers-102, as its owners publish it."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from attention_transfer.data import load


def test_training_and_validation_images_are_learned_from(flowers102: Path):
    dataset = load("flowers102", root=flowers102, image_size=32)
    assert dataset.classes == ("flower 1", "flower 2", "flower 3")
    assert dataset.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.test.labels.tolist() == [0, 1, 2]
    assert dataset.test.images.shape == (3, 32, 32, 3)
    assert len(load("flowers102", root=flowers102 / "flowers-102", image_size=32, train_fraction=0.5).train) == 3


def test_missing_and_damaged_files_are_refused(flowers102: Path, tmp_path: Path):
    place = flowers102 / "flowers-102"
    with pytest.raises(ValueError, match=r"no folder flowers-102 in .*102flowers.tgz"):
        load("flowers102", root=tmp_path / "elsewhere")
    savemat(place / "setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[10]]})
    with pytest.raises(ValueError, match="knows nothing of"):
        load("flowers102", root=flowers102)
    savemat(place / "setid.mat", {"trnid": [[1]]})
    with pytest.raises(ValueError, match=r"setid.mat holds no row 'valid'"):
        load("flowers102", root=flowers102)
    (place / "imagelabels.mat").unlink()
    with pytest.raises(ValueError, match=r"no file .*imagelabels.mat"):
        load("flowers102", root=flowers102)


@pytest.mark.parametrize(
    "labels",
    [[], [0, 1, 2, 1, 2, 1, 2, 1, 2], [-1, 2, 1, 2, 1, 2, 1, 2, 1], [1.5] * 9, [float("nan")] * 9, [1j] * 9],
    ids=["none", "from 0", "below 0", "fractions", "no numbers", "complex"],
)
def test_labels_that_are_no_classes_are_refused(flowers102: Path, labels: list[float]):
    savemat(flowers102 / "flowers-102" / "imagelabels.mat", {"labels": np.array(labels)})
    with pytest.raises(ValueError, match=r"the row 'labels' of .*imagelabels.mat must hold whole numbers from 1 on"):
        load("flowers102", root=flowers102)


@pytest.mark.parametrize("kept", [0, 1, 100, 150, -10])
def test_a_file_that_was_cut_off_is_refused(flowers102: Path, kept: int):
    file = flowers102 / "flowers-102" / "imagelabels.mat"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"imagelabels.mat holds no row 'labels' as"):
        load("flowers102", root=flowers102)
