"""Flowers-102, as its owners publish it."""

from pathlib import Path

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
