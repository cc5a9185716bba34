"""Images are decoded, or said to be broken."""

import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.folders import CLEAN, write_folder, write_png, write_tiff
from tests.folders import RED as RED_IMAGE

from attention_transfer.data import load
from attention_transfer.data.pipeline import image_files
from attention_transfer.data.pipeline.decoding import AS_STORED, WHITE, Decoding, colour
from attention_transfer.data.pipeline.formats import IncompleteImageError, UnsuitableImageError, endings

AVIF = pytest.param(".avif", marks=pytest.mark.skipif(".avif" not in endings(), reason="Pillow without AVIF"))
RED, GREEN = (255, 0, 0), (0, 200, 0)


def noise(*shape: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, shape, dtype=np.uint8)


def read(path: Path, decoding: Decoding | None = None) -> np.ndarray:
    return np.asarray((decoding or Decoding()).read(path)).astype(int)


def halves(mode: str, transparent: object, opaque: object) -> Image.Image:
    """The left half transparent, the right half not."""
    image = Image.new(mode, (16, 8), transparent)
    image.paste(opaque, (8, 0, 16, 8))
    return image


# ---------------------------------------------------------------- transparency


def palette() -> Image.Image:
    image = halves("P", 0, 1)
    image.putpalette([*GREEN, *RED])
    return image


SAVED: dict[str, Callable[[Path], object]] = {
    "rgba.png": lambda p: halves("RGBA", (*GREEN, 0), (*RED, 255)).save(p),
    "rgba.webp": lambda p: halves("RGBA", (*GREEN, 0), (*RED, 255)).save(p, lossless=True, exact=True),
    "rgba.tif": lambda p: halves("RGBA", (*GREEN, 0), (*RED, 255)).save(p),
    "rgba.tga": lambda p: halves("RGBA", (*GREEN, 0), (*RED, 255)).save(p),
    "rgba.jp2": lambda p: halves("RGBA", (*GREEN, 0), (*RED, 255)).save(p),
    "premultiplied.tif": lambda p: write_tiff(p, np.asarray(halves("RGBA", (0, 0, 0, 0), (*RED, 255))), 8, 2, extra=1),
    "key.png": lambda p: halves("RGB", GREEN, RED).save(p, transparency=GREEN),
    "palette.png": lambda p: palette().save(p, transparency=0),
    "palette-alpha.png": lambda p: palette().save(p, transparency=b"\0\xff"),
    "palette.gif": lambda p: palette().save(p, transparency=0),
}


@pytest.mark.parametrize("name", SAVED)
def test_transparent_parts_show_the_background(tmp_path: Path, name: str):
    path = tmp_path / name
    SAVED[name](path)
    for behind in (WHITE, (10, 20, 30)):
        pixels = read(path, Decoding(background=behind))
        assert (pixels[:, :8] == behind).all()
        assert (pixels[:, 8:] == RED).all()
    if name != "premultiplied.tif":
        assert (read(path, AS_STORED)[:, :8] == GREEN).all()


def test_grey_with_transparency_shows_the_background(tmp_path: Path):
    halves("LA", (50, 0), (90, 255)).save(tmp_path / "la.png")
    halves("LA", (50, 0), (90, 255)).save(tmp_path / "la.tga")
    halves("L", 50, 90).save(tmp_path / "key.png", transparency=50)
    halves("1", 1, 0).save(tmp_path / "bits.png", transparency=1)
    for name, ink in (("la.png", 90), ("la.tga", 90), ("key.png", 90), ("bits.png", 0)):
        pixels = read(tmp_path / name, Decoding(background=RED))
        assert (pixels[:, :8] == RED).all(), name
        assert (pixels[:, 8:] == ink).all(), name


