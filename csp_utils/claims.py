"""Variants over training seeds: every metric, its difference from another variant, and what the paper claims of it.

An *arm* is a way to train: "base"; "<branch>" after its SimPO, and "<branch>/sft" after its SFT alone
(:mod:`csp_utils.branches`). Each arm but the base has a table of responses for every training seed. Two things vary:
the test images and the training seed. A resample draws both, images within the questions and seeds among those that
were trained, the same for both arms of a difference: an interval says what other images and another training would do.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from csp_utils.cells import Cell, Protocol
from csp_utils.errors import UserError
from csp_utils.intervals import interval, p_value, resampled_images

METRICS = ("acc", "f1", "auc", "brier", "ece", "tie_rate", "spearman", "kendall", "plain_acc")
Draws = dict[tuple[str, str, str], np.ndarray]
"""(arm, split, metric) -> (seeds, 1 + B) values: column 0 on the images themselves, the others on resampled ones."""


def arm_of(branch: str, variant: str) -> str:
    """The arm of a variant (base, sft, csp) of a branch ("" for the main run)."""
    return variant if variant == "base" else branch if variant == "csp" else f"{branch}/{variant}"


def draws(runs: Mapping[tuple[str, int], pd.DataFrame], protocol: Protocol, n_bootstrap: int) -> Draws:
    """Every metric of every arm, seed and split, on the same resampled images.

    Args:
        runs: (branch, seed) -> responses (:mod:`csp_utils.metrics`).

    Raises:
        UserError: two runs were asked different questions, or an arm lacks a seed for a split that another seed has.
    """
    found: dict[tuple[str, str, str], dict[int, np.ndarray]] = {}
    asked: dict[str, list] = {}
    for (branch, seed), responses in runs.items():
        for (variant, split), rows in responses.groupby(["variant", "split"], sort=False):
            cell = Cell(rows, protocol)
            if asked.setdefault(split, cell.question_ids) != cell.question_ids:
                raise UserError(f"Branch {branch}, seed {seed} was asked other questions of {split} than the runs "
                                "before it; evaluate all of them on the same data.")  # fmt: skip
            weights = resampled_images(len(cell.images), n_bootstrap, protocol.seed)
            values = cell.values(cell.resample(weights))
            for metric in METRICS:
                found.setdefault((arm_of(branch, variant), split, metric), {})[seed] = values[metric]
    for key, seeds in found.items():
        others = next(iter(seeds for (arm, _, _), seeds in found.items() if arm == key[0]))
        if set(seeds) != set(others):
            raise UserError(f"{key[0]} has the seeds {sorted(seeds)} for {key[1]} and {sorted(others)} for another "
                            "split; evaluate all of them.")  # fmt: skip
    return {key: np.stack([seeds[seed] for seed in sorted(seeds)]) for key, seeds in found.items()}


def _over_seeds(values: np.ndarray, n_seeds: int, seed: int) -> np.ndarray:
    """(1 + B,) means over seeds: of all of them in column 0, of as many drawn with replacement in each resample.

    An arm of a single seed (the base has no training) is the same whatever is drawn.
    """
    if len(values) == 1:
        return values[0]
    picked = np.random.default_rng([seed, n_seeds]).integers(n_seeds, size=(n_seeds, values.shape[1] - 1))
    mean = values.mean(0)
    mean[1:] = np.take_along_axis(values[:, 1:], picked, axis=0).mean(0)
    return mean


class Difference(NamedTuple):
    """One arm minus another, of one metric on one split."""

    arm: str
    versus: str
    split: str
    metric: str
    diff: float | None
    """Mean over seeds; null if undefined for one of them."""
    ci_low: float | None
    ci_high: float | None
    p: float | None
    seed_low: float | None
    """Least difference of a seed; null where neither arm has more than one."""
    seed_high: float | None
    n_seeds: int


def difference(of: Draws, arm: str, versus: str, split: str, metric: str, seed: int = 0) -> Difference:
    """The difference, paired by resampled images and, where both arms have them, by seeds."""
    a, b = of[versus, split, metric], of[arm, split, metric]
    n = max(len(a), len(b))
    if 1 < len(a) != len(b) > 1:
        raise UserError(f"{arm} has {len(b)} seeds and {versus} {len(a)}; train both with the same ones.")
    each = b[:, 0] - a[:, 0]  # a single row stands beside every seed
    values = _over_seeds(b - a, n, seed)
    undefined = bool(np.isnan(values[0]))
    low, high = (None, None) if n == 1 or undefined else (float(each.min()), float(each.max()))
    diff = None if undefined else float(values[0])
    return Difference(arm, versus, split, metric, diff, *interval(values), p_value(values), low, high, n)


def table(of: Draws, seed: int = 0) -> pd.DataFrame:
    """arm, split, metric, value (mean over seeds), ci_low, ci_high (images and seeds), seed_sd, n_seeds."""
    rows = []
    for (arm, split, metric), values in of.items():
        mean = _over_seeds(values, len(values), seed)
        spread = float(values[:, 0].std(ddof=1)) if len(values) > 1 else None
        value = None if np.isnan(mean[0]) else float(mean[0])
        rows.append((arm, split, metric, value, *interval(mean), None if value is None else spread, len(values)))
    columns = ["arm", "split", "metric", "value", "ci_low", "ci_high", "seed_sd", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)
