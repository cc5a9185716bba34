"""Arrays, folders and image files as other people hand them on."""

import errno
import struct
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from tests.folders import CLEAN, RED, Content, write_folder

from attention_transfer.data import load
from attention_transfer.data.pipeline import decoding as module
from attention_transfer.data.pipeline.decoding import Decoding
from attention_transfer.data.pipeline.formats import IncompleteImageError, UnsuitableImageError, endings
from attention_transfer.data.pipeline.image_files import Form, delivered, stored

ANIMATED = [".gif", ".webp", ".png", *[ending for ending in (".avif",) if ending in endings()]]
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{turn}"/></x:xmpmeta>'


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (30_000, 3)])
def test_a_very_long_image_takes_neither_memory_nor_time(tmp_path: Path, size: tuple[int, int]):
    """Scaled as a whole, a line of 100,000 pixels has 20 GB."""
    Image.new("L", size, 100).save(tmp_path / "long.png")
    started = time.perf_counter()
    for form in (delivered(224, photographs=True), stored(224, photographs=True), delivered(32, photographs=False)):
        pixels = form.read(tmp_path / "long.png")
        assert max(pixels.shape[:2]) == form.canvas
        assert (pixels == 100).all()
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("size", [(30, 700), (700, 30)])
@pytest.mark.parametrize("square", [None, 24])
def test_of_a_long_image_the_same_is_kept_as_of_the_whole_one_scaled(
    tmp_path: Path, size: tuple[int, int], square: int | None
):
    noise(*size).save(tmp_path / "long.png")
    form = Form(24, square)
    scaled = form.scaled(*noise(*size).size)
    whole = noise(*size).resize(scaled, Image.Resampling.BILINEAR).crop(form.cut(*scaled))
    assert np.abs(form.read(tmp_path / "long.png").astype(int) - np.asarray(whole).astype(int)).max() <= 1


def test_one_pixel_is_an_image(tmp_path: Path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    assert (delivered(16, photographs=False).read(tmp_path / "dot.png") == (255, 0, 0)).all()


def test_an_image_beyond_the_memory_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(_: object) -> None:
        raise MemoryError

    noise(4, 4).save(tmp_path / "large.png")
    monkeypatch.setattr(module, "_in_rgb", fail)
    with pytest.raises(UnsuitableImageError, match=r"large.png does not fit in this machine's memory once it is decod"):
        Decoding().read(tmp_path / "large.png")


# ---------------------------------------------------------------- what is seen


@pytest.mark.parametrize("ending", ANIMATED)
def test_the_first_frame_is_laid_on_the_background(tmp_path: Path, ending: str):
    first, second = Image.new("RGBA", (40, 40), (0, 200, 0, 0)), Image.new("RGBA", (40, 40), "blue")
    first.paste((255, 0, 0, 255), (10, 10, 30, 30))
    exact = ending == ".webp"
    first.save(tmp_path / f"moving{ending}", save_all=True, append_images=[second], lossless=exact)
    pixels = np.asarray(Decoding().read(tmp_path / f"moving{ending}")).astype(int)
    assert np.abs(pixels[0, 0] - (255, 255, 255)).max() <= 3
    assert np.abs(pixels[20, 20] - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_an_orientation_that_only_xmp_says_is_that_of_pillow(tmp_path: Path, turn: int, ending: str):
    path, packet = tmp_path / f"turned{ending}", XMP.format(turn=turn)
    if ending == ".png":
        said = PngInfo()
        said.add_itxt("XML:com.adobe.xmp", packet)
        noise(20, 30).save(path, pnginfo=said)
    else:
        noise(20, 30).save(path, xmp=packet.encode())
    with Image.open(path) as image:
        image.load()
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert (np.asarray(Decoding().read(path)) == expected).all()
    assert Decoding().size(path) == expected.shape[1::-1]


# ---------------------------------------------------------------- damage


@pytest.mark.skipif(".avif" not in endings(), reason="Pillow without AVIF")
def test_an_avif_that_was_cut_off_is_not_said_to_be_unreadable_by_this_pillow(tmp_path: Path):
    stream = BytesIO()
    noise(64, 64).save(stream, format="AVIF")
    (tmp_path / "cut.avif").write_bytes(stream.getvalue()[:600])
    with pytest.raises(IncompleteImageError, match="it holds an AVIF photograph that is damaged or cut off"):
        Decoding().read(tmp_path / "cut.avif")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_no_numbers_are_said_to_be_none(tmp_path: Path, value: float):
    values = np.full((4, 4), 0.5, dtype=np.float32)
    values[0, 0] = value
    Image.fromarray(values).save(tmp_path / "holes.tif")
    with pytest.raises(UnsuitableImageError, match=r"floats that are not finite \(NaN or infinite\), .*: replace them"):
        Decoding().read(tmp_path / "holes.tif")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL photograph"),
        (b"\xff\x0a\xfa\x1f", "a JPEG XL photograph"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"\x1aE\xdf\xa3\x01", "a video"),
        (b"\x93NUMPY\x01\0", "a NumPy array"),
    ],
)
def test_what_else_is_called_an_image_is_named(tmp_path: Path, content: bytes, words: str):
    (tmp_path / "a.jpg").write_bytes(content + bytes(80))
    with pytest.raises(IncompleteImageError, match=f"it holds {words}$"):
        Decoding().read(tmp_path / "a.jpg")


