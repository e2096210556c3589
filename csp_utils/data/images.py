"""One way to open an image: whatever the file, out comes an upright 8-bit RGB picture.

The size that :func:`load_image` returns is the coordinate frame of every box and mask of this project.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from csp_utils.base.errors import UserError
from csp_utils.noise.rendered import draw, is_drawn


def load_image(source: bytes | str | Path, name: str | None = None) -> Image.Image:
    """Decode an image file completely.

    Args:
        source: path of the file, or its bytes (JPEG, PNG, WebP, TIFF ... of any mode).
        name: what to call the image in an error; default: its path.

    Returns:
        PIL image, mode RGB, 8 bits a channel, turned upright by its EXIF orientation; transparent parts lie on
        white; of an animation the first frame.

    Raises:
        UserError: the file is missing, empty, truncated, not an image, or too large to be one in good faith.
    """
    name = name or (f"image of {len(source)} bytes" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes):
        path = Path(source)
        if is_drawn(path):
            return draw(path)
        if not path.is_file():
            raise UserError(f"image {name} is missing; put the file there or correct the path")
        try:
            source = path.read_bytes()
        except OSError as error:
            raise UserError(f"image {name} cannot be read ({error.strerror}); check its permissions") from error
    if not source:
        raise UserError(f"image {name} is empty (0 bytes); fetch it again")
    try:
        image = _decode(source)
        return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise UserError(f"image {name} is not an image that Pillow knows; fetch it again or remove its row") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"image {name} has more pixels than Pillow opens; scale it down") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise on damaged data
        raise UserError(f"image {name} is damaged or truncated ({error}); fetch it again or remove its row") from error


def _decode(data: bytes) -> Image.Image:
    """Open and decode; a truncated file is an error even if a library has told Pillow to let it pass."""
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return image
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB. Pillow clips 16-bit and float images instead of scaling them, so those are scaled here."""
    if image.mode.startswith("I"):  # 16-bit grayscale, which some formats deliver in a 32-bit mode
        values = np.asarray(image, dtype=np.int64)
        return Image.fromarray(np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":  # grayscale floats: 0..1 by convention
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        return Image.fromarray(np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
