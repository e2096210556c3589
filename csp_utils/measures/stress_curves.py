"""Curves and correlations of the stress test (:mod:`csp_utils.asking.stress`), with intervals over images."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from csp_utils.asking.stress import REGIONS
from csp_utils.measures.bootstrap import Resamples, estimate, image_weights, paired_differences, resamples
from csp_utils.measures.calibration import weighted_means
from csp_utils.measures.metrics import PAIRS
from csp_utils.measures.rank import RANK, as_compared, rank_correlations

CURVE_COLUMNS = ["model", "variant", "condition", "c", "quantity", "value", "ci_low", "ci_high", "n", "unread"]
QUANTITIES = ("right", "wrong", "plain_yes", "internal_yes")
"""The spoken confidence in the answer that is right about the unchanged image, and in the one that is wrong; the share
of plain answers that are Yes; the internal confidence in Yes. All 0..1."""


def curves(table: pd.DataFrame, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """Compute the mean of every quantity under every condition, with its 95 % interval.

    Args:
        table: stress.parquet.

    Returns:
        :data:`CURVE_COLUMNS`: value 0..1 (null if no reply could be read), n (replies that could be read), unread
        (replies that could not). Level 100, the unchanged image, is part of the curve of every region.
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
                    value, low, high, _ = estimate(resamples(name, weighted_means(read, image, weights), len(images)))
                    rows.append((model, variant, condition, None if pd.isna(c) else int(c), name, value, low, high,
                                 len(read), len(values) - len(read)))  # fmt: skip
    return pd.DataFrame(rows, columns=CURVE_COLUMNS).astype({"c": "Int64", "value": float})


def correlations(table: pd.DataFrame, n_bootstrap: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Correlate the level c with the spoken confidence, by rank, for each region and answer.

    Returns:
        values (model, variant, region, answer, metric: spearman or kendall, value, ci_low, ci_high, n; null where a
        model always says the same) and differences between variants on the same resampled images (model, variant_a,
        variant_b, region, answer, metric, diff, ci_low, ci_high, p), in which a model that always says the same counts
        as 0 (:func:`csp_utils.measures.rank.as_compared`).
    """
    weights, images = _weights(table, n_bootstrap, seed)
    rows, differences = [], []
    for (model, region, answer), part in _by_region(table):
        compared: dict[str, dict[str, Resamples]] = {}
        for variant, own in part.groupby("variant", sort=False):
            read = own.dropna(subset="verbalized")
            row_weights = weights[:, np.searchsorted(images, read["image"])].astype(float)
            found = rank_correlations(read["c"].to_numpy(float), read["verbalized"].to_numpy(float), row_weights)
            of = {metric: resamples(metric, values, len(images)) for metric, values in found.items()}
            compared[variant] = {metric: as_compared(values, len(read)) for metric, values in of.items()}
            for metric, values in of.items():
                value, low, high, _ = estimate(values)
                rows.append((model, variant, region, answer, metric, value, low, high, len(read)))
        for a, b, metric, difference in paired_differences(compared, PAIRS, RANK):
            differences.append((model, a, b, region, answer, metric, *difference))
    key = ["region", "answer", "metric"]
    return (pd.DataFrame(rows, columns=["model", "variant", *key, "value", "ci_low", "ci_high", "n"]),
            pd.DataFrame(differences, columns=["model", "variant_a", "variant_b", *key, "diff", "ci_low", "ci_high",
                                               "p"]))  # fmt: skip


def _weights(table: pd.DataFrame, n_bootstrap: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (1 + B, I) weights of the images (a single row for one image), and the sorted names of the images."""
    images = np.unique(table["image"])
    return image_weights(len(images), n_bootstrap if len(images) > 1 else 0, seed), images


def _quantities(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Return each quantity as a column, null where it could not be read; the last two once for each question."""
    yes = rows[rows["candidate"] == "Yes"]
    verbalized = {name: (part["verbalized"].astype(float) / 100) for name, part in rows.groupby("answer")}
    answered_yes = (yes["plain_answer"] == "Yes").astype(float).where(yes["plain_answer"].notna())
    return verbalized | {"plain_yes": answered_yes, "internal_yes": yes["internal"]}


def _by_region(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Yield ((model, region, answer), rows); the unchanged image is level 100 of every region."""
    regions = [region for region in REGIONS if (table["condition"] == region).any()]
    for model, own in table.groupby("model", sort=False):
        for region in regions:
            rows = own[(own["condition"] == region) | (own["c"] == 100)]
            for answer, part in rows.groupby("answer", sort=True):
                yield (model, region, answer), part
