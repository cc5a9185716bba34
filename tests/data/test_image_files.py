"""Which files are images, and images of every depth."""

import base64
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from tests.folders import CLEAN, RED, write_folder, write_png, write_tiff

from attention_transfer.data import load
from attention_transfer.data.pipeline.decoding import AS_STORED, Decoding
from attention_transfer.data.pipeline.formats import (
    ENDINGS,
    IncompleteImageError,
    UnsuitableImageError,
    endings,
    formats,
)

SHAPE = (9, 7)


def noise(*channels: int, high: int = 65536) -> np.ndarray:
    return np.random.default_rng(len(channels)).integers(0, high, (*SHAPE, *channels))


def in_bytes(values: np.ndarray) -> np.ndarray:
    """16-bit values divided by 257, as RGB."""
    values = values[..., None] if values.ndim == 2 else values
    return np.broadcast_to(np.floor(values / 257 + 0.5).astype(int), (*SHAPE, 3))


# Of 2×2 white pixels each, as OpenJPEG writes them: Pillow has no way to.
_WHITE_JPEG2000 = {
    "16-bit RGB.jp2": (
        "0000CYEU2`4GM<}0000KW^{RQYH%_j00000YH%_j0000jYH%`W0000MX=r3}000020000200R#P0000001sntY;pkr000005C8xG"
        "k7{r-WB*V8Q2;Lh000000ssI20ssI200000000000ssI20ssI2000000009I0RayI0S^HI|55-9000010RRL900IA800cmQ|6~9q"
        "00BdCWnpw>WFTUBAWv{*Zc0!^M<8}(a&u{KZXhx)H7+#&kN^q*000007XShOlh6Dx3<1i&fPnwm"
    ),
    "16-bit grey with alpha.j2k": (
        "|4;u>04x9i000020000200000000000000200002000000000000IvI0S^HI|55-900001000C800IA800cmQ|6~9q00BdCWnpw>"
        "WFTUBAWv{*Zc0!^M<8}(a&u{KZXhx)H7+#&kN^q*000008~_3Tlh6Dx3<1i&&-^e90m{Gs*#"
    ),
    "12-bit RGB.j2k": (
        "|4;u>051Rl000020000200000000000000200002000000000000RpF0Sf^E3jqQDQUDA90003200aa80smY81VCW_WB?@q0Yh?S"
        "VRU6=AYyqSPjF>!N>D{dAa-SPb7^mGATlmBE;Rp;015yA0000M00IA#&*TgN%D;es|Je"
    ),
}


def read(path: Path) -> np.ndarray:
    image = np.asarray(Decoding().read(path))
    assert image.dtype == np.uint8
    assert Decoding().size(path) == image.shape[1::-1]
    Decoding().check(path)
    return image.astype(int)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_png_of_16_bits_is_divided_by_257(tmp_path: Path, colour_type: int, channels: int):
    values = noise(channels)
    assert np.array_equal(read(write_png(tmp_path / "a.png", values, colour_type, 16)), in_bytes(values))


@pytest.mark.parametrize(("colour_type", "channels"), [(4, 1), (6, 3)])
def test_png_of_16_bits_is_laid_on_white_where_it_is_transparent(tmp_path: Path, colour_type: int, channels: int):
    values, alpha = noise(channels), noise(1)
    path = write_png(tmp_path / "a.png", np.concatenate([values, alpha], axis=2), colour_type, 16)
    share = alpha / 65535
    assert np.abs(read(path) - (values * share + 65535 * (1 - share)) / 257).max() <= 0.51


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_the_transparent_colour_of_a_16_bit_png_is_compared_in_16_bits(tmp_path: Path, colour_type: int, channels: int):
    values = noise(channels)
    values[2, 3] = values[1, 1] + 1  # the same in 8 bits
    key = struct.pack(f">{channels}H", *values[1, 1])
    expected = in_bytes(values).copy()
    expected[1, 1] = 255
    assert np.array_equal(read(write_png(tmp_path / "a.png", values, colour_type, 16, transparency=key)), expected)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compressed", [False, True])
def test_tiff_of_16_bits_is_divided_by_257(tmp_path: Path, order: str, compressed: bool):
    for channels, photometric, extra in ((1, 1, None), (3, 2, None), (4, 2, 0)):
        values = noise(channels)
        path = tmp_path / "a.tiff"
        write_tiff(path, values, 16, photometric, order=order, compressed=compressed, extra=extra)
        assert np.array_equal(read(path), in_bytes(values[..., :3]))


