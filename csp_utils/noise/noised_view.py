"""An image file under the noise of one level, drawn when it is shown and never written."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from csp_utils.data.images import load_image
from csp_utils.data.rle import decode_mask
from csp_utils.noise.diffusion import perturb_row


class Noised(NamedTuple):
    """An image with the noise of confidence level ``c`` in a mask (:func:`csp_utils.noise.diffusion.perturb_row`)."""

    path: Path
    c: int
    row_id: str
    seed: int
    t_max: int
    gamma: float
    rle_counts: str | None = None
    """COCO's run lengths of the mask; None for the whole image."""
    width: int = 0
    height: int = 0

    def load(self) -> Image.Image:
        """The noised picture."""
        mask = None if self.rle_counts is None else decode_mask(self.rle_counts, self.width, self.height)
        image = np.asarray(load_image(self.path))
        return Image.fromarray(perturb_row(image, mask, self.c, self.row_id, self.seed, self.t_max, self.gamma))
