"""Perturb an image as a whole, so that the same reply can be scored with and without what the image shows.

VL-Calibration (arXiv 2604.09529) compares the probability of a description with the true image and with a perturbed
one. Its text names several perturbations; the published code blackens patches. Every draw has its own generator, whose
key is the seed, the row and the use, so that neither the order of rows nor the number of processes changes a pixel.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageFilter

from csp_utils.base.errors import UserError, nearest
from csp_utils.noise.diffusion import generator

Kind = Literal["patches", "blur", "noise", "grey", "crop"]


@dataclass(frozen=True)
class Perturbation:
    """What is done to an image. Each kind uses its own fields; the defaults are those of the published code.

    Raises UserError for an unknown kind or a number out of its range.
    """

    kind: Kind = "patches"
    """patches: black squares. blur: a Gaussian blur. noise: Gaussian noise. grey: one grey for all pixels. crop: the
    centre alone, scaled up to the size of the image."""
    share: float = 0.8
    """patches: probability of a patch to become black, 0..1."""
    patch: int = 14
    """patches: side of a patch, pixels. The grid begins at the upper left corner; the last patches may be smaller."""
    radius: float = 10.0
    """blur: standard deviation, pixels."""
    sigma: float = 189.0
    """noise: standard deviation, in 8-bit steps."""
    side: float = 0.5
    """crop: share of each side that is left, above 0 and at most 1. Ours: neither text nor code states it."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            known = nearest(self.kind, get_args(Kind))
            raise UserError(f"There is no perturbation named {self.kind!r}; {known}")
        if not (0 <= self.share <= 1 and 0 < self.side <= 1 and self.patch >= 1 and min(self.radius, self.sigma) >= 0):
            raise UserError(f"A number of {self} is out of range: share is 0 to 1, side above 0 and at most 1, patch "
                            "at least 1, radius and sigma at least 0; correct it.")  # fmt: skip


GREY = 128
"""The 8-bit value of all pixels under "grey", as in the published code."""


def perturb(image: Image.Image, perturbation: Perturbation, rng: np.random.Generator) -> Image.Image:
    """Perturb an image. "blur", "grey" and "crop" draw no random numbers.

    Args:
        image: RGB, at the size at which the model is shown it: patches and radii are in its pixels.
        perturbation: what to do.
        rng: source of the random numbers; see :func:`perturb_row`.

    Returns:
        a new RGB image of the same size, so that it has as many image tokens as the true one.
    """
    if perturbation.kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(perturbation.radius))
    if perturbation.kind == "grey":
        return Image.new("RGB", image.size, (GREY, GREY, GREY))
    if perturbation.kind == "crop":
        ends = [round(side * (1 - perturbation.side) / 2) for side in image.size]
        box = (*ends, *(max(end + 1, side - end) for end, side in zip(ends, image.size, strict=True)))
        # crop first: resize(box=...) would mix in pixels from beyond the box
        return image.crop(box).resize(image.size, Image.Resampling.BILINEAR)
    pixels = np.array(image.convert("RGB"))
    if perturbation.kind == "noise":
        noisy = pixels + rng.normal(0.0, perturbation.sigma, pixels.shape)
        return Image.fromarray(np.rint(np.clip(noisy, 0, 255)).astype(np.uint8))
    pixels[black_pixels(image.size, perturbation, rng)] = 0
    return Image.fromarray(pixels)


def black_pixels(size: tuple[int, int], perturbation: Perturbation, rng: np.random.Generator) -> np.ndarray:
    """Draw which pixels "patches" makes black: bool (height, width), for a size of (width, height) pixels."""
    (width, height), patch = size, perturbation.patch
    black = rng.random((-(-height // patch), -(-width // patch))) < perturbation.share
    return black.repeat(patch, axis=0).repeat(patch, axis=1)[:height, :width]


def perturb_row(image: Image.Image, perturbation: Perturbation, seed: int, row_id: str, use: str) -> Image.Image:
    """:func:`perturb` with the generator of this row and use, the same on every machine and in every order.

    Args:
        row_id: the row's own name, never its position.
        use: what this draw is for, for example "update 12 reply 3 image 0": the published code draws anew for every
            reply of every update.
    """
    return perturb(image, perturbation, generator(seed, row_id, f"{perturbation.kind} {use}"))
