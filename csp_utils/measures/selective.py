"""Selective prediction: how often the model is wrong if only its surest answers count.

Counts are (..., 2, L) questions by [answered rightly (0 or 1), level of the predicted answer's confidence, from low to
high]. Results have the leading axes of the counts and are NaN where there is no question.
"""

import numpy as np
import pandas as pd

from csp_utils.measures.calibration import ratio


def accuracy_at_coverage(counts: np.ndarray, coverage: float) -> np.ndarray:
    """Compute the accuracy (0..1) of the `coverage` (above 0, at most 1) of questions with the highest confidence.

    Equal confidences come in random order and the expected value is returned: of a block that is taken in part, that
    part of its right answers counts.
    """
    size = counts.sum(-2)
    before = np.cumsum(size[..., ::-1], -1)[..., ::-1] - size  # answered with more confidence
    wanted = coverage * size.sum(-1)
    taken = np.clip(wanted[..., None] - before, 0, size)
    share = np.divide(taken, size, out=np.zeros_like(size), where=size > 0)
    return ratio((share * counts[..., 1, :]).sum(-1), wanted)


def aurc(counts: np.ndarray) -> np.ndarray:
    """Compute the area under the risk-coverage curve: the mean risk among the k surest questions, k = 1..n.

    It is 0..1, and lower is better. Geifman and El-Yaniv (2017, arXiv 1705.08500); the area: Geifman et al. (2019,
    arXiv 1805.08206). Equal confidences come in random order, and the expected value is exact: if m questions with e
    errors come before a block of b questions with w errors, the block's risks add up to
    w + (e - m w / b) (1/(m+1) + ... + 1/(m+b)).
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
    """Tabulate the risk-coverage curve of (2, L) counts.

    Returns:
        100 rows: coverage 0.01, 0.02 .. 1 and risk (share of wrong answers, expected as in
        :func:`accuracy_at_coverage`); null if there is no question.
    """
    coverage = np.arange(1, 101) / 100
    risk = [1 - float(accuracy_at_coverage(counts, share)) for share in coverage]
    return pd.DataFrame({"coverage": coverage, "risk": risk})