# ---------------------------------------------------------------- what the file leaves open


def bitmap(path: Path, alpha: int) -> None:
    """A red BMP of 4×4 pixels whose header says that it has an alpha channel."""
    pixels = bytes((0, 0, 255, alpha)) * 16
    header = struct.pack("<IiiHHIIiiII", 124, 4, 4, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(64)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 138 + len(pixels), 0, 0, 138) + header + pixels)


@pytest.mark.parametrize(("alpha", "seen"), [(0, (255, 0, 0)), (255, (255, 0, 0)), (51, (255, 204, 204))])
def test_an_alpha_channel_of_nothing_hides_no_bitmap(tmp_path: Path, alpha: int, seen: tuple[int, int, int]):
    bitmap(tmp_path / "a.bmp", alpha)
    assert (np.asarray(Decoding().read(tmp_path / "a.bmp")) == seen).all()


@pytest.mark.parametrize("place", [(0, 0), (20, 30), (35, 35)])
def test_around_its_first_frame_a_gif_shows_the_background(tmp_path: Path, place: tuple[int, int]):
    """Pillow fills what no frame covers with the first colour of the palette."""
    path = tmp_path / "a.gif"
    Image.new("RGB", (10, 10), "red").save(path)
    content = bytearray(path.read_bytes())
    content[6:10] = struct.pack("<HH", 40, 40)
    frame = content.index(b",")
    content[frame + 1 : frame + 5] = struct.pack("<HH", *place)
    path.write_bytes(bytes(content))
    expected = Image.new("RGB", (40, 40), "blue")
    expected.paste("red", (*place, min(place[0] + 10, 40), min(place[1] + 10, 40)))
    found = Decoding(background=(0, 0, 255)).read(path)
    assert found.size in ((40, 40), (place[0] + 10, place[1] + 10))
    assert found.crop((0, 0, 40, 40)).tobytes() == expected.tobytes()
    assert Decoding().size(path) == found.size


# ---------------------------------------------------------------- folders as other people hand them on


def links(place: Path, **targets: str) -> None:
    """Links in a folder, to where they lead."""
    for name, target in targets.items():
        (place / name).symlink_to(target)


# ---------------------------------------------------------------- links


@pytest.mark.parametrize("target", ["..", ".", "../../{root}", "../train"])
def test_a_class_that_leads_back_to_what_holds_it_is_refused(tmp_path: Path, target: str):
    """It would learn from the images to measure on, under a class that nobody meant."""
    place = write_folder(tmp_path, CLEAN)
    links(tmp_path / "train", c=target.format(root=tmp_path.name))
    with pytest.raises(ValueError, match=r"train/c is a link to .*, the folder that holds it, .*: remove the link"):
        load(place, image_size=16)


def test_a_link_back_is_found_below_a_link_to_the_data_too(tmp_path: Path):
    write_folder(tmp_path / "real" / "deep", CLEAN)
    links(tmp_path / "real" / "deep" / "train", c=str(tmp_path / "linked"))
    links(tmp_path, linked="real/deep")
    with pytest.raises(ValueError, match=r"train/c is a link to .*deep, the folder that holds it"):
        load(f"folder:{tmp_path / 'linked'}", image_size=16)


def test_a_class_that_is_a_link_to_nothing_is_refused_and_not_forgotten(tmp_path: Path):
    place = write_folder(tmp_path, CLEAN)
    links(tmp_path / "train", c=str(tmp_path / "unmounted"))
    with pytest.raises(ValueError, match=r"train/c is a link to nothing, .*unmounted: bring back .*, or remove it"):
        load(place, image_size=16)


def test_one_folder_under_two_classes_is_said(tmp_path: Path):
    place = write_folder(tmp_path, CLEAN)
    links(tmp_path / "train", c="a")
    assert "train/a and" in (note := load(place, image_size=16).notes[0])
    assert "train/c are the same folder, whose images count once for each name" in note


@pytest.mark.parametrize("inside", [False, True])
def test_images_that_are_learned_from_and_measured_are_said(tmp_path: Path, inside: bool):
    place = write_folder(tmp_path, {**CLEAN, "train/c/0.png": RED, "train/c/more/0.png": RED})
    if inside:
        links(tmp_path / "val" / "b", more="../../train/c/more")
    else:
        links(tmp_path / "val", c="../train/c")
    (note,) = (note for note in load(place, image_size=16).notes if "same folder" in note)
    assert "test images are training images" in note


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train", "eval"),
        ("train", "validate"),
        ("train", "evaluation"),
        ("training_set", "test_set"),
        ("trainset", "valset"),
        ("train_images", "test_images"),
        ("images-train", "images-val"),
        ("Training Data", "Validation Data"),
    ],
)
def test_parts_are_known_with_other_words_beside_them(tmp_path: Path, train: str, held_out: str):
    contents = {name.replace("train", train).replace("val", held_out): image for name, image in CLEAN.items()}
    dataset = load(write_folder(tmp_path, contents), image_size=16)
    assert (len(dataset.train), len(dataset.test), dataset.test_is, dataset.notes) == (2, 2, held_out, ())


