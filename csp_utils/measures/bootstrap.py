"""The bootstrap of every table: weights of resampled images, intervals, p-values and paired differences.

Questions about one image are not independent, so images are resampled, not questions. A resample is a row of weights:
how often each image was drawn. In an array of values under all resamples, entry 0 belongs to the images themselves.

Chance can only raise some measures: a calibrated model has an ECE above 0 in every sample, and so has each resample of
a sample, even more. A percentile interval then lies above the truth. :func:`resamples` therefore gives each measure
the kind of interval that was found to contain the truth (tests/measures/test_coverage.py simulates it).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

LEVEL = 0.95
"""Level of the intervals."""
DECIDED = 2.0
"""The sign of a bin's gap is taken as known if the gap is larger than so many of its standard deviations."""
DEBIASED = ("brier_reliability_debiased", "brier_resolution_debiased", "squared_gap_debiased")
"""Measures that are right on average but whose resamples are too high: these are moved to the value."""
PLUG_IN = ("brier_reliability", "brier_resolution")
"""Measures that are too high by about as much as their resamples are higher still."""
NO_INTERVAL = ("mce", "smece")
"""Measures for which no interval was found that contains the truth of a calibrated model."""


@lru_cache(maxsize=4)
def image_weights(n_images: int, n_bootstrap: int, seed: int) -> np.ndarray:
    """Draw bootstrap resamples of the images.

    The same arguments give the same draws: variants that were asked about the same images are compared in pairs. All
    splits and tables with the same number of images share one cached array.

    Returns:
        (1 + n_bootstrap, n_images) float32, read-only, columns contiguous: how often each image counts; row 0 is all
        ones, each other row is a draw of n_images images with replacement.
    """
    rng = np.random.default_rng([seed, n_images])
    weights = np.ones((1 + n_bootstrap, n_images), dtype=np.float32)
    for row in weights[1:]:  # counting drawn images: the same distribution as rng.multinomial, six times as fast
        row[:] = np.bincount(rng.integers(n_images, size=n_images), minlength=n_images)
    weights = np.asfortranarray(weights)
    weights.flags.writeable = False
    return weights


# ------------------------------------------------------------------------------------------- resamples of a measure


class Resamples(NamedTuple):
    """The values of a measure under all resamples, (..., 1 + B), once for each end of its interval.

    Entry 0 is the measure's own value in both. The two are the same array but for measures that chance raises.
    """

    low: np.ndarray
    """For the lower end: with the most that chance may have added taken off."""
    high: np.ndarray
    """For the upper end: with nothing taken off."""
    n_images: int


def resamples(metric: str, values: np.ndarray, n_images: int, gaps: np.ndarray | None = None) -> Resamples:
    """Prepare a measure's (1 + B,) values for its interval, by what chance does to the measure.

    Args:
        gaps: (1 + B, bins) for a measure that is a sum of sizes of gaps; see :func:`sizes_of`.
    """
    if gaps is not None:
        return sizes_of(float(values[0]), gaps, n_images, {"overconfidence": 1, "underconfidence": -1}.get(metric, 0))
    if metric in NO_INTERVAL:
        return Resamples(values[:1], values[:1], n_images)
    if metric not in (*DEBIASED, *PLUG_IN) or len(values) == 1 or np.isnan(values).all():
        return Resamples(values, values, n_images)
    own, excess = values[0], np.nanmean(values[1:]) - values[0]
    centres = (0.0, 0.0) if metric in DEBIASED else (min(0.0, -excess), max(0.0, -excess))
    low, high = (np.append(own, values[1:] - excess + centre) for centre in centres)
    return Resamples(low, high, n_images)


