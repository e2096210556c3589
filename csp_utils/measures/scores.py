"""Proper scores (Brier, logarithmic) and discrimination (ROC, AUC, average precision) of verbalized confidence.

All are computed from float counts (..., 2, 101) [label, percent], as in :mod:`csp_utils.measures.calibration`. AUC and
average precision need only the order of the levels and take (..., 2, L) counts of any L levels, from low to high.
"""

from typing import Literal

import numpy as np
import pandas as pd

from csp_utils.measures.calibration import PERCENT, Edges, bin_of_percent, ratio

# ------------------------------------------------------------------------------------------------------- discrimination


def roc(counts: np.ndarray) -> pd.DataFrame:
    """Tabulate the ROC curve of (2, 101) counts: threshold (percent; 101 accepts nothing), fpr and tpr (0..1)."""
    above = np.concatenate([np.zeros((2, 1)), np.cumsum(counts[:, ::-1], axis=1)], axis=1)
    with np.errstate(invalid="ignore"):
        fpr, tpr = above / above[:, -1:]
    return pd.DataFrame({"threshold": np.arange(101, -1, -1), "fpr": fpr, "tpr": tpr})


def auc(counts: np.ndarray) -> np.ndarray:
    """Compute the chance that a right candidate has a higher confidence than a wrong one; a tie counts one half."""
    wrong, right = counts[..., 0, :], counts[..., 1, :]
    below = np.cumsum(wrong, axis=-1) - wrong
    n_pairs = wrong.sum(-1) * right.sum(-1)
    return ratio((right * (below + wrong / 2)).sum(-1), n_pairs)


def average_precision(counts: np.ndarray, positive: Literal["right", "wrong"] = "right") -> np.ndarray:
    """Compute the area under the precision-recall curve (0..1) as the sum of precision times gain of recall.

    This is scikit-learn's ``average_precision_score``: no interpolation (Davis and Goadrich 2006), and equal
    confidences are one step. A constant confidence gets the base rate. NaN where one class is missing.

    Args:
        positive: "right" finds right candidates by their confidence, "wrong" finds wrong ones by 1 - confidence.
    """
    if positive == "wrong":
        counts = counts[..., ::-1, ::-1]
    gain = counts[..., 1, ::-1]  # from the highest confidence down
    found, seen = np.cumsum(gain, -1), np.cumsum(counts.sum(-2)[..., ::-1], -1)
    precision = np.divide(found, seen, out=np.zeros_like(seen), where=seen > 0)
    both = counts[..., 0, :].sum(-1) > 0  # with one class alone precision would be 1 whatever was said
    return ratio((precision * gain).sum(-1), found[..., -1] * both)


# -------------------------------------------------------------------------------------------------------- proper scores


def brier(counts: np.ndarray) -> np.ndarray:
    """Compute the mean squared difference of confidence (0..1) and label."""
    p = PERCENT / 100
    return ratio((counts[..., 0, :] * p**2 + counts[..., 1, :] * (1 - p) ** 2).sum(-1), counts.sum((-2, -1)))


def brier_decomposition(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split the Brier score into reliability, resolution and uncertainty, 0..1 each.

    Murphy (1973, J. Appl. Meteorol. 12, 595), over the distinct percents, not over bins: reliability - resolution +
    uncertainty is the Brier score exactly.
    """
    n, total = counts.sum(-2), counts.sum((-2, -1))
    right = counts[..., 1, :]
    base = ratio(right.sum(-1), total)
    accuracy = np.divide(right, n, out=np.zeros_like(n), where=n > 0)
    reliability = ratio((n * (PERCENT / 100 - accuracy) ** 2).sum(-1), total)
    resolution = ratio((n * (accuracy - base[..., None]) ** 2).sum(-1), total)
    return reliability, resolution, base * (1 - base)


def debiased_decomposition(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split the Brier score as :func:`brier_decomposition`, without what chance adds to the parts.

    Ferro and Fricker (2012, Q. J. R. Meteorol. Soc. 138, 1954), equation 9. The share of right candidates at a percent
    is known from n pairs only, and its noise, share (1 - share) / (n - 1), raises reliability and resolution alike:
    random numbers seem to have a resolution. The three parts still add up to the Brier score. They can be below 0. The
    correction takes pairs as independent; of percents that were said once the noise is unknown, and nothing is taken
    off.
    """
    n, total = counts.sum(-2), counts.sum((-2, -1))
    reliability, resolution, uncertainty = brier_decomposition(counts)
    noise = ratio(_noise(counts[..., 1, :], n).sum(-1), total)
    whole = ratio(uncertainty, total - 1)
    return reliability - noise, resolution - noise + whole, uncertainty + whole


def squared_gap(counts: np.ndarray, n_bins: int = 10, edges: Edges = "right") -> np.ndarray:
    """Compute the mean squared gap between confidence and accuracy over bins, without what chance adds to it.

    This is the squared calibration error of Kumar, Liang and Ma (2019, arXiv 1909.10155), definition 3, with their
    debiased estimator: each bin's squared gap minus accuracy (1 - accuracy) / (n - 1). It can be below 0. Bins and
    ``edges`` are those of the ECE.
    """
    member = np.eye(n_bins)[bin_of_percent(n_bins, edges)]
    n, right, said = (part @ member for part in (counts.sum(-2), counts[..., 1, :], counts.sum(-2) * PERCENT / 100))
    squares = np.divide((said - right) ** 2, n, out=np.zeros_like(n), where=n > 0)
    return ratio((squares - _noise(right, n)).sum(-1), counts.sum((-2, -1)))


def _noise(right: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Estimate n times the variance of each share right / n; 0 where n is at most 1."""
    share = np.divide(right, n, out=np.zeros_like(n), where=n > 0)
    return np.divide(n * share * (1 - share), n - 1, out=np.zeros_like(n), where=n > 1)


def log_score(counts: np.ndarray) -> np.ndarray:
    """Compute the mean negative natural logarithm of the probability given to the truth (cross entropy).

    Lower is better; the range is 0.005 to 5.3, because confidences are clipped to [0.005, 0.995]: "100%" is what rounds
    to 100 %, so it means at least 99.5 %. Unclipped, a single wrong "100%" would make the score infinite.
    """
    p = np.clip(PERCENT / 100, 0.005, 0.995)
    return ratio(-(counts[..., 1, :] @ np.log(p) + counts[..., 0, :] @ np.log(1 - p)), counts.sum((-2, -1)))
