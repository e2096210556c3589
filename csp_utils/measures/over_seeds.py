"""Metrics of arms over training seeds, and how the arms differ.

Two things vary: the test images and the training seed. A resample draws both: images among those that were asked about,
and seeds among those that were trained, the same draw for all arms of a comparison. An interval therefore covers other
images and another training.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.measures.arms import arm_of
from csp_utils.measures.bootstrap import estimate, image_weights, weighted_sum
from csp_utils.measures.counts import Counts, Protocol

METRICS = ("acc", "f1", "auc", "brier", "ece", "tie_rate", "spearman", "kendall", "plain_acc")
Draws = dict[tuple[str, str, str], np.ndarray]
"""(arm, split, metric) -> (seeds, 1 + B) values: column 0 on the images themselves, the others on resampled images."""


def draws(runs: Mapping[tuple[str, int], pd.DataFrame], protocol: Protocol, n_bootstrap: int) -> Draws:
    """Compute every metric of every arm, seed and split, on the same resampled images.

    Raises:
        UserError: two runs were asked different questions, or an arm lacks a seed for a split that another seed has.
    """
    found: dict[tuple[str, str, str], dict[int, np.ndarray]] = {}
    first: dict[str, list] = {}
    for (branch, seed), responses in runs.items():
        for (variant, split), rows in responses.groupby(["variant", "split"], sort=False):
            counts = Counts(rows, protocol)
            if first.setdefault(split, counts.question_ids) != counts.question_ids:
                raise UserError(f"Branch {branch}, seed {seed} was asked other questions of {split} than the runs "
                                "before it; evaluate all of them on the same data.")  # fmt: skip
            values = counts.metrics(image_weights(len(counts.images), n_bootstrap, protocol.seed))
            for metric in METRICS:
                found.setdefault((arm_of(branch, variant), split, metric), {})[seed] = values[metric]
    for key, seeds in found.items():
        others = next(iter(seeds for (arm, _, _), seeds in found.items() if arm == key[0]))
        if set(seeds) != set(others):
            raise UserError(f"{key[0]} has the seeds {sorted(seeds)} for {key[1]} and {sorted(others)} for another "
                            "split; evaluate all of them.")  # fmt: skip
    return {key: np.stack([seeds[seed] for seed in sorted(seeds)]) for key, seeds in found.items()}


class Combined(NamedTuple):
    """A weighted sum of arms, of one metric on one split. A field is None if it is undefined."""

    value: float | None
    """Mean over seeds; None if undefined for one of them."""
    ci_low: float | None
    ci_high: float | None
    p: float | None
    seed_low: float | None
    """Least value of a seed; None where no arm has more than one seed."""
    seed_high: float | None
    n_seeds: int


def combine(of: Draws, weights: Mapping[str, float], split: str, metric: str, seed: int = 0,
            undefined: float | None = None) -> Combined:
    """Add up arms, paired by resampled images and, where arms have several, by seeds.

    Args:
        weights: arm -> weight; {"csp": 1, "base": -1} is a difference.
        undefined: value to use where an arm's value is undefined; None leaves the sum undefined.

    Raises:
        UserError: two arms have different numbers of seeds, both more than one.
    """
    values = {arm: of[arm, split, metric] for arm in weights}
    several = {len(own): arm for arm, own in values.items() if len(own) > 1}
    if len(several) > 1:
        (other, _), (n, arm), *_ = several.items()
        raise UserError(f"{arm} has {n} seeds and another arm {other}; train both with the same ones.")
    if undefined is not None:
        values = {arm: np.where(np.isnan(own), undefined, own) for arm, own in values.items()}
    total = weighted_sum(values, weights)  # the single row of an arm with one seed is added to every seed of the others
    mean, n = _over_seeds(total, seed), len(total)
    known = n > 1 and not np.isnan(mean[0])
    low, high = (float(total[:, 0].min()), float(total[:, 0].max())) if known else (None, None)
    return Combined(*estimate(mean), low, high, n)


def difference(of: Draws, arm: str, versus: str, split: str, metric: str, seed: int = 0) -> Combined:
    """Subtract the arm ``versus`` from ``arm``."""
    return combine(of, {arm: 1, versus: -1}, split, metric, seed)


def differences(of: Draws, seeds: Mapping[str, Sequence[int]], pairs: Sequence[tuple[str, str]],
                seed: int = 0) -> pd.DataFrame:  # fmt: skip
    """Compare each (arm, versus) on every split and metric, over the seeds that both have.

    Args:
        seeds: of :func:`csp_utils.measures.arms.seeds_of`.

    Returns:
        arm, versus, split, metric and the fields of :class:`Combined`.
    """
    rows = []
    for arm, versus in pairs:
        both = with_shared_seeds(of, seeds, [name for name in (arm, versus) if name in seeds])
        rows += [(arm, versus, split, metric, *difference(both, arm, versus, split, metric, seed))
                 for own, split, metric in of if own == arm]  # fmt: skip
    return pd.DataFrame(rows, columns=["arm", "versus", "split", "metric", *Combined._fields])


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
    return {key: values[rows[key[0]]] if key[0] in rows else values for key, values in of.items()}


def table(of: Draws, seed: int = 0) -> pd.DataFrame:
    """Tabulate arm, split, metric, value (mean over seeds), ci_low, ci_high (images and seeds), seed_sd, n_seeds."""
    rows = []
    for (arm, split, metric), values in of.items():
        value, low, high, _ = estimate(_over_seeds(values, seed))
        spread = float(values[:, 0].std(ddof=1)) if len(values) > 1 and value is not None else None
        rows.append((arm, split, metric, value, low, high, spread, len(values)))
    columns = ["arm", "split", "metric", "value", "ci_low", "ci_high", "seed_sd", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)


def _over_seeds(values: np.ndarray, seed: int) -> np.ndarray:
    """Average (seeds, 1 + B) values over the seeds.

    Returns:
        (1 + B,) means: column 0 over all seeds, each other column over as many seeds, drawn with replacement. The
        values of a single seed (the base has no training) are returned as they are.
    """
    n_seeds = len(values)
    if n_seeds == 1:
        return values[0]
    picked = np.random.default_rng([seed, n_seeds]).integers(n_seeds, size=(n_seeds, values.shape[1] - 1))
    mean = values.mean(0)
    mean[1:] = np.take_along_axis(values[:, 1:], picked, axis=0).mean(0)
    return mean
