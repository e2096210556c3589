"""Confidence labels and diffusion noise in the key object (paper, section 3.2).

A label c in percent becomes T_c steps of the forward diffusion process, which are applied to the pixels of the mask:

    T_c = floor(T_max (1 - c/100)),   v_t ~ N(sqrt(1 - gamma) v_{t-1}, gamma I),   v = m v_{T_c} + (1 - m) v_0.

Steps of equal gamma compose to one Gaussian, so v_T = sqrt(abar) v_0 + sqrt(1 - abar) eps with abar = (1 - gamma)^T
(Ho et al. 2020, equation 4). Values are in [-1, 1], as in DDPM; the result is clipped and rounded to 8 bits.

Every random draw has its own generator, keyed by what it is for and not by when it happens: neither the order of the
rows nor their distribution over machines changes a pixel.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from csp_utils.base.errors import UserError
from csp_utils.base.run import missing
from csp_utils.data.rle import decode_mask

if TYPE_CHECKING:
    from csp_utils.data.rlaif_v import RlaifV

Sampler = Literal["closed_form", "chain"]

def noise_steps(c: int, t_max: int) -> int:
    """T_c, the number of diffusion steps for confidence ``c`` (percent, 0..100), in exact integer arithmetic."""
    if not 0 <= c <= 100:
        raise UserError(f"Confidence level {c} is not between 0 and 100 percent; correct `levels`.")
    return t_max * (100 - c) // 100


def alpha_bar(steps: int, gamma: float) -> float:
    """Share of the signal's variance that is left after ``steps`` steps of variance ``gamma``: (1 - gamma)^steps."""
    return (1.0 - gamma) ** steps


def generator(seed: int, row_id: str, use: str) -> np.random.Generator:
    """The random numbers of one row for one use, such as "noise 75".

    The key is a SHA-256 of the three, so that it is the same on every machine (Python's ``hash`` is not).
    """
    digest = hashlib.sha256(f"{seed}\0{row_id}\0{use}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def draw_levels(seed: int, row_id: str, draws: int, levels: Sequence[int] | None = None) -> list[int]:
    """Confidence labels of a row: ``draws`` different ones, each uniform over ``levels`` (None: 0, 1, ... 100).

    They do not repeat within a row, because a row and its level name one image. More draws only add labels to those
    of fewer draws. Raises UserError if there are fewer levels than draws.
    """
    levels = list(range(101)) if levels is None else list(levels)
    if draws > len(levels):
        raise UserError(f"draws_per_row is {draws}, but there are only {len(levels)} levels; lower it or add levels.")
    order = generator(seed, row_id, "levels").permutation(len(levels))
    return [levels[i] for i in order[:draws]]


def diffuse(
    v_0: np.ndarray, steps: int, gamma: float, rng: np.random.Generator, sampler: Sampler = "closed_form"
) -> np.ndarray:
    """v_T after ``steps`` diffusion steps.

    Args:
        v_0: float array of any shape, values in [-1, 1].
        steps: T, at least 0; 0 gives ``v_0`` itself.
        gamma: variance that each step adds, in (0, 1).
        rng: source of the noise.
        sampler: "closed_form" draws v_T at once; "chain" takes the steps one by one. The distribution is the same,
            single draws differ, and the chain takes T times as long.

    Returns:
        float32 array of the same shape, not clipped.
    """
    v = np.asarray(v_0, np.float32)
    if steps == 0:
        return v.copy()
    if sampler == "chain":
        keep, add = np.float32((1.0 - gamma) ** 0.5), np.float32(gamma**0.5)
        for _ in range(steps):
            v = keep * v + add * rng.standard_normal(v.shape, dtype=np.float32)
        return v
    left = alpha_bar(steps, gamma)
    return np.float32(left**0.5) * v + np.float32((1.0 - left) ** 0.5) * rng.standard_normal(v.shape, dtype=np.float32)


def perturb(
    image: np.ndarray,
    mask: np.ndarray | None,
    c: int,
    rng: np.random.Generator,
    t_max: int = 1000,
    gamma: float = 0.005,
    sampler: Sampler = "closed_form",
) -> np.ndarray:
    """The image with noise of confidence level ``c`` inside ``mask``.

    The noise is drawn for the whole image and then selected by the mask, so that one generator gives a pixel the same
    noise whatever the mask. The selection is made on 8-bit values: outside the mask every pixel is the original one,
    bit for bit, and c = 100 leaves the whole image as it is.

    Args:
        image: uint8, (H, W, 3).
        mask: bool, (H, W); None for the whole image (the ablation "global noise").
        c: confidence level in percent, 0..100.
        rng: source of the noise; see :func:`generator`.
        t_max, gamma, sampler: see :func:`noise_steps` and :func:`diffuse`.

    Returns:
        uint8, (H, W, 3).
    """
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}, not uint8 (H, W, 3)")
    if mask is not None and (mask.dtype != bool or mask.shape != image.shape[:2]):
        raise ValueError(f"mask is {mask.dtype} {mask.shape}, not bool {image.shape[:2]}")
    steps = noise_steps(c, t_max)
    if steps == 0:
        return image.copy()
    v = diffuse(image / np.float32(127.5) - 1, steps, gamma, rng, sampler)
    noised = np.rint((np.clip(v, -1, 1) + 1) * 127.5).astype(np.uint8)
    return noised if mask is None else np.where(mask[:, :, None], noised, image)


def perturb_row(
    image: np.ndarray,
    mask: np.ndarray | None,
    c: int,
    row_id: str,
    seed: int,
    t_max: int = 1000,
    gamma: float = 0.005,
    sampler: Sampler = "closed_form",
) -> np.ndarray:
    """:func:`perturb` with the noise of this row at this level: keyed by (seed, row_id, c)."""
    return perturb(image, mask, c, generator(seed, row_id, f"noise {c}"), t_max, gamma, sampler)


def image_and_mask(row: Any, data: "RlaifV") -> tuple[np.ndarray, np.ndarray]:
    """Image, uint8 (H, W, 3), and mask, bool (H, W), of a row of masks.parquet.

    Raises UserError if the image is not the one the mask was made from.
    """
    image = np.asarray(data.image(row.row_id))
    if image.shape[:2] != (row.height, row.width):
        raise UserError(
            f"The image of row {row.row_id} has {image.shape[1]} x {image.shape[0]} pixels, but its "
            f"mask has {row.width:.0f} x {row.height:.0f}; rlaif_v has changed: run notebook 02_mask again."
        )
    return image, decode_mask(row.rle_counts, row.width, row.height)


def row_at(row: Any, data: "RlaifV", c: int, p: Any) -> np.ndarray:
    """The picture of a row of masks.parquet at level ``c``, with the noise that ``p`` asks for: uint8 (H, W, 3)."""
    image, mask = image_and_mask(row, data)
    region = None if p.noise_region == "global" else mask
    return perturb_row(image, region, c, row.row_id, p.seed, p.t_max, p.gamma, p.sampler)


def scheduled(p: Any) -> Any:
    """The parameters with t_max and gamma of ``schedule_file``, if one is given.

    Raises UserError if the file is missing or holds no schedule.
    """
    if p.schedule_file is None:
        return p
    path = Path(p.schedule_file)
    if not path.is_file():
        raise missing(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return type(p)(**p.model_dump() | {name: found[name] for name in ("t_max", "gamma")})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no schedule (t_max and gamma); make it with notebook 10_schedule.") from error
