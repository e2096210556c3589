"""Calibration errors and the reliability diagram, from counts of how often each whole percent was said.

Verbalized confidences are whole percents. Counts (..., 2, 101) [label, percent] therefore hold all that the measures
need (paper, section 4.2), exactly and for all resamples at once. The label is 1 for a right candidate. Results have the
leading axes of the counts and are NaN where a measure is undefined.
"""

from typing import Literal

import numpy as np
import pandas as pd

PERCENT = np.arange(101)
Edges = Literal["right", "left"]
"""Which edge belongs to a bin. "right": (0, 10], (10, 20] ..., with 0 in the first bin; "left": [0, 10), [10, 20) ...,
with 100 in the last bin."""


def histogram(percent: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Count pairs by label and percent.

    Args:
        percent: (n,) whole percents 0..100.
        label: (n,) 0 or 1.

    Returns:
        (2, 101) float counts: [label, percent].
    """
    cells = label.astype(np.int64) * 101 + percent.astype(np.int64)
    return np.bincount(cells, minlength=202).astype(float).reshape(2, 101)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; the quotient is NaN (undefined) where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=denominator > 0)


def weighted_means(values: np.ndarray, at: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average the values of rows under each row of weights of their groups; NaN where no row counts.

    Args:
        values: (n,) numbers.
        at: (n,) column of ``weights`` that belongs to each row's image or group.
        weights: (B, groups), as of :func:`csp_utils.measures.bootstrap.image_weights`.

    Returns:
        (B,) float64.
    """
    n = weights.shape[1]
    sums = weights @ np.bincount(at, np.asarray(values, float), n)
    return ratio(sums, weights @ np.bincount(at, minlength=n).astype(float))


def bin_of_percent(n_bins: int, edges: Edges = "right") -> np.ndarray:
    """Return the (101,) bin numbers of the percents 0..100, for `n_bins` bins of equal width.

    The rule uses integers only, so it is exact where floating-point edges are not (30, 60 and 70 % of ten bins).
    """
    if edges == "right":
        return np.maximum((PERCENT * n_bins + 99) // 100 - 1, 0)
    return np.minimum(PERCENT * n_bins // 100, n_bins - 1)


def reliability(counts: np.ndarray, n_bins: int = 10, edges: Edges = "right") -> pd.DataFrame:
    """Tabulate the reliability diagram of (2, 101) counts.

    Returns:
        one row per bin: bin, low, high (percent), n, confidence (mean, 0..1) and accuracy (0..1); null if empty.
    """
    bins = bin_of_percent(n_bins, edges)
    n = np.bincount(bins, counts.sum(0), n_bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bins, counts.sum(0) * PERCENT, n_bins) / n / 100
        accuracy = np.bincount(bins, counts[1], n_bins) / n
    low = np.arange(n_bins) * 100 / n_bins
    columns = {"bin": np.arange(n_bins), "low": low, "high": low + 100 / n_bins, "n": n.astype(int)}
    return pd.DataFrame(columns | {"confidence": confidence, "accuracy": accuracy})


def ece(counts: np.ndarray, n_bins: int = 10, edges: Edges = "right") -> np.ndarray:
    """Compute the expected calibration error (0..1; paper, section 4.2)."""
    member = np.eye(n_bins)[bin_of_percent(n_bins, edges)]  # (101, n_bins)
    # Sum of (100 * label - percent) in each bin: whole numbers, so that a calibrated stream gives exactly 0.
    excess = (100 * counts[..., 1, :] - counts.sum(-2) * PERCENT) @ member
    return ratio(np.abs(excess).sum(-1) / 100, counts.sum((-2, -1)))


def signed_error(counts: np.ndarray) -> np.ndarray:
    """Compute mean confidence minus accuracy (-1..1; "calibration in the large"); above 0 is overconfident."""
    return ratio((counts.sum(-2) @ PERCENT - 100 * counts[..., 1, :].sum(-1)) / 100, counts.sum((-2, -1)))


def over_and_underconfidence(counts: np.ndarray, n_bins: int = 10,
                             edges: Edges = "right") -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Split the ECE into the part of overconfident bins and the part of underconfident bins (0..1 each).

    Their sum is :func:`ece` with the same bins, their difference is :func:`signed_error`.
    """
    gap = _gap(counts) @ np.eye(n_bins)[bin_of_percent(n_bins, edges)]
    total = counts.sum((-2, -1))
    return ratio(np.maximum(gap, 0).sum(-1) / 100, total), ratio(np.maximum(-gap, 0).sum(-1) / 100, total)


def gaps(counts: np.ndarray, n_bins: int = 10, edges: Edges = "right") -> np.ndarray:
    """Compute the part of each bin in :func:`signed_error`, (..., n_bins): the ECE is the sum of their sizes."""
    return _shares(counts, bin_of_percent(n_bins, edges), n_bins)


def adaptive_gaps(counts: np.ndarray, whole: np.ndarray, n_bins: int = 10) -> np.ndarray:
    """Compute the same as :func:`gaps` for the bins of equal mass that :func:`adaptive_ece` makes of ``whole``.

    Args:
        whole: (2, 101) counts of the sample itself; its bins are used for all ``counts``.
    """
    return _shares(counts, _equal_mass(whole.sum(0)[None], n_bins)[0], n_bins)


def _shares(counts: np.ndarray, bins: np.ndarray, n_bins: int) -> np.ndarray:
    total = np.broadcast_to(counts.sum((-2, -1))[..., None], (*counts.shape[:-2], n_bins))
    return ratio(_gap(counts) @ np.eye(n_bins)[bins] / 100, total)


def mce(counts: np.ndarray, n_bins: int = 10, edges: Edges = "right") -> np.ndarray:
    """Compute the maximum calibration error: the largest |confidence - accuracy| of a bin (0..1; Naeini et al. 2015).

    Empty bins do not count. A bin of one pair counts as much as a bin of thousands, so intervals are wide.
    """
    member = np.eye(n_bins)[bin_of_percent(n_bins, edges)]
    gap = ratio(np.abs(_gap(counts) @ member) / 100, counts.sum(-2) @ member)
    return np.where(counts.sum((-2, -1)) > 0, np.nan_to_num(gap).max(-1), np.nan)


def adaptive_ece(counts: np.ndarray, n_bins: int = 10) -> np.ndarray:
    """Compute the calibration error (0..1) over bins of equal mass (Nixon et al. 2019, arXiv 1904.01685).

    Bins are weighted by their mass. Candidates with equal confidence have no order, so all of them go into the same
    bin: the bin that holds the middle of their mass. For b pairs below a percent and m pairs at it, among N pairs, that
    is bin floor((2 b + m) n_bins / 2 N), in whole numbers. If one percent is said most of the time, the bins are far
    from equal and some are empty; if all percents are frequent, this is the usual measure.

    Returns:
        NaN also where there are fewer pairs than bins.
    """
    shape, counts = counts.shape[:-2], counts.reshape(-1, 2, 101)
    total, bins = counts.sum((-2, -1)), _equal_mass(counts.sum(-2), n_bins)
    cells = (bins + n_bins * np.arange(len(bins))[:, None]).ravel()
    gap = np.bincount(cells, _gap(counts).ravel(), n_bins * len(bins)).reshape(-1, n_bins)
    return ratio(np.abs(gap).sum(-1) / 100, total * (total >= n_bins)).reshape(shape)


def _equal_mass(mass: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the bin numbers of the percents, (n, 101), for (n, 101) pairs at each percent."""
    mass = mass.astype(np.int64)
    below = np.cumsum(mass, -1) - mass
    bins = (2 * below + mass) * n_bins // np.maximum(2 * mass.sum(-1), 1)[:, None]
    return np.minimum(bins, n_bins - 1)  # a percent above all that were said has no mass and would get bin n_bins


def _gap(counts: np.ndarray) -> np.ndarray:
    """Sum percent - 100 * label at each percent, (..., 101): whole numbers, so that sums of them are exact."""
    return counts.sum(-2) * PERCENT - 100 * counts[..., 1, :]
