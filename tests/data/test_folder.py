from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attention_transfer.data import load
from attention_transfer.data.pipeline import image_files
from attention_transfer.data.pipeline.image_files import Form, delivered, stored


def test_classes_take_turns_in_training_and_keep_their_order_in_test(photographs: Path):
    dataset = load(f"folder:{photographs}", image_size=80)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 1] * 6
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert load(f"folder:{photographs}", image_size=80, train_limit=4).train.labels.tolist() == [0, 1, 0, 1]
    assert dataset.photographs
    assert dataset.test.images.shape == (4, 80, 80, 3)


def test_small_images_are_kept_whole(photographs: Path):
    dataset = load(f"folder:{photographs}", image_size=32)
    assert not dataset.photographs
    assert dataset.train.images.shape == (12, 32, 32, 3)
    assert dataset.train.sizes is None


def test_photographs_have_224_pixels_unless_asked_otherwise(photographs: Path):
    assert load(f"folder:{photographs}", train_limit=2).image_size == 224


def test_files_are_scaled_and_cut_as_pil_does_it(tmp_path: Path, write_image: Callable[..., None]):
    write_image(tmp_path / "a.png", 90, 50)
    image = Image.open(tmp_path / "a.png")
    larger = image.resize((round(90 * 91 / 50), 91), Image.Resampling.BILINEAR)
    left, top = (larger.width - 80) // 2, (91 - 80) // 2
    expected = np.asarray(larger.crop((left, top, left + 80, top + 80)))
    assert np.array_equal(delivered(80, photographs=True).read(tmp_path / "a.png"), expected)
    assert np.array_equal(stored(80, photographs=True).read(tmp_path / "a.png"), np.asarray(larger))


def test_very_long_images_are_cut_at_both_ends(tmp_path: Path, write_image: Callable[..., None]):
    write_image(tmp_path / "long.png", 10, 60)
    read = Form(10, None).read(tmp_path / "long.png")
    assert np.array_equal(read, np.asarray(Image.open(tmp_path / "long.png"))[20:40])


def test_grey_and_transparent_images_become_colour(tmp_path: Path):
    for mode in ("L", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (20, 20), 7 if mode in ("L", "P") else None).save(path)
        assert Form(20, 20).read(path).shape == (20, 20, 3)


def test_a_few_unreadable_images_are_named_and_left_out(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    broken = photographs / "train" / "cat" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:-300])
    (photographs / "train" / "cat" / "3.png").write_text("no image")
    whole = 12
    for budget in (image_files.MEMORY_BUDGET, 0):
        monkeypatch.setattr(image_files, "MEMORY_BUDGET", budget)
        with pytest.raises(ValueError, match=r"2 of 12 images in .*train cannot be decoded, more than 1%.*cat/1.jpg"):
            load(f"folder:{photographs}", image_size=80)
        with monkeypatch.context() as lenient:
            lenient.setattr(image_files, "UNREADABLE_SHARE", 0.2)
            dataset = load(f"folder:{photographs}", image_size=80)
        assert len(dataset.train) == len(dataset.train.images) == whole - 2
        assert dataset.train.labels.tolist() == [0, 1, 1, 0, 1, 1, 0, 1, 0, 1]
        message = capsys.readouterr().err
        assert "2 of 12 images in" in message
        assert str(broken) in message


def test_only_ten_of_many_unreadable_images_are_named(tmp_path: Path, write_image: Callable[..., None]):
    for part in ("train", "val"):
        write_image(tmp_path / part / "a" / "good.png", 20, 20)
    for i in range(15):
        (tmp_path / "train" / "a" / f"bad{i:02}.png").write_text("")
    with pytest.raises(ValueError, match=r"15 of 16 .*bad00.png.*bad09.png and 5 more$"):
        load(f"folder:{tmp_path}", image_size=16)


def test_a_file_that_breaks_later_is_named(photographs: Path, monkeypatch: pytest.MonkeyPatch):
    from attention_transfer.data import loader

    monkeypatch.setattr(image_files, "MEMORY_BUDGET", 0)
    dataset = load(f"folder:{photographs}", image_size=80)
    (photographs / "train" / "cat" / "0.png").write_text("")
    with pytest.raises(ValueError, match=r"cat/0.png is not a complete image"):
        list(loader(dataset.train, dataset, batch_size=4, train=False).epoch(0))


def test_folders_of_the_wrong_shape_are_refused(photographs: Path, tmp_path: Path):
    (photographs / "val" / "dog").rename(photographs / "val" / "fox")
    with pytest.raises(ValueError, match="only train has dog; only val has fox"):
        load(f"folder:{photographs}")
    for file in (photographs / "val" / "fox").iterdir():
        file.unlink()
    (photographs / "val" / "fox").rename(photographs / "val" / "dog")
    with pytest.raises(ValueError, match="val/dog holds no images"):
        load(f"folder:{photographs}")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"there is no folder .*empty/train"):
        load(f"folder:{empty}")
    (empty / "train").mkdir()
    with pytest.raises(ValueError, match="empty/train is empty"):
        load(f"folder:{empty}")


def test_without_labels_a_folder_is_read_whole(photographs: Path):
    dataset = load(f"folder:{photographs / 'train'}", image_size=32, labelled=False)
    assert not dataset.labelled
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (12, 0, 1)
    limited = load(f"folder:{photographs / 'train'}", image_size=32, train_limit=5, labelled=False)
    assert len(limited.train) == 5
    labelled = load(f"folder:{photographs}", image_size=32)
    assert labelled.labelled
    assert np.array_equal(dataset.train.images[:6], labelled.train.images[::2])
    (photographs / "empty").mkdir()
    for labels in (True, False):
        with pytest.raises(ValueError, match=r"there is no folder .*train: a data folder holds train/ and val/"):
            load(f"folder:{photographs / 'empty'}", labelled=labels)


def test_images_in_no_class_folders_have_no_labels(photographs: Path):
    for place in ("train/cat", "val/dog"):
        assert not load(f"folder:{photographs / place}", image_size=32).labelled
