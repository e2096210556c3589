"""Pictures of boxes and masks, drawn on the image that they belong to."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ORANGE = (255, 140, 0)


def enlarge(image: Image.Image, side: int = 336) -> tuple[Image.Image, float]:
    """The image with its longer side scaled to ``side`` pixels, and the factor."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.NEAREST if scale > 1 else Image.LANCZOS), scale


def with_boxes(image: Image.Image, boxes: np.ndarray, labels: Sequence[str], side: int = 336) -> Image.Image:
    """A copy ``side`` pixels long with boxes and a line of text in each.

    Args:
        image: RGB.
        boxes: (n, 4), x0, y0, x1, y1 in pixels of ``image``.
        labels: n texts.
    """
    out, scale = enlarge(image, side)
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(size=14)
    for box, label in zip(np.asarray(boxes).reshape(-1, 4) * scale, labels, strict=True):
        draw.rectangle(box.tolist(), outline=ORANGE, width=2)
        width = draw.textlength(label, font=font)
        place = (max(0, min(box[0], out.width - width - 1)), max(0, box[1] - 18))
        draw.rectangle(draw.textbbox(place, label, font=font), fill="black")
        draw.text(place, label, fill="white", font=font)
    return out


def with_mask(image: Image.Image, mask: np.ndarray, side: int = 336) -> Image.Image:
    """A copy ``side`` pixels long that is darkened outside the mask, bool (height, width), and orange on its edge."""
    from scipy import ndimage

    pixels = np.asarray(image).astype(np.float32)
    pixels[~mask] *= 0.35
    out, scale = enlarge(Image.fromarray(pixels.astype(np.uint8)), side)
    big = np.asarray(Image.fromarray(mask).resize(out.size, Image.NEAREST))
    picture = np.asarray(out).copy()
    picture[big ^ ndimage.binary_dilation(big, iterations=2)] = ORANGE
    return Image.fromarray(picture)


def side_by_side(pictures: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Pictures in a row, on white."""
    out = Image.new("RGB", (sum(p.width + gap for p in pictures) - gap, max(p.height for p in pictures)), "white")
    x = 0
    for picture in pictures:
        out.paste(picture, (x, 0))
        x += picture.width + gap
    return out