def test_tiff_with_alpha_is_laid_on_the_background(tmp_path: Path):
    values, alpha = noise(3), noise(1)
    share = alpha / 65535
    write_tiff(tmp_path / "plain.tif", np.concatenate([values, alpha], axis=2), 16, 2, extra=2)
    assert np.abs(read(tmp_path / "plain.tif") - (values * share + 65535 * (1 - share)) / 257).max() <= 0.51
    multiplied = (values * share).astype(int)
    write_tiff(tmp_path / "multiplied.tif", np.concatenate([multiplied, alpha], axis=2), 16, 2, extra=1)
    # Pillow divides by alpha in 8 bits.
    assert np.abs(read(tmp_path / "multiplied.tif") - (multiplied + 65535 - alpha) / 257).max() <= 3


def test_where_white_is_zero_grey_is_inverted(tmp_path: Path):
    values = noise()
    assert np.array_equal(read(write_tiff(tmp_path / "a.tif", values, 16, 0)), in_bytes(65535 - values))
    floats = noise() / 65535
    write_tiff(tmp_path / "f.tif", floats, 32, 0, kind=3)
    assert np.abs(read(tmp_path / "f.tif") - in_bytes(65535 * (1 - floats))).max() == 0


def test_cmyk_of_16_bits_is_divided_by_257(tmp_path: Path):
    ink = noise(4)
    write_tiff(tmp_path / "a.tif", ink, 16, 5)
    expected = (65535 - ink[..., :3]) * (65535 - ink[..., 3:]) / 65535 / 257
    assert np.abs(read(tmp_path / "a.tif") - expected).max() <= 0.51


def test_portable_maps_of_more_than_8_bits_are_scaled_by_their_largest_value(tmp_path: Path):
    for largest in (1023, 4095, 65535):
        values = noise(high=largest + 1)
        path = tmp_path / f"{largest}.pgm"
        path.write_bytes(b"P5 7 9 %d\n" % largest + values.astype(">u2").tobytes())
        expected = in_bytes(np.floor(values / largest * 65535 + 0.5))
        assert np.abs(read(path) - expected).max() <= (largest != 65535)


def test_jpeg_2000_of_16_bits_is_divided_by_257(tmp_path: Path):
    values = noise().astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.jp2")
    assert np.array_equal(read(tmp_path / "a.jp2"), in_bytes(values))


@pytest.mark.parametrize("order", "<>")
def test_floats_of_0_to_1_are_scaled_and_those_of_0_to_255_kept(tmp_path: Path, order: str):
    floats = noise().astype(np.float32) / np.float32(65535)
    for scale in (1, 255):
        write_tiff(tmp_path / "a.tif", floats * scale, 32, 1, kind=3, order=order)
        assert np.abs(read(tmp_path / "a.tif") - 255.0 * floats[..., None]).max() <= 0.51
    write_tiff(tmp_path / "i.tif", noise(high=256), 32, 1, kind=2, order=order)
    assert np.array_equal(read(tmp_path / "i.tif"), np.repeat(noise(high=256)[..., None], 3, axis=2))
    (tmp_path / "a.pfm").write_bytes(b"Pf\n7 9\n-1.0\n" + floats[::-1].astype("<f4").tobytes())
    assert np.abs(read(tmp_path / "a.pfm") - 255.0 * floats[..., None]).max() <= 0.51


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        (np.linspace(0, 300, 63), 3, "holds floats from 0 to 300, .* 0…255 or 0…1, or with 16 bits"),
        (np.linspace(-0.1, 1, 63), 3, "holds floats from -0.1 to 1"),
        (np.array([np.nan] + [0.5] * 62), 3, "holds floats that are not finite"),
        (np.array([np.inf] + [0.5] * 62), 3, "holds floats that are not finite"),
        (np.arange(63) * 5, 2, "holds 32-bit integers from 0 to 310, .* store it in 0…255, or with 16 bits"),
        (np.arange(63) - 1, 2, "holds 32-bit integers from -1 to 61"),
    ],
)
def test_values_of_which_nothing_says_what_is_white_are_refused(
    tmp_path: Path, values: np.ndarray, kind: int, words: str
):
    write_tiff(tmp_path / "a.tif", values.reshape(SHAPE), 32, 1, kind=kind)
    with pytest.raises(UnsuitableImageError, match=words):
        Decoding().read(tmp_path / "a.tif")


def test_what_pillow_reads_wrongly_is_refused(tmp_path: Path):
    path = tmp_path / "a.tif"
    cases = [
        (write_tiff, (noise(3), 16, 2), {"planar": True}, "16-bit colours in planes of their own"),
        (write_tiff, (noise(high=256) - 128, 8, 1), {"kind": 2}, "holds integers below 0"),
        (
            write_tiff,
            (noise(high=2), 32, 1),
            {"kind": 3, "order": ">", "compressed": True},
            "compressed .* floats",
        ),
        (
            write_tiff,
            (noise(high=9), 16, 1),
            {"kind": 2, "order": ">", "compressed": True},
            "compressed .* signed",
        ),
        (write_tiff, (noise(3, high=2), 32, 2), {"kind": 3}, "a TIFF with 3 channels of 32-bit floats, which Pillow"),
        (write_tiff, (noise(high=2), 64, 1), {"kind": 3}, "a TIFF with 1 channels of 64-bit floats"),
    ]
    for write, values, settings, words in cases:
        write(path, *values, **settings)
        with pytest.raises(UnsuitableImageError, match=words):
            Decoding().read(path)


