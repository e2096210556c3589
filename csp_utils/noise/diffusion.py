"""Confidence levels and diffusion noise in the key object (paper, section 3.2).

A confidence level c (percent) sets a number of steps T_c of the forward diffusion process. The steps are applied to the
pixels inside the mask m:

    T_c = floor(T_max (1 - c/100)),   v_t ~ N(sqrt(1 - gamma) v_{t-1}, gamma I),   v = m v_{T_c} + (1 - m) v_0.

Steps of equal gamma compose to one Gaussian, so v_T = sqrt(abar) v_0 + sqrt(1 - abar) eps with abar = (1 - gamma)^T
(Ho et al. 2020, equation 4). Pixel values are scaled to [-1, 1], as in DDPM; the result is clipped and rounded to 8
bits.

Each use of random numbers has its own generator, whose key is the seed, the row and the purpose. So neither the order
of the rows nor their distribution over machines changes a pixel.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from csp_utils.base.errors import UserError
from csp_utils.base.run import missing
from csp_utils.data.images import image_key, load_image
from csp_utils.data.rle import decode_mask

Sampler = Literal["closed_form", "chain"]
NoiseRegion = Literal["mask", "box", "global"]


@dataclass(frozen=True)
class Diffusion:
    """The forward diffusion process of the noise."""

    t_max: int = 1000
    """T_max, the number of steps at c = 0."""
    gamma: float = 0.005
    """Variance that each step adds, in (0, 1)."""
    sampler: Sampler = "closed_form"
    """closed_form samples v_T in one step. chain takes the T steps one by one: the distribution is the same, the pixels
    differ, and it takes T times as long."""


def noise_steps(c: int, t_max: int) -> int:
    """Compute T_c, the number of diffusion steps for confidence level ``c``, in exact integer arithmetic.

    Raises UserError if ``c`` is not in 0..100 percent.
    """
    if not 0 <= c <= 100:
        raise UserError(f"Confidence level {c} is not between 0 and 100 percent; correct `levels`.")
    return t_max * (100 - c) // 100


def alpha_bar(steps: int, gamma: float) -> float:
    """Compute the share of the signal's variance that is left after ``steps`` steps: (1 - gamma)^steps."""
    return (1.0 - gamma) ** steps


