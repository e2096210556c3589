"""How fast, how economical with random numbers and how small in memory the noise is, against VCD's function.

    OMP_NUM_THREADS=1 python benchmarks/perturbation.py

VCD (Leng et al. 2023, arXiv 2311.16922) adds diffusion noise to the whole image; its function is written here from the
paper's description of it: a sigmoid schedule of 1,000 steps, computed at each call, and one Gaussian for the image.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from csp_utils.noise.diffusion import bounding_box, generator, perturb, perturb_row  # noqa: E402

ROUNDS = 40


class Counting(np.random.Generator):
    """Counts the Gaussian random numbers that are drawn."""

    drawn = 0

    def standard_normal(self, size=None, dtype=np.float64, out=None):  # noqa: D102
        Counting.drawn += int(np.prod(size))
        return super().standard_normal(size, dtype, out)


def vcd(image: torch.Tensor, step: int) -> torch.Tensor:
    """Add VCD's noise to a float image (3, H, W)."""
    betas = torch.sigmoid(torch.linspace(-6, 6, 1000)) * (0.5e-2 - 1e-5) + 1e-5
    left = torch.cumprod(1 - betas, dim=0)[step]
    return torch.sqrt(left) * image + torch.sqrt(1 - left) * torch.randn_like(image)


def ellipse(height: int, width: int, area: float) -> np.ndarray:
    """Return a mask, bool (height, width), that covers ``area`` of the image."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return x**2 + y**2 <= 4 * area / np.pi


def seconds(functions: dict[str, Callable]) -> dict[str, float]:
    """Return the shortest time of each function; they take turns, so that other work on the machine meets all."""
    best = dict.fromkeys(functions, np.inf)
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> None:
    """Print the ratios."""
    torch.set_num_threads(1)
    print("| image | mask | time of VCD / ours | random numbers / those of the box | peak bytes / byte of the image |")
    print("| --- | --- | --- | --- | --- |")
    for height, width in ((448, 448), (480, 640), (3000, 4000)):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        for area in (0.05, 0.2, None):
            mask = None if area is None else ellipse(height, width, area)
            box = image.shape[:2] if mask is None else image[bounding_box(mask)].shape[:2]
            Counting.drawn = 0
            perturb(image, mask, 50, Counting(generator(0, "r", "noise 50").bit_generator))
            tracemalloc.start()
            perturb(image, mask, 50, generator(0, "r", "noise 50"))
            peak = tracemalloc.get_traced_memory()[1] / image.nbytes
            tracemalloc.stop()
            times = seconds({"vcd": partial(vcd, tensor, 500), "ours": partial(perturb_row, image, mask, 50, "r", 0)}
                            ) if height < 1000 else None  # fmt: skip
            ratio = f"{times['vcd'] / times['ours']:.1f}" if times else "-"
            where = "whole image" if area is None else f"ellipse, {area:.0%}"
            print(f"| {width} x {height} | {where} | {ratio} | {Counting.drawn / np.prod(box) / 3:.2f} | {peak:.2f} |")


if __name__ == "__main__":
    main()
