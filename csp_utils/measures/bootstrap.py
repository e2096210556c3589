"""The bootstrap of every table: weights of resampled images, intervals, p-values and paired differences.

Questions about one image are not independent, so images are resampled, not questions. A resample is a row of weights:
how often each image was drawn. In an array of values under all resamples, entry 0 belongs to the images themselves.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
"""Level of the intervals."""


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


class Estimate(NamedTuple):
    """A value, or a difference of values, with what its resamples say about it. A field is None if it is undefined."""

    value: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    """Two-sided p-value of the value against 0; of interest for a difference only."""


def estimate(values: np.ndarray) -> Estimate:
    """Compute the percentile interval and the p-value of values[0] from its resamples values[1:].

    p is 2 min(P(d <= 0), P(d >= 0)), each share as (count + 1) / (resamples + 1), at most 1 (Davison and Hinkley 1997,
    section 4.2): B resamples cannot give less than 2 / (B + 1). Undefined resamples (NaN) are left out. If the value
    itself or more than half of the resamples are undefined, there is neither an interval nor a p-value.
    """
    value = None if np.isnan(values[0]) else float(values[0])
    resamples = values[1:][~np.isnan(values[1:])]
    if value is None or len(resamples) == 0 or 2 * len(resamples) < len(values) - 1:
        return Estimate(value, None, None, None)
    low, high = np.quantile(resamples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    fewer = float(min((resamples <= 0).sum(), (resamples >= 0).sum()))
    return Estimate(value, float(low), float(high), min(1.0, 2 * (fewer + 1) / (len(resamples) + 1)))


def weighted_sum(values: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Add up the values of several variants, resample by resample; {"csp": 1, "base": -1} is a paired difference."""
    return sum((weight * values[name] for name, weight in weights.items()), np.zeros(()))


def paired_differences(values: Mapping[str, Mapping[str, np.ndarray]], pairs: Sequence[tuple[str, str]],
                       metrics: Sequence[str]) -> Iterator[tuple[str, str, str, Estimate]]:  # fmt: skip
    """Compare variants on the same resamples: the second variant of each pair minus the first.

    Args:
        values: variant -> metric -> (1 + B,) values, all under the same rows of weights.
        pairs: a pair with a variant that has no values is skipped.

    Yields:
        (first variant, second variant, metric, difference) for every pair and metric.
    """
    for first, second in pairs:
        if first in values and second in values:
            for metric in metrics:
                both = {first: values[first][metric], second: values[second][metric]}
                yield first, second, metric, estimate(weighted_sum(both, {second: 1, first: -1}))
