"""A view of an image file with the noise of one confidence level: computed when it is loaded, never written."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from csp_utils.data.images import load_image
from csp_utils.data.rle import decode_mask
from csp_utils.noise.diffusion import Diffusion, perturb_row


class EncodedMask(NamedTuple):
    """A mask as masks.parquet stores it."""

    rle_counts: str
    """COCO's compressed run lengths."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""


class NoisyImage(NamedTuple):
    """An image with the noise of confidence level ``c`` (:func:`csp_utils.noise.diffusion.perturb_row`)."""

    path: Path
    c: int
    """Confidence level in percent."""
    row_id: str
    """Key of the random numbers, together with ``seed`` and ``c``."""
    seed: int
    diffusion: Diffusion
    mask: EncodedMask | None = None
    """Where the noise goes; None for the whole image."""

    def load(self) -> Image.Image:
        """Open the image and add the noise."""
        mask = None if self.mask is None else decode_mask(*self.mask)
        image = np.asarray(load_image(self.path))
        return Image.fromarray(perturb_row(image, mask, self.c, self.row_id, self.seed, self.diffusion))
