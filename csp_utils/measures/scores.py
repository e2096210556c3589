"""Proper scores (Brier, logarithmic) and discrimination (ROC, AUC, average precision) of verbalized confidence.

All are computed from float counts (..., 2, 101) [label, percent], as in :mod:`csp_utils.measures.calibration`. AUC and
average precision need only the order of the levels and take (..., 2, L) counts of any L levels, from low to high.
"""

from typing import Literal

import numpy as np
import pandas as pd

from csp_utils.measures.calibration import PERCENT, ratio

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


def log_score(counts: np.ndarray) -> np.ndarray:
    """Compute the mean negative natural logarithm of the probability given to the truth (cross entropy).

    Lower is better; the range is 0.005 to 5.3, because confidences are clipped to [0.005, 0.995]: "100%" is what rounds
    to 100 %, so it means at least 99.5 %. Unclipped, a single wrong "100%" would make the score infinite.
    """
    p = np.clip(PERCENT / 100, 0.005, 0.995)
    return ratio(-(counts[..., 1, :] @ np.log(p) + counts[..., 0, :] @ np.log(1 - p)), counts.sum((-2, -1)))