def sizes_of(value: float, gaps: np.ndarray, n_images: int, side: int = 0) -> Resamples:
    """Resample a sum of |gap| over bins, or of the gaps of one sign.

    Where a gap is clearly not 0 its size moves with the gap. Where its sign is undecided, chance may have made all of
    it: for the lower end the gap's own noise is taken off, as if the true gap were 0, and for the upper end nothing.
    This is the bootstrap of a function with a kink (Fang and Santos 2019, Rev. Econ. Stud. 86, 377), made wider where
    a gap is undecided.

    Args:
        gaps: (1 + B, bins) signed gaps whose sizes add up to ``value``.
        side: 0 for |gap|, +1 for the gaps above 0, -1 for those below.
    """
    own, noise = gaps[0], gaps - gaps[0]
    known = len(gaps) > 1 and not np.isnan(own).any()
    spread = np.nanstd(noise[1:], axis=0) if known else np.zeros_like(own)
    decided = np.abs(own) > DECIDED * spread
    slope = np.sign(own) if side == 0 else side * (side * own > 0)
    chance = np.abs(noise) if side == 0 else np.maximum(side * noise, 0)
    low = value + noise @ (slope * decided) - chance @ ~decided
    return Resamples(low, value + noise @ slope, n_images)


def weighted_sum(values: Mapping[str, Resamples], weights: Mapping[str, float]) -> Resamples:
    """Add up the values of several variants, resample by resample; {"csp": 1, "base": -1} is a paired difference.

    The lower end of a difference is that of the first minus the upper end of the second.
    """
    ends = [(weight * own.low, weight * own.high)[:: 1 if weight > 0 else -1]
            for own, weight in ((values[name], weight) for name, weight in weights.items())]  # fmt: skip
    low, high = (sum(end[1:], end[0]) for end in zip(*ends, strict=True))
    return Resamples(low, high, next(iter(values.values())).n_images)


# ---------------------------------------------------------------------------------------------- intervals, p-values


class Estimate(NamedTuple):
    """A value, or a difference of values, with what its resamples say about it. A field is None if it is undefined."""

    value: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    """Two-sided p-value of the value against 0; of interest for a difference only."""


def estimate(of: Resamples) -> Estimate:
    """Compute the percentile interval and the p-value of a value from its (1 + B,) resamples.

    Resamples of few images vary too little. The quantiles are therefore taken further out, as far as those of a t
    distribution with a degree of freedom less than there are images lie beyond the normal ones (the expanded
    percentile interval: Hesterberg 2015, Am. Stat. 69, 371). With many images these are the 2.5 % and 97.5 %
    quantiles.

    p is 2 min(P(d <= 0), P(d >= 0)), each share as (count + 1) / (resamples + 1), at most 1 (Davison and Hinkley 1997,
    section 4.2), and made larger in the same way: B resamples cannot give less than 2 / (B + 1). Undefined resamples
    (NaN) are left out. If the value itself or more than half of the resamples are undefined, or there is one image,
    there is neither an interval nor a p-value.
    """
    value = None if np.isnan(of.low[0]) else float(of.low[0])
    low, high = (end[1:][~np.isnan(end[1:])] for end in (of.low, of.high))
    if value is None or of.n_images < 2 or len(low) == 0 or 2 * len(low) < len(of.low) - 1:
        return Estimate(value, None, None, None)
    wider = np.sqrt(of.n_images / (of.n_images - 1))
    tail = ndtr(-wider * stdtrit(of.n_images - 1, (1 + LEVEL) / 2))
    # "weibull" puts the k-th of B resamples at k / (B + 1), so that few resamples do not make intervals shorter.
    ends = np.quantile(low, tail, method="weibull"), np.quantile(high, 1 - tail, method="weibull")
    fewer = float(min((low <= 0).sum(), (high >= 0).sum()))
    share = min(0.5, (fewer + 1) / (len(low) + 1))
    p = 2 * stdtr(of.n_images - 1, ndtri(share) / wider)
    return Estimate(value, float(ends[0]), float(ends[1]), float(p))


def paired_differences(values: Mapping[str, Mapping[str, Resamples]], pairs: Sequence[tuple[str, str]],
                       metrics: Sequence[str]) -> Iterator[tuple[str, str, str, Estimate]]:  # fmt: skip
    """Compare variants on the same resamples: the second variant of each pair minus the first.

    Args:
        values: variant -> metric -> resamples, all under the same rows of weights.
        pairs: a pair with a variant that has no values is skipped.

    Yields:
        (first variant, second variant, metric, difference) for every pair and metric.
    """
    for first, second in pairs:
        if first in values and second in values:
            for metric in metrics:
                both = {first: values[first][metric], second: values[second][metric]}
                yield first, second, metric, estimate(weighted_sum(both, {second: 1, first: -1}))
