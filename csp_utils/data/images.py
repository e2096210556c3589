"""Open image files: whatever the format, the result is an upright 8-bit RGB image.

The size of this result is the coordinate frame of every box and mask of this project. An image of notebook 03 that is
rendered when it is opened, and so has no file, is opened by :func:`csp_utils.noise.rendered.open_image`.
"""

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from csp_utils.base.errors import UserError

MOST_RATIO = 200
"""Largest ratio of an image's longer to its shorter side that a model is given. Qwen2-VL's processor takes no larger
one, and GroundingDINO's would make a side of 0 pixels."""


def too_thin(size: tuple[int, int]) -> bool:
    """Return True for an image whose longer side is more than :data:`MOST_RATIO` times its shorter one.

    Args:
        size: width and height, pixels.
    """
    return max(size) > MOST_RATIO * min(size)


def png(image: np.ndarray) -> bytes:
    """Encode an RGB image, uint8 (height, width, 3), as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def image_key(file: bytes) -> str:
    """Return the key by which an encoded image is known in every table: the hexadecimal SHA-1 of the file."""
    return hashlib.sha1(file, usedforsecurity=False).hexdigest()


def load_image(source: bytes | str | Path, name: str | None = None) -> Image.Image:
    """Decode an image file completely.

    Args:
        source: path of the file, or its bytes (JPEG, PNG, WebP, TIFF ... of any mode).
        name: how an error message names the image; by default its path.

    Returns:
        PIL image, mode RGB, 8 bits a channel, rotated by its EXIF orientation. Transparent parts become white. An
        animation gives its first frame.

    Raises:
        UserError: the file is missing, empty, truncated, not an image, or larger than Pillow's limit against
            decompression bombs.
    """
    return _load(source, name)


def load_small(source: bytes | str | Path, side: int, name: str | None = None) -> np.ndarray:
    """Decode an image and scale it to a square, whatever its shape: uint8 (side, side, 3), RGB.

    A JPEG file is decoded at the smallest of its own scales that suits, several times as fast as the whole image.
    Arguments and errors as those of :func:`load_image`.
    """
    image = _load(source, name, 3 * side)  # with fewer pixels, the values depend on the scale at which it is decoded
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _load(source: bytes | str | Path, name: str | None, side: int | None = None) -> Image.Image:
    """Decode as :func:`load_image`; with ``side``, a JPEG image may be smaller, but no side below that number."""
    name = name or (f"image of {len(source)} bytes" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes):
        path = Path(source)
        if not path.is_file():
            raise UserError(f"image {name} is missing; put the file there or correct the path")
        try:
            source = path.read_bytes()
        except OSError as error:
            raise UserError(f"image {name} cannot be read ({error.strerror}); check its permissions") from error
    if not source:
        raise UserError(f"image {name} is empty (0 bytes); fetch it again")
    try:
        image = _decode(source, side)
        return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise UserError(f"image {name} is not an image that Pillow knows; fetch it again or remove its row") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"image {name} has more pixels than Pillow opens; scale it down") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow's decoders raise these on damaged data
        raise UserError(f"image {name} is damaged or truncated ({error}); fetch it again or remove its row") from error


def _decode(data: bytes, side: int | None) -> Image.Image:
    """Open and decode; with ``side``, at the smallest scale of a JPEG image that has so many pixels.

    A truncated file is an error even where a library has set Pillow's LOAD_TRUNCATED_IMAGES.
    """
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = Image.open(io.BytesIO(data))
        drafted = image.draft(None, (side, side)) if side else None
        image.load()
        if drafted and drafted[1][2:] != image.size:  # rounded up: the last row and column reach beyond the image
            image = image.resize(image.size, Image.Resampling.BILINEAR, box=drafted[1])
        return image
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB. Pillow clips 16-bit and float images, so we scale those ourselves."""
    if image.mode.startswith("I"):  # 16-bit grayscale; some formats deliver it in a 32-bit mode
        values = np.asarray(image, dtype=np.int64)
        return Image.fromarray(np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":  # float grayscale, 0..1 by convention
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        return Image.fromarray(np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
