"""Show an image file under the noise of one level; the noise is added when the image is opened and never written."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from csp_utils.data.images import load_image
from csp_utils.data.rle import decode_mask
from csp_utils.noise.diffusion import perturb_row


class Noised(NamedTuple):
    """An image with the noise of level ``c`` (percent) in a mask (:func:`csp_utils.noise.diffusion.perturb_row`)."""

    path: Path
    c: int
    row_id: str
    seed: int
    t_max: int
    gamma: float
    rle_counts: str | None = None
    """Mask as COCO's compressed run lengths, of ``width`` x ``height`` pixels; None puts the noise everywhere."""
    width: int = 0
    height: int = 0

    def load(self) -> Image.Image:
        """Return the image with its noise, RGB, 8 bits."""
        mask = None if self.rle_counts is None else decode_mask(self.rle_counts, self.width, self.height)
        image = np.asarray(load_image(self.path))
        return Image.fromarray(perturb_row(image, mask, self.c, self.row_id, self.seed, self.t_max, self.gamma))
