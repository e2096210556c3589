"""Metrics of arms over training seeds, and how the arms differ.

Two things vary: the test images and the training. The mean over the seeds of n trainings has the variance

    s² / n + b²

s² is the variance between the seeds' values (it contains what resampled images do to each training alone), and b² is
what resampled images do to all trainings alike: the mean covariance of two seeds in the bootstrap of the images. The
interval is a t interval: each part has the t quantile of its own degrees of freedom (n - 1; images - 1), and the
quantile of the sum is their mean, weighted by the parts (Cochran and Cox 1957, Experimental Designs, section 4.14). Two
seeds show too little about a third: below :data:`LEAST_SEEDS` there is no interval and no p-value. The base was not
trained, so its intervals are over test images only.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from csp_utils.base.errors import UserError
from csp_utils.measures.arms import arm_of
from csp_utils.measures.bootstrap import LEVEL, Resamples, estimate, weighted_sum
from csp_utils.measures.counts import Counts, Protocol
from csp_utils.measures.metrics import check_responses, check_same_questions, resampled
from csp_utils.measures.rank import RANK

METRICS = ("acc", "f1", "auc", "brier", "ece", "tie_rate", "spearman", "kendall", "plain_acc")
UNTRAINED = "base"
"""The arm that was not trained: it has no seeds."""
LEAST_SEEDS = 3
"""Trainings that an interval over seeds needs."""
TOO_FEW = "an interval over trainings needs {} seeds, here {}"
UNDEFINED = "undefined for one of the seeds"
Draws = dict[tuple[str, str, str], Resamples]
"""(arm, split, metric) -> (seeds, 1 + B) values: column 0 on the images themselves, the others on resampled images."""


def draws(runs: Mapping[tuple[str, int], pd.DataFrame], protocol: Protocol, n_bootstrap: int) -> Draws:
    """Compute every metric of every arm, seed and split, on the same resampled images.

    Raises:
        UserError: two runs were asked different questions, a table of responses is not valid
            (:func:`csp_utils.measures.metrics.check_responses`), or an arm lacks a seed for a split that another seed
            has.
    """
    found: dict[tuple[str, str, str], dict[int, Resamples]] = {}
    first: dict[str, Counts] = {}
    for (branch, seed), responses in runs.items():
        for (variant, split), rows in check_responses(responses).groupby(["variant", "split"], sort=False):
            counts = Counts(rows, protocol)
            who = f"Branch {branch}, seed {seed}" if branch else f"Variant {variant}"
            check_same_questions(first.setdefault(split, counts), counts, who, split)
            values = resampled(counts, Counts.metrics, n_bootstrap)
            for metric in METRICS:
                found.setdefault((arm_of(branch, variant), split, metric), {})[seed] = values[metric]
    for key, seeds in found.items():
        others = next(iter(seeds for (arm, _, _), seeds in found.items() if arm == key[0]))
        if set(seeds) != set(others):
            raise UserError(f"{key[0]} has the seeds {sorted(seeds)} for {key[1]} and {sorted(others)} for another "
                            "split; evaluate all of them.")  # fmt: skip
    return {key: stack([seeds[seed] for seed in sorted(seeds)]) for key, seeds in found.items()}


def stack(seeds: Sequence[Resamples]) -> Resamples:
    """Stack the resamples of several trainings, (1 + B,) each, into (seeds, 1 + B) values."""
    low, high = (np.stack([getattr(own, end) for own in seeds]) for end in ("low", "high"))
    return Resamples(low, high, seeds[0].n_images)


class Combined(NamedTuple):
    """A weighted sum of arms, of one metric on one split. A field is None if it is undefined."""

    value: float | None
    """Mean over seeds; None if undefined for one of them."""
    ci_low: float | None
    ci_high: float | None
    p: float | None
    """Two-sided p-value of the value against ``than``."""
    seed_low: float | None
    """Least value of a seed; None where no arm was trained, or for a single seed."""
    seed_high: float | None
    n_seeds: int
    reason: str | None
    """Why there is no interval."""


def combine(of: Draws, weights: Mapping[str, float], split: str, metric: str, undefined: float | None = None,
            than: float = 0.0) -> Combined:  # fmt: skip
    """Add up arms, paired by resampled images and, where arms have several, by seeds.

    Args:
        weights: arm -> weight; {"csp": 1, "base": -1} is a difference.
        undefined: value to use where an arm's value is undefined; None leaves the sum undefined.
        than: the number with which p compares the value.

    Raises:
        UserError: two arms have different numbers of seeds, both more than one.
    """
    values = {arm: of[arm, split, metric] for arm in weights}
    several = {len(own.low): arm for arm, own in values.items() if len(own.low) > 1}
    if len(several) > 1:
        (other, _), (n, arm), *_ = several.items()
        raise UserError(f"{arm} has {n} seeds and another arm {other}; train both with the same ones.")
    if undefined is not None:
        values = {arm: own._replace(low=np.nan_to_num(own.low, nan=undefined),
                                    high=np.nan_to_num(own.high, nan=undefined)) for arm, own in values.items()}
    # The single row of an arm with one seed is added to every seed of the others.
    total = weighted_sum(values, weights)
    own, n = total.low[:, 0], len(total.low)
    seeds = (float(own.min()), float(own.max())) if n > 1 and not np.isnan(own).any() else (None, None)
    return Combined(*_interval(total, set(weights) != {UNTRAINED}, than), *seeds, n, _reason(total, weights))


def _reason(total: Resamples, arms: Mapping[str, float]) -> str | None:
    n = len(total.low)
    if np.isnan(total.low[:, 0]).any():
        return UNDEFINED
    return TOO_FEW.format(LEAST_SEEDS, n) if n < LEAST_SEEDS and set(arms) != {UNTRAINED} else None


def _interval(total: Resamples, trained: bool, than: float = 0.0) -> tuple[float | None, ...]:
    """Return value, ci_low, ci_high and p of (seeds, 1 + B) values; see the top of this module."""
    own, n = total.low[:, 0], len(total.low)
    if not trained:
        found = estimate(total._replace(low=total.low[0] - than, high=total.high[0] - than))
        return tuple(None if x is None else x + than for x in found[:3]) + (found.p,)
    if np.isnan(own).any():
        return None, None, None, None
    value = float(own.mean())
    known = ~np.isnan(total.low[:, 1:]).any(0)
    if n < LEAST_SEEDS or total.n_images < 2 or known.sum() < max(2, total.low.shape[1] // 2):
        return value, None, None, None
    between, ends = own.var(ddof=1) / n, []
    for end in (total.low[:, 1:][:, known], total.high[:, 1:][:, known]):
        covariance = np.cov(end)
        images = max(0.0, (covariance.sum() - np.trace(covariance)) / (n * (n - 1)))
        # The mean of the resamples is the value itself but for a measure that chance raises.
        ends.append((float(end.mean()), _Error(between, images, n - 1, total.n_images - 1)))
    (low, below), (high, above) = ends
    at = (1 - LEVEL) / 2
    return (value, min(value, low - below.reach(at)), max(value, high + above.reach(at)),
            min(1.0, 2 * min(below.tail(low - than), above.tail(than - high))))  # fmt: skip


class _Error(NamedTuple):
    """The error of a mean over seeds: two variances and their degrees of freedom."""

    between: float
    images: float
    seeds_freedom: int
    images_freedom: int

    def reach(self, tail: float) -> float:
        """Return how far the mean is beyond the truth with a chance of ``tail``."""
        parts = ((self.between, self.seeds_freedom), (self.images, self.images_freedom))
        total = self.between + self.images
        return sum(part * stdtrit(freedom, 1 - tail) for part, freedom in parts) / np.sqrt(total) if total else 0.0

    def tail(self, distance: float) -> float:
        """Return the chance that the mean is so far beyond the truth: the inverse of :meth:`reach`."""
        low, high = 0.0, 0.5
        if distance <= self.reach(high):
            return high
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self.reach(middle) > distance else (low, middle)
        return high


def difference(of: Draws, arm: str, versus: str, split: str, metric: str) -> Combined:
    """Subtract the arm ``versus`` from ``arm``; a constant confidence counts as a rank correlation of 0."""
    return combine(of, {arm: 1, versus: -1}, split, metric, 0.0 if metric in RANK else None)


def differences(of: Draws, seeds: Mapping[str, Sequence[int]], pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Compare each (arm, versus) on every split and metric, over the seeds that both have.

    Args:
        seeds: of :func:`csp_utils.measures.arms.seeds_of`.

    Returns:
        arm, versus, split, metric and the fields of :class:`Combined`.
    """
    rows = []
    for arm, versus in pairs:
        both = with_shared_seeds(of, seeds, [name for name in (arm, versus) if name in seeds])
        rows += [(arm, versus, split, metric, *difference(both, arm, versus, split, metric))
                 for own, split, metric in of if own == arm]  # fmt: skip
    return with_numbers(pd.DataFrame(rows, columns=["arm", "versus", "split", "metric", *Combined._fields]))


