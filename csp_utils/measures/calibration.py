"""Calibration metrics of counts: how often each whole percent was said about right and about wrong candidates.

Verbalised confidences are whole percents, so (2, 101) counts [label, percent] hold all that AUC, Brier score, ECE, the
ROC curve and the reliability diagram need (paper, section 4.2), exactly and for many resamples at once.
"""

from typing import Literal

import numpy as np
import pandas as pd


def histogram(percent: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Counts of (label, percent).

    Args:
        percent: (n,) whole percents 0..100.
        label: (n,) 0 or 1.

    Returns:
        (2, 101) float counts: [label, percent].
    """
    cells = label.astype(np.int64) * 101 + percent.astype(np.int64)
    return np.bincount(cells, minlength=202).astype(float).reshape(2, 101)


def bin_of_percent(n_bins: int, edges: Literal["right", "left"] = "right") -> np.ndarray:
    """(101,) bin of each whole percent, for `n_bins` bins of equal width; exact, because it never leaves the integers.

    Args:
        edges: which edge belongs to a bin. "right": (0, 10], (10, 20] ..., and 0 is in the first bin;
            "left": [0, 10), [10, 20) ..., and 100 is in the last bin.
    """
    percent = np.arange(101)
    if edges == "right":
        return np.maximum((percent * n_bins + 99) // 100 - 1, 0)
    return np.minimum(percent * n_bins // 100, n_bins - 1)


def reliability(counts: np.ndarray, n_bins: int = 10, edges: Literal["right", "left"] = "right") -> pd.DataFrame:
    """The reliability diagram as a table.

    Args:
        counts: (2, 101) counts of (label, percent).

    Returns:
        one row per bin: bin, low, high (percent), n, confidence (mean, 0..1) and accuracy (0..1); null if empty.
    """
    bins = bin_of_percent(n_bins, edges)
    n = np.bincount(bins, counts.sum(0), n_bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bins, counts.sum(0) * np.arange(101), n_bins) / n / 100
        accuracy = np.bincount(bins, counts[1], n_bins) / n
    low = np.arange(n_bins) * 100 / n_bins
    columns = {"bin": np.arange(n_bins), "low": low, "high": low + 100 / n_bins, "n": n.astype(int)}
    return pd.DataFrame(columns | {"confidence": confidence, "accuracy": accuracy})


def roc(counts: np.ndarray) -> pd.DataFrame:
    """ROC curve of (2, 101) counts of (label, percent): threshold (percent; 101 accepts nothing), fpr, tpr (0..1)."""
    above = np.concatenate([np.zeros((2, 1)), np.cumsum(counts[:, ::-1], axis=1)], axis=1)
    with np.errstate(invalid="ignore"):
        fpr, tpr = above / above[:, -1:]
    return pd.DataFrame({"threshold": np.arange(101, -1, -1), "fpr": fpr, "tpr": tpr})


def auc(counts: np.ndarray) -> np.ndarray:
    """Chance that a right candidate has a higher confidence than a wrong one (ties: one half), of (..., 2, 101)."""
    wrong, right = counts[..., 0, :], counts[..., 1, :]
    below = np.cumsum(wrong, axis=-1) - wrong
    n_pairs = wrong.sum(-1) * right.sum(-1)
    return ratio((right * (below + wrong / 2)).sum(-1), n_pairs)


def brier(counts: np.ndarray) -> np.ndarray:
    """Mean squared difference of confidence (0..1) and label, of (..., 2, 101) counts."""
    p = np.arange(101) / 100
    return ratio((counts[..., 0, :] * p**2 + counts[..., 1, :] * (1 - p) ** 2).sum(-1), counts.sum((-2, -1)))


def ece(counts: np.ndarray, n_bins: int = 10, edges: Literal["right", "left"] = "right") -> np.ndarray:
    """Expected calibration error (0..1) of (..., 2, 101) counts (paper, section 4.2), bins as in bin_of_percent."""
    member = np.eye(n_bins)[bin_of_percent(n_bins, edges)]  # (101, n_bins)
    # Sum of (100 * label - percent) in each bin: whole numbers, so that a calibrated stream gives exactly 0.
    excess = (100 * counts[..., 1, :] - counts.sum(-2) * np.arange(101)) @ member
    return ratio(np.abs(excess).sum(-1) / 100, counts.sum((-2, -1)))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient; NaN (undefined) where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=denominator > 0)