def test_a_tiff_that_was_cut_off_is_broken_and_not_unsuitable(tmp_path: Path):
    path = write_tiff(tmp_path / "a.tif", noise(3), 64, 2, kind=3)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(IncompleteImageError):
        Decoding().read(path)
    whole = write_tiff(tmp_path / "b.tif", noise(3), 16, 2)
    whole.write_bytes(whole.read_bytes()[:-99])
    with pytest.raises((IncompleteImageError, UnsuitableImageError)):
        Decoding().read(whole)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow reads no JPEG 2000")
@pytest.mark.parametrize("name", _WHITE_JPEG2000)
def test_deep_colours_of_jpeg_2000_are_refused_whose_white_would_be_black(tmp_path: Path, name: str):
    file = tmp_path / name
    file.write_bytes(base64.b85decode(_WHITE_JPEG2000[name]))
    with Image.open(file) as image:
        assert image.mode in ("RGB", "LA")
    for decoding in (Decoding(), AS_STORED):
        with pytest.raises(UnsuitableImageError, match=f"is a JPEG 2000 of {name[:2]}-bit colours, .* white as black"):
            decoding.read(file)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow reads no JPEG 2000")
@pytest.mark.parametrize("ending", ["jp2", "j2k"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_jpeg_2000_of_8_bits_is_read(tmp_path: Path, ending: str, mode: str):
    white = Image.new(mode, (8, 8), "white")
    white.save(tmp_path / f"a.{ending}")
    assert np.asarray(Decoding().read(tmp_path / f"a.{ending}")).min() == 255


def test_premultiplied_tiff_of_16_bits_is_near_what_a_viewer_shows(tmp_path: Path):
    straight = noise(4).astype(np.int64)
    alpha = straight[..., 3:]
    colours = straight[..., :3] * alpha // 65535
    values = np.concatenate([colours, alpha], axis=2).astype(np.uint16)
    file = write_tiff(tmp_path / "a.tif", values, 16, 2, extra=1)
    assert np.abs(read(file) - (colours + 65535 - alpha) / 257).max() <= 3.5


# ---------------------------------------------------------------- what is passed by, and what is named


@pytest.mark.parametrize(
    "leftover",
    [
        "train/a/.ipynb_checkpoints/0-checkpoint.png",
        "train/a/deep/.thumbnails/0.png",
        "train/a/@eaDir/0.png/SYNOFILE_THUMB_M.jpg",
        "train/a/._0.png",
        "train/._b/0.png",
        "train/__MACOSX/a/0.png",
        "__MACOSX/train/a/0.png",
        "train/a/.DS_Store",
        "train/.DS_Store",
        "train/a/Thumbs.db",
        "train/a/desktop.ini",
        "train/#recycle/0.png",
        "train/@Recycle/0.png",
        "train/lost+found/0.png",
        "train/$RECYCLE.BIN/0.png",
        "train/System Volume Information/0.png",
        "train/a/~$0.png",
        "val/.ipynb_checkpoints/0.png",
        "val/@eaDir/a/0.png",
        ".git/x.png",
    ],
)
def test_what_systems_leave_behind_is_passed_by(tmp_path: Path, leftover: str, capsys: pytest.CaptureFixture[str]):
    content = RED if leftover.endswith(("png", "jpg")) else b"x"
    dataset = load(write_folder(tmp_path, {**CLEAN, leftover: content}), image_size=16)
    assert (dataset.classes, len(dataset.train), len(dataset.test)) == (("a", "b"), 2, 2)
    assert dataset.notes == ()
    assert capsys.readouterr().err == ""


def test_a_data_folder_below_a_hidden_one_is_read(tmp_path: Path):
    assert len(load(write_folder(tmp_path / ".cache" / "@eaDir", CLEAN), image_size=16).train) == 2


@pytest.mark.parametrize("ending", sorted(endings()))
def test_every_ending_of_an_image_is_read_in_any_case(tmp_path: Path, ending: str):
    # What is in a file is found by its content; TGA has no signature.
    for name in (f"1{ending}", f"2{ending.upper()}"):
        RED.save((tmp_path / name), format="tga" if ending in ENDINGS["TGA"] else "png")
        path = tmp_path / "train" / "a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).rename(path)
    assert len(load(write_folder(tmp_path, CLEAN), image_size=16).train) == 4


def test_formats_that_this_pillow_cannot_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from attention_transfer.data.pipeline import formats as module

    monkeypatch.setattr(module.features, "check", lambda name: name != "avif")
    for cached in (formats, endings):
        cached.cache_clear()
    try:
        dataset = load(write_folder(tmp_path, {**CLEAN, "train/a/1.avif": b"x"}), image_size=16)
    finally:
        for cached in (formats, endings):
            cached.cache_clear()
    assert "1 .avif" in dataset.notes[0]


def test_files_that_are_no_images_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    strange = [f"train/a/{i}.HEIC" for i in range(3)] + ["train/a/deep/x.psd", "train/b/y.eps", "train/b/README"]
    dataset = load(
        write_folder(tmp_path, {**CLEAN, **dict.fromkeys(strange, b"x"), "val/b/z.svg": b"x"}), image_size=16
    )
    train, test = dataset.notes
    assert train.startswith(f"6 files in {tmp_path / 'train'} cannot be read as images and are left out (3 .heic, ")
    assert all(word in train for word in ("1 .eps", "1 .psd", "1 without an ending", "convert images"))
    assert test.startswith(f"1 file in {tmp_path / 'val'} cannot be read as images and is left out (1 .svg; ")
    assert capsys.readouterr().err == f"note: {train}\nnote: {test}\n"


def test_a_class_that_holds_other_files_only_is_refused_with_their_kind(tmp_path: Path):
    with pytest.raises(ValueError, match=r"train/c holds no images \(in them is 2 .heic\): add some, or remove"):
        load(write_folder(tmp_path, {**CLEAN, "train/c/0.heic": b"x", "train/c/1.heic": b"x"}), image_size=16)


def test_images_beside_class_folders_are_named(tmp_path: Path):
    dataset = load(write_folder(tmp_path, {**CLEAN, "train/stray.png": RED, "train/other\n.png": RED}), image_size=16)
    assert len(dataset.train) == 2
    (note,) = dataset.notes
    assert "2 images lie in" in note
    assert "belong to no class and are left out: other\\n.png, stray.png" in note


def test_files_in_subfolders_belong_to_the_class(tmp_path: Path):
    dataset = load(
        write_folder(tmp_path, {**CLEAN, "train/a/x/y/1.png": RED, "train/a/0.jpg/1.png": RED}), image_size=16
    )
    assert dataset.train.labels.tolist() == [0, 1, 0, 0]


# ---------------------------------------------------------------- links


def test_links_to_folders_and_files_are_followed(tmp_path: Path):
    place = write_folder(tmp_path / "data", CLEAN)
    write_folder(tmp_path / "else", {"c/0.png": RED, "c/deep/1.png": RED, "more/2.png": RED, "x.png": RED})
    data = tmp_path / "data"
    (data / "train" / "c").symlink_to(tmp_path / "else" / "c")
    (data / "train" / "a" / "more").symlink_to(tmp_path / "else" / "more")
    (data / "train" / "b" / "1.png").symlink_to(tmp_path / "else" / "x.png")
    dataset = load(place, image_size=16)
    assert dataset.classes == ("a", "b", "c")
    assert np.bincount(dataset.train.labels).tolist() == [2, 2, 2]
    (tmp_path / "link").symlink_to(data)
    assert len(load(f"folder:{tmp_path / 'link'}", image_size=16).train) == 6


def test_loops_of_links_end(tmp_path: Path):
    place = write_folder(tmp_path, CLEAN)
    (tmp_path / "train" / "a" / "again").symlink_to(tmp_path / "train" / "a")
    (tmp_path / "train" / "b" / "up").symlink_to(tmp_path)
    dataset = load(place, image_size=16)
    assert dataset.train.labels.tolist() == [0, 1]
    (tmp_path / "val" / "a" / "self.png").symlink_to(tmp_path / "val" / "a" / "self.png")
    with pytest.raises(
        ValueError,
        match=r"1 of 3 images in .*val cannot be decoded, .*first: Too many levels of symbolic links\).*self.png",
    ):
        load(place, image_size=16)


def test_links_to_nothing_are_named(tmp_path: Path):
    place = write_folder(tmp_path, CLEAN)
    (tmp_path / "train" / "a" / "gone.png").symlink_to(tmp_path / "unmounted" / "1.png")
    with pytest.raises(ValueError, match=r"1 of 3 images in .*train cannot be decoded, .*a/gone.png"):
        load(place, image_size=16)


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    place = write_folder(tmp_path, CLEAN)
    os.mkfifo(tmp_path / "train" / "a" / "pipe.png")
    assert len(load(place, image_size=16).train) == 2
