"""Further measures of verbalised confidence, of counts: what the paper's five do not show.

As in :mod:`csp_utils.measures.calibration` everything is computed from float counts (..., 2, 101) [label, percent], exactly and
for all resamples at once. The label is 1 for a right candidate (in the measures of selective prediction, for a question
that was answered rightly). Results have the leading axes of the counts and are NaN where a measure is not defined.
"""

from typing import Literal

import numpy as np
import pandas as pd

from csp_utils.measures.calibration import bin_of_percent, ratio

PERCENT = np.arange(101)


# ------------------------------------------------------------------------------------------------------- discrimination


def average_precision(counts: np.ndarray, positive: Literal["right", "wrong"] = "right") -> np.ndarray:
    """Area under the precision-recall curve (0..1), as average precision: the sum of precision times gain of recall.

    scikit-learn's ``average_precision_score``: no interpolation (Davis and Goadrich 2006), and equal confidences are
    one step. A constant confidence gets the base rate. NaN where one class is missing.

    Args:
        positive: "right" finds right candidates by their confidence, "wrong" finds wrong ones by 1 - confidence.
    """
    if positive == "wrong":
        counts = counts[..., ::-1, ::-1]
    gain = counts[..., 1, ::-1]  # from the surest candidate on
    found, seen = np.cumsum(gain, -1), np.cumsum(counts.sum(-2)[..., ::-1], -1)
    precision = np.divide(found, seen, out=np.zeros_like(seen), where=seen > 0)
    both = counts[..., 0, :].sum(-1) > 0  # with one class alone precision would be 1 whatever was said
    return ratio((precision * gain).sum(-1), found[..., -1] * both)


# -------------------------------------------------------------------------------------------------------- proper scores