def test_grey_multiplied_with_its_transparency_is_right_or_refused(tmp_path: Path):
    path = write_tiff(tmp_path / "a.tif", np.asarray(halves("LA", (0, 0), (90, 255))), 8, 1, extra=1)
    try:
        pixels = read(path)
    except UnsuitableImageError:
        return  # by versions of Pillow that cannot read it
    assert (pixels[:, :8] == 255).all()
    assert (pixels[:, 8:] == 90).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_colour_of_few_bits_is_that_of_the_file(tmp_path: Path, bits: int):
    most = 2**bits - 1
    values = noise(9, 7, 1, high=most + 1)
    values[0, 0] = most
    path = write_png(tmp_path / "a.png", values, 0, bits, transparency=struct.pack(">H", most))
    expected = np.repeat(values * (255 // most), 3, axis=2)
    assert np.array_equal(read(path, Decoding(background=(1, 2, 3)))[values[..., 0] == most][0], [1, 2, 3])
    assert np.array_equal(read(path)[values[..., 0] < most], expected[values[..., 0] < most])


def test_half_transparent_parts_are_mixed_with_the_background(tmp_path: Path):
    pixels = noise(8, 8, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    share = pixels[..., 3:] / 255
    assert np.abs(read(tmp_path / "a.png") - (pixels[..., :3] * share + 255 * (1 - share))).max() <= 1


def test_opaque_images_keep_every_value(tmp_path: Path):
    pixels = noise(8, 8, 4)
    pixels[..., 3] = 255
    for name in ("a.png", "a.tif", "a.tga"):
        Image.fromarray(pixels).save(tmp_path / name)
        assert np.array_equal(read(tmp_path / name), pixels[..., :3])


def test_a_fourth_channel_that_is_no_alpha_is_left_alone(tmp_path: Path):
    pixels = noise(8, 8, 4)
    pixels[..., 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.tga", compression=None)
    content = bytearray((tmp_path / "a.tga").read_bytes())
    content[17] &= 0xF0  # none of its bits are of transparency
    (tmp_path / "a.tga").write_bytes(content)
    assert np.array_equal(read(tmp_path / "a.tga"), pixels[..., :3])
    write_tiff(tmp_path / "a.tif", pixels, 8, 2, extra=0)
    assert np.array_equal(read(tmp_path / "a.tif"), pixels[..., :3])


def test_backgrounds_are_opaque_colours():
    assert colour("white") == WHITE
    assert colour("#0a141e") == (10, 20, 30)
    for name in ("whites", "#ffffff80", "", "12"):
        with pytest.raises(ValueError, match=r"background must be an opaque colour .* write white, or #7f7f7f"):
            colour(name)


# ---------------------------------------------------------------- orientation

TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp", ".mpo", AVIF])
def test_images_are_turned_as_their_files_say(tmp_path: Path, ending: str, orientation: int):
    pixels = np.kron(noise(2, 3, 3), np.ones((16, 16, 1), dtype=np.uint8))
    path = tmp_path / f"a{ending}"
    Image.fromarray(pixels).save(path, exif=exif(orientation), **({"lossless": True} if ending == ".webp" else {}))
    expected = TURNED[orientation](pixels).astype(int)
    assert Decoding().size(path) == expected.shape[1::-1]
    assert np.abs(read(path) - expected).mean() < (12 if ending in (".jpg", ".mpo", ".avif") else 1e-9)
    if ending not in (".tif", ".avif"):  # which Pillow turns itself
        assert AS_STORED.size(path) == (48, 32)
        assert np.array_equal(read(path, AS_STORED), np.asarray(Image.open(path).convert("RGB")))


def test_the_orientation_is_found_behind_the_pixels_of_a_png(tmp_path: Path):
    pixels = noise(5, 3, 3)
    content = exif(6).tobytes().removeprefix(b"Exif\0\0")
    for last in (False, True):
        path = write_png(tmp_path / "a.png", pixels, 2, 8, exif=content, exif_last=last)
        assert Decoding().size(path) == (5, 3)
        assert np.array_equal(read(path), np.rot90(pixels, -1))


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_metadata_change_nothing(tmp_path: Path, content: bytes):
    Image.fromarray(noise(5, 3, 3)).save(tmp_path / "a.jpg", exif=content)
    assert read(tmp_path / "a.jpg").shape == (5, 3, 3)
    assert Decoding().size(tmp_path / "a.jpg") == (3, 5)


@pytest.mark.parametrize("orientation", [0, 9, 100])
def test_an_orientation_that_does_not_exist_is_none(tmp_path: Path, orientation: int):
    Image.fromarray(noise(5, 3, 3)).save(tmp_path / "a.jpg", exif=exif(orientation))
    assert Decoding().size(tmp_path / "a.jpg") == (3, 5)


def test_deep_images_are_turned_too(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 65536, (5, 3, 3))
    for orientation, turned in TURNED.items():
        write_tiff(tmp_path / "a.tif", values, 16, 2, orientation=orientation)
        assert np.array_equal(read(tmp_path / "a.tif"), turned((values + 128) // 257))
        assert Decoding().size(tmp_path / "a.tif") == read(tmp_path / "a.tif").shape[1::-1]


# ---------------------------------------------------------------- colour models


def test_colours_of_every_model_come_out_alike(tmp_path: Path):
    shown = Image.new("RGB", (16, 16), (200, 60, 40))
    for mode, name in (("CMYK", "a.jpg"), ("CMYK", "a.tif"), ("YCbCr", "b.jpg"), ("P", "a.bmp"), ("P", "a.tif")):
        image = shown.convert(mode) if mode != "P" else shown.quantize(4)
        image.save(tmp_path / name, **({"quality": 100} if name.endswith("jpg") else {}))
        assert np.abs(read(tmp_path / name) - (200, 60, 40)).max() <= 4, (mode, name)


def test_photoshops_inverted_cmyk_is_not_inverted_again(tmp_path: Path):
    """Adobe writes 255 − ink, and says so in its segment; Pillow's own CMYK files are of that kind."""
    Image.new("CMYK", (16, 16), (0, 0, 0, 0)).save(tmp_path / "white.jpg")
    assert b"Adobe" in (tmp_path / "white.jpg").read_bytes()
    assert (read(tmp_path / "white.jpg") >= 253).all()


def test_lab_is_converted(tmp_path: Path):
    # L* = 54.3, a* = 80.8, b* = 69.9 is the red of sRGB under D50; a* and b* are stored with a sign.
    values = np.tile(np.array([138, 81, 70], dtype=np.uint8), (8, 8, 1))
    write_tiff(tmp_path / "red.tif", values, 8, 8)
    assert np.abs(read(tmp_path / "red.tif") - (255, 0, 0)).max() <= 6
    write_tiff(tmp_path / "grey.tif", np.tile(np.array([128, 0, 0], dtype=np.uint8), (8, 8, 1)), 8, 8)
    assert np.ptp(read(tmp_path / "grey.tif")[0, 0]) <= 2


def test_two_colours_are_black_and_white(tmp_path: Path):
    image = halves("1", 0, 1)
    for name in ("a.png", "a.pbm", "a.bmp", "a.tif", "a.gif"):
        image.save(tmp_path / name)
        assert (read(tmp_path / name)[:, :8] == 0).all(), name
        assert (read(tmp_path / name)[:, 8:] == 255).all(), name


def test_of_several_images_in_a_file_the_first_is_read(tmp_path: Path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, (0, 0, 255))]
    for name in ("a.gif", "a.png", "a.tif", "a.webp"):
        lossless = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **lossless)
        assert (read(tmp_path / name) == RED).all(), name


# ---------------------------------------------------------------- what cannot be read


def test_images_beyond_pillows_limit_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    for limit in (1599, 799, 100):  # Pillow itself only warns of the first two
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for look in (Decoding().read, Decoding().size, Decoding().check, AS_STORED.read):
            with pytest.raises(UnsuitableImageError, match=rf"a.png has .* pixels, and .* up to {limit:,} pixels.*: "):
                look(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read(tmp_path / "a.png").shape == (40, 40, 3)


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_files_that_hold_something_else_are_incomplete(tmp_path: Path, content: bytes):
    (tmp_path / "a\n.jpg").write_bytes(content)
    for look in (Decoding().read, Decoding().size, Decoding().check):
        with pytest.raises(IncompleteImageError, match=r"a\\n.jpg is not a complete image"):
            look(tmp_path / "a\n.jpg")


def test_an_ending_does_not_decide_what_a_file_is(tmp_path: Path):
    Image.new("RGB", (16, 16), RED).save(tmp_path / "a.jpg", format="png")
    assert (read(tmp_path / "a.jpg") == RED).all()


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp", ".gif", ".tga", ".jp2", ".ppm", AVIF])
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_end_in_no_other_error(tmp_path: Path, ending: str):
    path, draw = tmp_path / f"a{ending}", np.random.default_rng(0)
    Image.fromarray(noise(12, 10, 3)).save(path)
    whole = path.read_bytes()
    for _ in range(30):
        damaged = bytearray(whole)
        for place in draw.integers(0, min(len(whole), 200), 4):
            damaged[place] = draw.integers(256)
        path.write_bytes(damaged[: draw.integers(len(whole) // 2, len(whole) + 1)])
        for look in (Decoding().size, Decoding().read, Decoding().check):
            with suppress(IncompleteImageError, UnsuitableImageError):
                look(path)


# ---------------------------------------------------------------- broken images

# ---------------------------------------------------------------- broken images


def test_a_class_whose_images_are_all_broken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = write_folder(tmp_path, {**CLEAN, "train/c/only.png": b"", "val/c/0.png": RED_IMAGE})
    monkeypatch.setattr(image_files, "UNREADABLE_SHARE", 0.5)
    for budget in (image_files.MEMORY_BUDGET, 0):
        monkeypatch.setattr(image_files, "MEMORY_BUDGET", budget)
        with pytest.raises(ValueError, match=r"none of the images in .*train of class c can be decoded: .*c/only.png"):
            load(place, image_size=16)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it holds nothing"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it holds an HEIC photograph"),
        (b"%PDF-1.7\n", "it holds a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "it holds a PostScript document"),
        (b"\n<!DOCTYPE html><html>404", "it holds a web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it holds an SVG or XML document"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it holds a pointer of Git LFS"),
        (b"PK\x03\x04", "it holds a ZIP archive"),
        (b"hello", "what it holds is none that Pillow reads"),
    ],
)
def test_what_a_file_holds_that_is_called_an_image_is_said(tmp_path: Path, content: bytes, words: str):
    place = write_folder(tmp_path, {**CLEAN, "train/a/1.jpg": content})
    with pytest.raises(ValueError, match=rf"1 of 3 images .* more than 1% \(of the first: {words}.*a/1.jpg"):
        load(place, image_size=16)


def test_unsuitable_images_are_refused_however_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    deep = Image.fromarray(np.full((16, 16), 1000, dtype=np.int32))
    place = write_folder(tmp_path, {**CLEAN, "train/a/1.tif": lambda path: deep.save(path)})
    monkeypatch.setattr(image_files, "UNREADABLE_SHARE", 0.9)
    for budget in (image_files.MEMORY_BUDGET, 0):
        monkeypatch.setattr(image_files, "MEMORY_BUDGET", budget)
        with pytest.raises(ValueError, match=r"a/1.tif holds 32-bit integers from 1000 to 1000"):
            load(place, image_size=16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(ValueError, match=r"a/0.png has 256 pixels, and Pillow decodes images of up to 200 pixels"):
        load(place, image_size=16)


def test_what_is_seen_does_not_depend_on_where_images_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from attention_transfer.data import loader

    turned = Image.Exif()
    turned[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (40, 24, 4), dtype=np.uint8)
    picture = Image.fromarray(noise)
    place = write_folder(
        tmp_path,
        {
            **CLEAN,
            "train/a/1.png": lambda path: picture.save(path, exif=turned),
            "val/a/1.png": lambda path: picture.save(path, exif=turned),
        },
    )
    delivered = []
    for budget in (image_files.MEMORY_BUDGET, 0):
        monkeypatch.setattr(image_files, "MEMORY_BUDGET", budget)
        dataset = load(place, image_size=80, background="#102030")
        splits = ((dataset.train, True), (dataset.test, False))
        loaders = [loader(split, dataset, batch_size=3, train=train) for split, train in splits]
        delivered.append([batch.image for each in loaders for batch in each.epoch(0)])
    assert all((first == second).all() for first, second in zip(*delivered, strict=True))
    other = load(place, image_size=80)
    assert isinstance(other.train.images, tuple)
    assert (next(loader(other.test, other, batch_size=3, train=False).epoch(0)).image != delivered[0][-1]).any()


# ---------------------------------------------------------------- settings of no effect


def test_settings_that_change_nothing_are_refused(tmp_path: Path):
    for settings in ({"background": "black"}, {"decoding": "as-shown"}, {"split_seed": 1}):
        with pytest.raises(ValueError, match=rf"{next(iter(settings))} has no effect on cluttered-digits"):
            load("cluttered-digits", **settings)
    place = write_folder(tmp_path, CLEAN)
    with pytest.raises(ValueError, match="background black does not show where images are read as-stored"):
        load(place, decoding="as-stored", background="black")
    with pytest.raises(ValueError, match="background must be an opaque colour"):
        load(place, background="nocolour")
