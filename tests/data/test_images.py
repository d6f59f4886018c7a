import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dynamask.data import DataError, read_image
from dynamask.data.images import ORIENTATION

COLOR = (200, 100, 50)


def stored(path, mode="RGB", size=(6, 4), color=COLOR, **options):
    Image.new("RGB", size, color).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"])
def test_all_become_rgb(tmp_path, mode):
    path = stored(
        tmp_path / "a.tif" if mode in ("CMYK", "YCbCr", "PA") else tmp_path / "a.png", mode
    )
    image = read_image(path)
    # the palette is coarse
    assert image.shape == (3, 4, 6)
    assert image.dtype == torch.uint8
    assert (image[:, 0, 0].int() - torch.tensor(COLOR)).abs().max() <= 26


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_fills_three_channels(tmp_path, mode):
    image = read_image(stored(tmp_path / "a.png", mode, color=(255, 255, 255)))
    assert image.unique().tolist() == [255]
    assert image.shape == (3, 4, 6)


def test_of_16_bits_the_upper_8_stay(tmp_path):
    Image.fromarray(np.full((4, 6), 0x8042, np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").unique().tolist() == [0x80]


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (6, 4), (k, k, k)) for k in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").unique().tolist() == [10]


class TestOrientation:
    """A camera held upright: 6 x 4 pixels are stored, 4 x 6 are meant (width x height)."""

    @pytest.fixture
    def path(self, tmp_path):
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        picture = Image.new("RGB", (6, 4))
        picture.putpixel((0, 0), (255, 255, 255))
        picture.save(tmp_path / "a.png", exif=exif)
        return tmp_path / "a.png"

    def test_annotations_of_the_stored_pixels(self, path):
        image = read_image(path, (4, 6))
        assert image.shape == (3, 4, 6)
        assert image[0, 0, 0] == 255

    def test_annotations_of_the_rotated_pixels(self, path):
        image = read_image(path, (6, 4))
        assert image.shape == (3, 6, 4)
        assert image[0, 0, 3] == 255  # clockwise: the first pixel goes to the right end

    def test_no_annotations(self, path):
        assert read_image(path).shape == (3, 6, 4)


def test_damaged_files_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("cut.jpg", "cut.png"):
        path = tmp_path / name
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(DataError, match=rf"cannot read image .*{name}: .*\n  fix: "):
            read_image(path)


NO_IMAGES = [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"]


@pytest.mark.parametrize("data", NO_IMAGES)
def test_what_is_no_image(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"cannot read image .*a.png"):
        read_image(tmp_path / "a.png")


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"there is no image file .*a.png"):
        read_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="there is no image file"):
        read_image(tmp_path)


def test_floating_point(tmp_path):
    Image.fromarray(np.ones((4, 6), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="holds floating point numbers"):
        read_image(tmp_path / "a.tif")


def bomb(width, height):
    """A PNG of a few bytes whose header claims any size."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("size", [(100_000, 100_000), (20_000, 20_000), (10_000, 9_500)])
def test_bombs_are_refused_by_their_header(tmp_path, size):
    (tmp_path / "a.png").write_bytes(bomb(*size))
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_the_pixel_budget_is_an_option(tmp_path):
    path = stored(tmp_path / "a.png")
    assert read_image(path, max_pixels=24).shape == (3, 4, 6)
    with pytest.raises(DataError, match="has 6 x 4 pixels, more than max_pixels = 23"):
        read_image(path, max_pixels=23)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_pillows(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_image(tmp_path / "a.png").permute(1, 2, 0), expected)