def generator(seed: int, row_id: str, use: str) -> np.random.Generator:
    """Create the random generator of one row for one use, for example "noise 75".

    The key is the SHA-256 of the three arguments, which is the same on every machine (Python's ``hash`` is not).
    """
    digest = hashlib.sha256(f"{seed}\0{row_id}\0{use}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def draw_levels(seed: int, row_id: str, draws: int, levels: Sequence[int] | None = None) -> list[int]:
    """Draw the confidence levels of a row: ``draws`` different ones, each uniform over ``levels`` (None: 0 .. 100).

    Levels do not repeat within a row, because a row and a level identify one image. With more draws, the first levels
    stay the same. Raises UserError if there are fewer levels than draws.
    """
    levels = list(range(101)) if levels is None else list(levels)
    if draws > len(levels):
        raise UserError(f"draws_per_row is {draws}, but there are only {len(levels)} levels; lower it or add levels.")
    order = generator(seed, row_id, "levels").permutation(len(levels))
    return [levels[i] for i in order[:draws]]


def diffuse(
    v_0: np.ndarray, steps: int, gamma: float, rng: np.random.Generator, sampler: Sampler = "closed_form"
) -> np.ndarray:
    """Sample v_T after ``steps`` diffusion steps.

    Args:
        v_0: float array of any shape, values in [-1, 1].
        steps: T, at least 0; 0 returns a copy of ``v_0``.
        gamma, sampler: see :class:`Diffusion`.
        rng: source of the noise.

    Returns:
        float32 array of the same shape, not clipped.
    """
    v = np.asarray(v_0, np.float32)
    if steps == 0:
        return v.copy()
    if sampler == "closed_form":
        gamma, steps = 1.0 - alpha_bar(steps, gamma), 1
    keep, add = np.float32((1.0 - gamma) ** 0.5), np.float32(gamma**0.5)
    for _ in range(steps):
        noise = rng.standard_normal(v.shape, dtype=np.float32)
        noise *= add
        noise += keep * v
        v = noise
    return v


SCALED = np.arange(256, dtype=np.float32) / np.float32(127.5) - 1
"""8-bit values on the scale of the diffusion, -1 .. 1."""

STRIPE = 1 << 16
"""Values that get their noise at once, so that a large image needs no multiple of its size in memory."""


def bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and the columns of the smallest rectangle around a mask, bool (H, W); empty without a pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def perturb(
    image: np.ndarray,
    mask: np.ndarray | None,
    c: int,
    rng: np.random.Generator,
    diffusion: Diffusion = Diffusion(),
) -> np.ndarray:
    """Add noise of confidence level ``c`` to the image inside ``mask``.

    The noise is sampled for the mask's bounding box alone, in row-major order. The mask selects among 8-bit values:
    outside of it every pixel keeps its exact value, and c = 100 returns the image unchanged.

    Args:
        image: uint8, (H, W, 3).
        mask: bool, (H, W); None for the whole image (the ablation "global noise").
        c: confidence level in percent, 0..100.
        rng: source of the noise; see :func:`generator`.
        diffusion: T_max, gamma and the sampler.

    Returns:
        uint8, (H, W, 3).
    """
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}, not uint8 (H, W, 3)")
    if mask is not None and (mask.dtype != bool or mask.shape != image.shape[:2]):
        raise ValueError(f"mask is {mask.dtype} {mask.shape}, not bool {image.shape[:2]}")
    out = image.copy()
    steps = noise_steps(c, diffusion.t_max)
    if steps == 0:
        return out
    box = (slice(None), slice(None)) if mask is None else bounding_box(mask)
    part, inside = out[box], np.broadcast_to(True, image.shape[:2]) if mask is None else mask[box]
    high = max(1, STRIPE // max(1, part[:1].size))
    for top in range(0, len(part), high):
        some = slice(top, top + high)
        v = diffuse(SCALED[part[some]], steps, diffusion.gamma, rng, diffusion.sampler)
        np.clip(v, -1, 1, out=v)
        v += 1
        v *= np.float32(127.5)
        np.copyto(part[some], np.rint(v, out=v).astype(np.uint8), where=inside[some, :, None])
    return out


def perturb_row(
    image: np.ndarray,
    mask: np.ndarray | None,
    c: int,
    row_id: str,
    seed: int,
    diffusion: Diffusion = Diffusion(),
) -> np.ndarray:
    """:func:`perturb` with the random generator of this row at this level: its key is (seed, row_id, c)."""
    return perturb(image, mask, c, generator(seed, row_id, f"noise {c}"), diffusion)


def check_image(row: Any, file: bytes) -> None:
    """Raise UserError if an encoded image is not the one in which the mask of the row was found."""
    if image_key(file) != row.image_sha1:
        raise UserError(f"The image of row {row.row_id} is not the one that its mask was found in (its SHA-1 differs), "
                        "so rlaif_v has changed: run notebooks 01_extract and 02_mask again.")  # fmt: skip


def image_and_mask(row: Any, file: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Decode the image, uint8 (H, W, 3), and the mask, bool (H, W), of a row of masks.parquet.

    Args:
        file: the encoded image that the data hold for the row.

    Raises UserError as :func:`check_image` does, or if the image is damaged.
    """
    check_image(row, file)
    image = np.asarray(load_image(file, name=f"of row {row.row_id}"))
    return image, decode_mask(row.rle_counts, row.width, row.height)


def region_of(row: Any, mask: np.ndarray, noise_region: NoiseRegion) -> np.ndarray | None:
    """Return where the noise of a row of masks.parquet goes: bool (H, W), or None for the whole image.

    The region ``box`` is the mask and the rectangles of its boxes. Noise in the mask alone leaves the object's outline,
    by which the object may still be named at c = 0.
    """
    if noise_region != "box":
        return None if noise_region == "global" else mask
    region = mask.copy()
    for x0, y0, x1, y1 in row.boxes:
        region[max(0, math.floor(y0)) : math.ceil(y1), max(0, math.floor(x0)) : math.ceil(x1)] = True
    return region


def row_at(row: Any, file: bytes, c: int, p: Any) -> np.ndarray:
    """Perturb the image of a row of masks.parquet at level ``c``, with the parameters of notebook 03.

    Args:
        file: as for :func:`image_and_mask`.

    Returns:
        uint8, (H, W, 3).
    """
    image, mask = image_and_mask(row, file)
    region = region_of(row, mask, p.noise_region)
    return perturb_row(image, region, c, row.row_id, p.seed, Diffusion(p.t_max, p.gamma, p.sampler))


def scheduled(p: Any) -> Any:
    """Replace t_max and gamma of the parameters by those of ``schedule_file``, if there is one.

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
