"""Curves and correlations of the stress test (:mod:`csp_utils.asking.stress`), with intervals over images."""

import numpy as np
import pandas as pd

from csp_utils.asking.stress import REGIONS
from csp_utils.measures.bootstrap import interval, kendall, p_value, resampled_images, spearman
from csp_utils.measures.calibration import ratio
from csp_utils.measures.metrics import PAIRS

CURVE_COLUMNS = ["model", "variant", "condition", "c", "quantity", "value", "ci_low", "ci_high", "n", "unread"]
QUANTITIES = ("right", "wrong", "plain_yes", "internal_yes")
"""Spoken confidence in the answer that is right, and in the one that is wrong, about the unchanged image; the share of
plain answers that are Yes; the internal confidence in Yes. All 0..1."""


def _weights(table: pd.DataFrame, n_bootstrap: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(1 + B, I) weights of the images (a single row for one image), and the names of the images."""
    images = np.unique(table["image"])
    weights = resampled_images(len(images), n_bootstrap, seed)
    return (weights if len(images) > 1 else weights[:1]), images


def _quantities(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Each quantity as a column, null where it was not read; the last two once for each question."""
    yes = rows[rows["candidate"] == "Yes"]
    spoken = {name: (part["verbalized"].astype(float) / 100) for name, part in rows.groupby("answer")}
    said = (yes["plain_answer"] == "Yes").astype(float).where(yes["plain_answer"].notna())
    return spoken | {"plain_yes": said, "internal_yes": yes["internal"]}


def curves(table: pd.DataFrame, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """The mean of every quantity under every condition, with its 95 % interval.

    Args:
        table: stress.parquet.

    Returns:
        :data:`CURVE_COLUMNS`: value 0..1 (null if nothing was read), n (replies that were read), unread (those that
        were not). Level 100, the unchanged image, stands in the curve of every region.
    """
    weights, images = _weights(table, n_bootstrap, seed)
    rows = []
    for (model, variant), own in table.groupby(["model", "variant"], sort=False):
        unchanged = own[own["c"] == 100]
        for condition, part in own.groupby("condition", sort=False):
            if condition in REGIONS and condition != "object":
                part = pd.concat([unchanged, part])
            for c, level in part.groupby("c", sort=True, dropna=False):
                for name, values in _quantities(level).items():
                    read = values.dropna()
                    image = np.searchsorted(images, level.loc[read.index, "image"])
                    sums = weights @ np.bincount(image, read.astype(float), len(images))
                    means = ratio(sums, weights @ np.bincount(image, minlength=len(images)).astype(float))
                    low, high = interval(means)
                    value = None if np.isnan(means[0]) else float(means[0])
                    rows.append((model, variant, condition, None if pd.isna(c) else int(c), name, value, low, high,
                                 len(read), len(values) - len(read)))  # fmt: skip
    return pd.DataFrame(rows, columns=CURVE_COLUMNS).astype({"c": "Int64", "value": float})


def correlations(table: pd.DataFrame, n_bootstrap: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rank correlation of the level c with the spoken confidence, for each region and answer.

    Returns:
        values (model, variant, region, answer, metric: spearman or kendall, value, ci_low, ci_high, n; null where a
        model always says the same) and differences between variants on the same resampled images (model, variant_a,
        variant_b, region, answer, metric, diff, ci_low, ci_high, p).
    """
    weights, images = _weights(table, n_bootstrap, seed)
    rows, differences = [], []
    regions = [region for region in REGIONS if (table["condition"] == region).any()]
    for (model, region, answer), part in _by_region(table, regions):
        draws: dict[tuple[str, str], np.ndarray] = {}
        for variant, own in part.groupby("variant", sort=False):
            read = own.dropna(subset="verbalized")
            c, said = read["c"].to_numpy(float), read["verbalized"].to_numpy(float)
            row_weights = weights[:, np.searchsorted(images, read["image"])].astype(float)
            for metric, compute in (("spearman", spearman), ("kendall", kendall)):
                draws[variant, metric] = values = compute(c, said, row_weights)
                value = None if np.isnan(values[0]) else float(values[0])
                rows.append((model, variant, region, answer, metric, value, *interval(values), len(read)))
        for a, b in PAIRS:
            for metric in ("spearman", "kendall"):
                if {(a, metric), (b, metric)} <= set(draws):
                    diff = draws[b, metric] - draws[a, metric]
                    value = None if np.isnan(diff[0]) else float(diff[0])
                    differences.append((model, a, b, region, answer, metric, value, *interval(diff), p_value(diff)))
    names = ["region", "answer", "metric"]
    return (pd.DataFrame(rows, columns=["model", "variant", *names, "value", "ci_low", "ci_high", "n"]),
            pd.DataFrame(differences, columns=["model", "variant_a", "variant_b", *names, "diff", "ci_low", "ci_high",
                                               "p"]))  # fmt: skip


def _by_region(table: pd.DataFrame, regions: list[str]):
    """((model, region, answer), rows) with the unchanged image as level 100 of every region."""
    for model, own in table.groupby("model", sort=False):
        for region in regions:
            rows = own[(own["condition"] == region) | (own["c"] == 100)]
            for answer, part in rows.groupby("answer", sort=True):
                yield (model, region, answer), part