def with_shared_seeds(of: Draws, seeds: Mapping[str, Sequence[int]], arms: Sequence[str]) -> Draws:
    """Reduce each of ``arms`` to the seeds that all of them have; leave the other arms as they are.

    Args:
        seeds: of :func:`csp_utils.measures.arms.seeds_of`.

    Raises:
        UserError: the arms share no seed.
    """
    shared = set.intersection(*(set(seeds[arm]) for arm in arms))
    if not shared:
        raise UserError(f"{' and '.join(arms)} have no training seed in common; train them with the same ones.")
    rows = {arm: [seed in shared for seed in seeds[arm]] for arm in arms}
    return {key: own._replace(low=own.low[rows[key[0]]], high=own.high[rows[key[0]]]) if key[0] in rows else own
            for key, own in of.items()}  # fmt: skip


def table(of: Draws) -> pd.DataFrame:
    """Tabulate every metric of every arm.

    Returns:
        arm, split, metric, value (mean over seeds), ci_low, ci_high (over images and trainings, of the base over images
        only; at most the range of the metric), seed_sd, n_seeds, reason (why there is no interval).
    """
    rows = []
    for (arm, split, metric), own in of.items():
        value, low, high, _ = _interval(own, arm != UNTRAINED)
        if low is not None:
            low, high = max(low, -1.0 if metric in RANK else 0.0), min(high, 1.0)
        spread = float(own.low[:, 0].std(ddof=1)) if len(own.low) > 1 and value is not None else None
        rows.append((arm, split, metric, value, low, high, spread, len(own.low), _reason(own, {arm: 1})))
    columns = ["arm", "split", "metric", "value", "ci_low", "ci_high", "seed_sd", "n_seeds", "reason"]
    return with_numbers(pd.DataFrame(rows, columns=columns))


def with_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the columns of numbers their type, also where all of them are null."""
    names = ("value", "ci_low", "ci_high", "p", "seed_low", "seed_high", "seed_sd")
    return frame.astype({name: float for name in names if name in frame} | {"reason": object})
