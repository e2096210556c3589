"""Bootstrap intervals over images, and the two rank correlations with the weights that a resample needs.

Questions about one image are not independent, so images are resampled, not questions. A resample is a row of weights:
how often each image was drawn. Row 0 has weight 1 everywhere and gives the value itself.
"""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4)
def resampled_images(n_images: int, n_bootstrap: int, seed: int) -> np.ndarray:
    """(1 + n_bootstrap, n_images) float32 weights: all ones, then draws of n_images images with replacement.

    The same arguments give the same draws, so that two variants asked about the same images are compared in pairs.
    Splits and tables with the same number of images share one array (read-only, columns contiguous): it is drawn once.
    """
    rng = np.random.default_rng([seed, n_images])
    weights = np.ones((1 + n_bootstrap, n_images), dtype=np.float32)
    for row in weights[1:]:  # counting drawn images: the same distribution as rng.multinomial, six times as fast
        row[:] = np.bincount(rng.integers(n_images, size=n_images), minlength=n_images)
    weights = np.asfortranarray(weights)
    weights.flags.writeable = False
    return weights


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float | None, float | None]:
    """Percentile interval of values[1:], the resamples of values[0].

    (None, None) if the value itself, or more than half of the resamples, are undefined (NaN).
    """
    resamples = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or len(resamples) == 0 or 2 * len(resamples) < len(values) - 1:
        return None, None
    low, high = np.quantile(resamples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def p_value(values: np.ndarray) -> float | None:
    """Two-sided bootstrap p-value of the difference values[0] against 0, from its resamples values[1:].

    2 min(P(d <= 0), P(d >= 0)), each share as (count + 1) / (resamples + 1), at most 1 (Davison and Hinkley 1997,
    section 4.2): B resamples cannot give less than 2 / (B + 1). None where :func:`interval` has no interval.
    """
    if interval(values)[0] is None:
        return None
    resamples = values[1:][~np.isnan(values[1:])]
    fewer = min((resamples <= 0).sum(), (resamples >= 0).sum())
    return min(1.0, 2 * (float(fewer) + 1) / (len(resamples) + 1))


def spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's rho (correlation of midranks) of x and y, (n,) each, under each row of (B, n) weights.

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
    """Kendall's tau-b of x and y, (n,) each, under each row of (B, n) weights (whole numbers: multiplicities).

    y should have few distinct values (a percent has 101): the time is n times their number.

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
    """Ranks of the distinct values, 0, 1, 2 ..."""
    return np.unique(values, return_inverse=True)[1]


def _midranks(codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rank of each row (from 1), equal values sharing the mean of their ranks, a row of weight w standing w times."""
    group = np.bincount(codes, weights)
    return (np.cumsum(group) - group + (group + 1) / 2)[codes]