def brier_decomposition(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reliability, resolution and uncertainty (Murphy 1973, J. Appl. Meteorol. 12, 595): each 0..1.

    Over the distinct percents, not over bins: reliability - resolution + uncertainty is the Brier score exactly.
    """
    n, total = counts.sum(-2), counts.sum((-2, -1))
    right = counts[..., 1, :]
    base = ratio(right.sum(-1), total)
    accuracy = np.divide(right, n, out=np.zeros_like(n), where=n > 0)
    reliability = ratio((n * (PERCENT / 100 - accuracy) ** 2).sum(-1), total)
    resolution = ratio((n * (accuracy - base[..., None]) ** 2).sum(-1), total)
    return reliability, resolution, base * (1 - base)


def log_score(counts: np.ndarray) -> np.ndarray:
    """Mean negative natural logarithm of the probability given to what is true (cross entropy; >= 0, lower is better).

    Confidences are clipped to [0.005, 0.995]: "100%" is what rounds to 100 %, so it means at least 99.5 %, and a single
    wrong "100%" would make the score infinite. It cannot exceed -ln(0.005) = 5.3.
    """
    p = np.clip(PERCENT / 100, 0.005, 0.995)
    return ratio(-(counts[..., 1, :] @ np.log(p) + counts[..., 0, :] @ np.log(1 - p)), counts.sum((-2, -1)))


# ---------------------------------------------------------------------------------------------------- calibration error


def signed_error(counts: np.ndarray) -> np.ndarray:
    """Mean confidence minus accuracy (-1..1): above 0 is overconfident ("calibration in the large")."""
    return ratio((counts.sum(-2) @ PERCENT - 100 * counts[..., 1, :].sum(-1)) / 100, counts.sum((-2, -1)))


def over_and_underconfidence(
    counts: np.ndarray, n_bins: int = 10, edges: Literal["right", "left"] = "right"
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the ECE from bins whose confidence is above their accuracy, and the part from those below (0..1).

    Their sum is :func:`csp_utils.measures.calibration.ece` with the same bins, their difference :func:`signed_error`.
    """
    gap = _gap(counts) @ np.eye(n_bins)[bin_of_percent(n_bins, edges)]
    total = counts.sum((-2, -1))
    return ratio(np.maximum(gap, 0).sum(-1) / 100, total), ratio(np.maximum(-gap, 0).sum(-1) / 100, total)


def mce(counts: np.ndarray, n_bins: int = 10, edges: Literal["right", "left"] = "right") -> np.ndarray:
    """Maximum calibration error (Naeini et al. 2015): the largest |confidence - accuracy| of a bin that is not empty.

    A bin of one pair counts as much as one of thousands, so that intervals are wide.
    """
    member = np.eye(n_bins)[bin_of_percent(n_bins, edges)]
    gap = ratio(np.abs(_gap(counts) @ member) / 100, counts.sum(-2) @ member)
    return np.where(counts.sum((-2, -1)) > 0, np.nan_to_num(gap).max(-1), np.nan)


def adaptive_ece(counts: np.ndarray, n_bins: int = 10) -> np.ndarray:
    """Calibration error (0..1) over bins of equal mass (Nixon et al. 2019, arXiv 1904.01685), weighted by their mass.

    A percent is never split over bins, because the order of equal confidences is nobody's: it goes, whole, to the bin
    that holds the middle of its mass. With b pairs below it and m of its own among N that is bin
    floor((2 b + m) n_bins / 2 N), in whole numbers. Where one percent is said most of the time the bins are far
    from equal, and some are empty; where all percents are frequent this is the usual measure.

    Returns:
        NaN also where there are fewer pairs than bins.
    """
    shape, counts = counts.shape[:-2], counts.reshape(-1, 2, 101)
    mass = counts.sum(-2).astype(np.int64)
    total = mass.sum(-1)
    below = np.cumsum(mass, -1) - mass
    bins = (2 * below + mass) * n_bins // np.maximum(2 * total, 1)[:, None]
    bins = np.minimum(bins, n_bins - 1)  # percents above all that were said have no mass, and no bin of their own
    cells = (bins + n_bins * np.arange(len(bins))[:, None]).ravel()
    gap = np.bincount(cells, _gap(counts).ravel(), n_bins * len(bins)).reshape(-1, n_bins)
    return ratio(np.abs(gap).sum(-1) / 100, total * (total >= n_bins)).reshape(shape)


def _gap(counts: np.ndarray) -> np.ndarray:
    """(..., 101) sum of percent - 100 * label at each percent: whole numbers, so that sums of them are exact."""
    return counts.sum(-2) * PERCENT - 100 * counts[..., 1, :]


# ------------------------------------------------------------------------------------------------- selective prediction


def accuracy_at_coverage(counts: np.ndarray, coverage: float) -> np.ndarray:
    """Accuracy (0..1) of the `coverage` (0..1, not 0) of questions that were answered with the highest confidence.

    Among equal confidences the order is random and this is the expected value: a block that is taken in part gives that
    part of its right answers.

    Args:
        counts: (..., 2, 101) questions by (answered rightly, percent of the predicted answer).
    """
    size = counts.sum(-2)
    before = np.cumsum(size[..., ::-1], -1)[..., ::-1] - size  # answered with more confidence
    wanted = coverage * size.sum(-1)
    taken = np.clip(wanted[..., None] - before, 0, size)
    share = np.divide(taken, size, out=np.zeros_like(size), where=size > 0)
    return ratio((share * counts[..., 1, :]).sum(-1), wanted)


def aurc(counts: np.ndarray) -> np.ndarray:
    """Area under the risk-coverage curve (0..1, lower is better): the mean of the risk among the k surest, k = 1..n.

    Geifman and El-Yaniv (2017, arXiv 1705.08500; the area: Geifman et al. 2019, arXiv 1805.08206). Equal confidences
    stand in random order, and this is the expected value, exactly: where m questions with e errors come before a
    block of b with w errors, the block's risks add up to w + (e - m w / b) (1/(m+1) + ... + 1/(m+b)).

    Args:
        counts: (..., 2, 101) questions by (answered rightly, percent of the predicted answer).
    """
    size, errors = counts.sum(-2)[..., ::-1], counts[..., 0, ::-1]
    total = size.sum(-1)
    upto = np.cumsum(size, -1).astype(np.int64)
    before, wrong = upto - size, np.cumsum(errors, -1) - errors
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(total.max(initial=0)) + 1))])
    reciprocals = harmonic[upto] - harmonic[before.astype(np.int64)]
    rate = np.divide(errors, size, out=np.zeros_like(size), where=size > 0)
    return ratio((errors + (wrong - before * rate) * reciprocals).sum(-1), total)


def risk_coverage(counts: np.ndarray) -> pd.DataFrame:
    """The risk-coverage curve of (2, 101) questions by (answered rightly, percent of the predicted answer).

    Returns:
        100 rows: coverage 0.01, 0.02 .. 1 and risk (share of wrong answers, expected as in accuracy_at_coverage); null
        if there is no question.
    """
    coverage = np.arange(1, 101) / 100
    risk = [1 - float(accuracy_at_coverage(counts, share)) for share in coverage]
    return pd.DataFrame({"coverage": coverage, "risk": risk})
