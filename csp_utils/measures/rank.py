"""Spearman's and Kendall's rank correlation under many rows of image weights at once."""

import numpy as np

from csp_utils.measures.bootstrap import Resamples

RANK = ("spearman", "kendall")
"""The two rank correlations by their names in the tables; both are undefined (NaN) where one side is constant."""


def rank_correlations(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Compute both rank correlations of x and y, (n,) each, under each row of (B, n) weights.

    Args:
        y: should have few distinct values (a percent has 101), see :func:`kendall`.

    Returns:
        "spearman" and "kendall" -> (B,) values; NaN where x or y is constant or n is 0.
    """
    return {"spearman": spearman(x, y, weights), "kendall": kendall(x, y, weights)}


def as_compared(of: Resamples, n: int) -> Resamples:
    """Return what a correlation of n pairs counts as in a comparison: 0 where one side is constant.

    A constant confidence has no rank correlation, and tables say so. But it orders nothing, as one that is unrelated
    does; without a number for it, the model that always says the same could not be compared with any other. If there
    is no pair at all, the correlation stays undefined.
    """
    return of._replace(low=np.nan_to_num(of.low), high=np.nan_to_num(of.high)) if n else of


def spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute Spearman's rho (correlation of midranks) of x and y, (n,) each, under each row of (B, n) weights.

    Returns:
        (B,) values; NaN where x or y is constant or n is 0.
    """
    out = np.full(len(weights), np.nan)
    x, y = _codes(x), _codes(y)
    for b, w in enumerate(weights):
        total = w.sum()
        if total == 0:
            continue
        dx, dy = (_midranks(codes, w) - (total + 1) / 2 for codes in (x, y))
        spread = (w * dx * dx).sum() * (w * dy * dy).sum()
        if spread > 0:
            out[b] = (w * dx * dy).sum() / np.sqrt(spread)
    return out


def kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute Kendall's tau-b of x and y, (n,) each, under each row of (B, n) weights (whole numbers).

    Time and memory grow with n times the number of distinct values of y.

    Returns:
        (B,) values; NaN where x or y is constant or n is 0.
    """
    out = np.full(len(weights), np.nan)
    if len(x) == 0:
        return out
    order = np.argsort(x, kind="stable")
    x, y = _codes(x)[order], _codes(y)[order]
    start = np.searchsorted(x, x)  # first row of each row's group of equal x
    rows, levels = np.arange(len(y)), y.max() + 1
    for b, w in enumerate(weights[:, order]):
        total = w.sum()
        pairs = [total**2 - (np.bincount(codes, w) ** 2).sum() for codes in (x, y)]  # twice the pairs that differ
        if min(pairs) <= 0:
            continue
        before = np.zeros((len(y) + 1, levels))  # weight of each level of y in the rows before
        before[rows + 1, y] = w
        np.cumsum(before, axis=0, out=before)
        upto = np.cumsum(before, axis=1)[start, y]
        equal = before[start, y]
        earlier = np.concatenate([[0.0], np.cumsum(w)])[start]
        concordant, discordant = upto - equal, earlier - upto
        out[b] = 2 * (w * (concordant - discordant)).sum() / np.sqrt(pairs[0] * pairs[1])
    return out


def _codes(values: np.ndarray) -> np.ndarray:
    """Number the distinct values in rising order: 0, 1, 2 ..."""
    return np.unique(values, return_inverse=True)[1]


def _midranks(codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rank the rows from 1; a row of weight w counts w times, and equal values share the mean of their ranks."""
    group = np.bincount(codes, weights)
    return (np.cumsum(group) - group + (group + 1) / 2)[codes]
