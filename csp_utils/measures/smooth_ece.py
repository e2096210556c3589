"""Smooth calibration error (smECE) of counts, for many resamples at once.

Blasiok and Nakkiran (2023), "Smooth ECE: principled reliability diagrams via kernel smoothing" (arXiv 2309.12236). The
residuals label - confidence are smoothed by a Gaussian of width sigma that is reflected at 0 and 1; smECE_sigma is the
integral of their absolute value, and smECE is its value at the width where the two are equal: no bins, no free choice.

The authors' package relplot does this for one sample at a time. Here confidences are whole percents and the kernel is
diagonal in the cosine basis of [0, 1]. Each halving of the width is therefore one matrix product for all resamples,
although each resample has a width of its own. The search is relplot's, and the values agree within 1e-3, with two
exceptions (both are tests) where this module follows the definition. First, relplot gives confidences of exactly 0 %
and 100 % half their weight, because its reflection drops the end points of its grid. Second, it cuts its kernel off
half a unit from the centre, which matters for widths above 0.15 where over- and underconfident ranges are neighbours.
"""

from functools import cache

import numpy as np

STEPS = 1024
"""Widths are whole numbers of 1 / STEPS: ten halvings, as in relplot."""

_MESH = 200  # points and most cosines, as many as relplot's mesh: enough down to a width of 8 / STEPS
_NARROW = 8  # below this width (in 1 / STEPS) neighbouring percents hardly overlap, and a finer mesh is used
_NARROW_MESH = 512


def smece(counts: np.ndarray) -> np.ndarray:
    """Compute the smooth calibration error (0..1) of (..., 2, 101) counts [label, percent]; NaN without any count.

    2 / STEPS is the narrowest width of the search, as in relplot. A smaller error is smoothed with that width, and the
    result is then the error at each single percent.
    """
    shape = counts.shape[:-2]
    counts = counts.reshape(-1, 2, 101)
    n = counts.sum((-2, -1))
    out = np.full(len(n), np.nan)
    known = n > 0
    counts, n = counts[known], n[known]
    excess = (100 * counts[:, 1] - counts.sum(-2) * np.arange(101)) / (100 * n[:, None])  # exact until the division
    low, high = np.zeros(len(n), dtype=np.int64), np.full(len(n), STEPS)
    value = _Smoothed(excess)
    at_high = value(high)
    while len(n) and high[0] - low[0] > 1:
        middle = (low + high) // 2
        at_middle = value(middle)
        # smECE_sigma falls with sigma. Every width below 0.001 counts as too narrow, as in relplot.
        narrow = (middle / STEPS < at_middle) | (middle < 2)
        low, high = np.where(narrow, middle, low), np.where(narrow, high, middle)
        at_high = np.where(narrow, at_high, at_middle)
    out[known] = at_high
    return out.reshape(shape)


class _Smoothed:
    """Computes smECE_sigma of (n, 101) excesses, at a width sigma for each.

    An excess is, at each percent, the sum of label - confidence divided by the number of all pairs. Single precision
    halves the time; its error, about 1e-6, is far below the error of the search.
    """

    def __init__(self, excess: np.ndarray):
        self.excess = excess.astype(np.float32)
        self.waves = self.excess @ _cosines(np.arange(101) / 100)

    def __call__(self, width: np.ndarray) -> np.ndarray:
        """Return (n,) values for (n,) widths in 1 / STEPS."""
        out = np.empty(len(width))
        wide = width >= _NARROW
        if wide.any():
            widths, which = np.unique(width[wide], return_inverse=True)
            # A cosine whose damping is below 1e-6 adds nothing: the wider the kernel, the fewer are needed.
            n_waves = min(_MESH, 2 + int(5.3 * STEPS / np.pi / widths[0]))
            frequency = np.pi * np.arange(n_waves)
            damping = _gauss(frequency * widths[:, None] / STEPS) * np.where(frequency > 0, 2, 1)
            waves = self.waves[wide, :n_waves] * damping.astype(np.float32)[which]
            out[wide] = np.abs(waves @ _mesh_cosines()[:n_waves]).mean(-1)
        for one in np.unique(width[~wide]):
            rows = width == one
            out[rows] = np.abs(self.excess[rows] @ _narrow_kernel(int(one))).mean(-1)
        return out


def _cosines(x: np.ndarray) -> np.ndarray:
    """Return (n, _MESH) float32: cos(k pi x) of the points x, k = 0, 1, 2 ..."""
    return np.cos(np.pi * x[:, None] * np.arange(_MESH)).astype(np.float32)


def _gauss(x: np.ndarray) -> np.ndarray:
    """Return exp(-x^2 / 2), and 0 where it is below 1e-16: numbers below 1e-38 would slow products down very much."""
    return np.where(np.abs(x) < 8.5, np.exp(-(x**2) / 2), 0)


@cache
def _mesh_cosines() -> np.ndarray:
    """Return (_MESH, _MESH) float32: the cosines [k, point] at the middles of _MESH equal parts of [0, 1]."""
    return np.ascontiguousarray(_cosines((np.arange(_MESH) + 0.5) / _MESH).T)


@cache
def _narrow_kernel(width: int) -> np.ndarray:
    """Return (101, _NARROW_MESH) float32: the reflected Gaussian around each percent, on a mesh where its mean is 1."""
    mesh, center = (np.arange(_NARROW_MESH) + 0.5) / _NARROW_MESH, np.arange(101)[:, None] / 100
    kernel = sum(_gauss((mesh - at) * STEPS / width) for at in (center, -center, 2 - center))
    return (kernel / kernel.mean(-1, keepdims=True)).astype(np.float32)
