"""Images as users have them: every mode, every orientation; damaged files meet one sentence."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from csp_utils.base.errors import UserError
from csp_utils.data.images import load_image

PHOTOS = Path(__file__).parent / "photos"


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (64, 200)])
def test_every_png_mode_becomes_rgb_of_the_same_size(mode: str, size: tuple[int, int]) -> None:
    image = load_image(encode(Image.new(mode, size, 1)))
    assert image.mode == "RGB" and image.size == size


def test_gray_keeps_its_values() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (np.asarray(load_image(encode(Image.fromarray(gray)))) == gray[..., None]).all()


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    loaded = np.asarray(load_image(encode(Image.fromarray(values))))
    assert (loaded[..., 0] == values // 257).all()


def test_float_tiff_is_scaled() -> None:
    loaded = load_image(encode(Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)), "TIFF"))
    assert loaded.getpixel((0, 0)) == (128, 128, 128)


def test_transparency_lies_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    loaded = load_image(encode(image))
    assert loaded.getpixel((0, 0)) == (255, 0, 0) and loaded.getpixel((1, 0)) == (255, 255, 255)


def test_transparent_palette_lies_on_white() -> None:
    image = Image.new("P", (1, 1), 0)
    image.putpalette([10, 20, 30] + [0] * 765)
    assert load_image(encode(image)).getpixel((0, 0)) == (10, 20, 30)
    assert load_image(encode(image, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_jpeg_becomes_rgb() -> None:
    loaded = load_image(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = loaded.getpixel((4, 4))
    assert loaded.mode == "RGB" and red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (39, 19)), (6, (19, 0)), (8, (0, 39))])
def test_exif_orientation_is_applied(orientation: int, corner: tuple[int, int]) -> None:
    """The white top-left corner of the stored picture lies where the camera says."""
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(encode(image, "JPEG", exif=exif, quality=95))
    assert loaded.size == ((40, 20) if orientation in (1, 3) else (20, 40))
    assert min(loaded.getpixel(corner)) > 200


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data).getpixel((0, 0)) == (255, 0, 0)


@given(cut=st.floats(0.0, 0.9), lenient=st.booleans())
@settings(max_examples=30, deadline=None)
def test_truncated_files_are_refused_wherever_they_end(cut: float, lenient: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "JPEG")
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, lenient
    try:
        with pytest.raises(UserError, match="of row 7"):
            load_image(data[: int(len(data) * cut)], name="of row 7")
        assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


@given(data=st.binary(min_size=1, max_size=200))
def test_bytes_that_are_no_image_are_refused_in_one_sentence(data: bytes) -> None:
    with pytest.raises(UserError) as caught:
        load_image(data)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.png is missing"):
        load_image(tmp_path / "nowhere.png")


def test_photographs_load() -> None:
    assert [load_image(photo).size for photo in sorted(PHOTOS.iterdir())] == [(1200, 901), (800, 534)]