def test_a_plain_name_goes_before_one_with_words(tmp_path: Path):
    dataset = load(write_folder(tmp_path, {**CLEAN, "train_images/x/0.png": RED}), image_size=16)
    assert len(dataset.train) == 2
    assert any("not read, as their names are not those of" in note and "train_images" in note for note in dataset.notes)


@pytest.mark.parametrize("beside", ["extra/a/0.png", "hold\x1bout/0.png"])
def test_images_in_folders_beside_the_parts_are_said(tmp_path: Path, beside: str):
    contents = {**CLEAN, beside: RED, "annotations/0.txt": b"x", "logs/old/0.txt": b"x"}
    (note,) = load(write_folder(tmp_path, contents), image_size=16).notes
    assert note.startswith("not read, as their names are not those of train, val or test: ")
    assert "annotations" not in note
    assert "\x1b" not in note


def test_parts_inside_of_classes_are_refused_with_the_way_out(tmp_path: Path):
    contents: dict[str, Content] = {f"{name}/{part}/0.png": RED for name in ("cat", "dog") for part in ("train", "val")}
    with pytest.raises(ValueError, match=r"but .*cat/train and 1 more: .* move the classes into them"):
        load(write_folder(tmp_path, contents), image_size=16)


def test_classes_one_folder_too_deep_are_said(tmp_path: Path):
    contents = {name.replace("/", "/images/", 1): image for name, image in CLEAN.items()}
    (note,) = load(write_folder(tmp_path, contents), image_size=16).notes
    assert "a single class, images, so that there is nothing to classify; if a, b are the classes, move them to" in note


@pytest.mark.parametrize("name", ["n\nl", " a b ", "$HOME", "ünï", "c\x1b[31m", "0.png", "\u202ecba", "a@b#c", "-x"])
def test_any_name_is_a_class_and_shows_as_one_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    dataset = load(write_folder(tmp_path, {**CLEAN, f"train/{name}/0.png": RED}), image_size=16)
    assert dataset.num_classes == 3
    shown = "".join(dataset.classes) + capsys.readouterr().err.replace("\n", "")
    assert not {"\n", "\x1b", "\u202e"} & set(shown)


# ---------------------------------------------------------------- npz files as other people save them

Write = Callable[..., Path]


def test_images_of_several_sizes_are_refused_with_the_way_out(write_npz: Write):
    ragged = np.empty(12, dtype=object)
    ragged[:] = [np.zeros((8 + i, 8, 3), np.uint8) for i in range(12)]
    with pytest.raises(
        ValueError, match=r"holds pickled objects, .* images of several sizes belong into a folder:PATH"
    ):
        load(f"npz:{write_npz(images=ragged)}")


def test_two_channels_are_not_told_to_become_bytes(write_npz: Write):
    with pytest.raises(ValueError, match=r"but are uint8, 12×16×16×2$"):
        load(f"npz:{write_npz(images=np.zeros((12, 16, 16, 2), np.uint8))}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_said_to_be_none(write_npz: Write, value: float):
    images = np.full((12, 16, 16, 3), 0.5)
    images[3, 2, 1] = value
    with pytest.raises(ValueError, match=r"are float64, 12×16×16×3, some of them not finite \(NaN or infinite\)"):
        load(f"npz:{write_npz(images=images)}")


def test_boxes_with_width_and_height_are_refused(write_npz: Write):
    boxes = np.tile(np.array([0, 0, 8, 8]), (12, 1))
    boxes[5] = (10, 2, 4, 9)
    with pytest.raises(ValueError, match=r"of image 5 are 10, 2, 4, 9: if the last two are width and height, add"):
        load(f"npz:{write_npz(boxes=boxes)}")


def test_boxes_that_are_not_known_are_accepted(write_npz: Write):
    boxes = np.tile(np.array([0, 0, 8, 8.0]), (12, 1))
    boxes[5] = np.nan
    found = load(f"npz:{write_npz(boxes=boxes)}").train.boxes
    assert found is not None
    assert np.isnan(found[5]).all()


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["crane", "bee", "crane"], "several classes are called crane and count as different"),
        (["ant", "", " "], "classes without a name: 1, 2"),
    ],
)
def test_names_that_tell_no_classes_apart_are_said(write_npz: Write, names: list[str], note: str):
    dataset = load(f"npz:{write_npz(classes=np.array(names))}")
    assert dataset.num_classes == 3
    assert note in dataset.notes


def test_a_file_that_may_not_be_read_is_not_said_to_be_damaged(write_npz: Write, monkeypatch: pytest.MonkeyPatch):
    place = write_npz()

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "train.npz")

    monkeypatch.setattr("numpy.load", fail)
    with pytest.raises(ValueError, match=r"train.npz cannot be read: Permission denied$"):
        load(f"npz:{place}")
