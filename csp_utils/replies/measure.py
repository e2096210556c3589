"""Measure confidences that exist already: one call, from two columns of numbers to tables with intervals.

The measures, their bins and the bootstrap are those of the project (:mod:`csp_utils.measures`). What differs is a row:
there it is a (question, candidate) pair, here it is one answer with its confidence and whether it was right.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import hstack

from csp_utils.base.errors import UserError
from csp_utils.base.params import LEAST_RESAMPLES
from csp_utils.base.wording import counted, metric, number, with_interval
from csp_utils.measures.bootstrap import LEVEL, Resamples, estimate
from csp_utils.measures.calibration import bin_of_percent, ratio, reliability
from csp_utils.measures.counts import Counts, Protocol, Resampled
from csp_utils.measures.metrics import resampled
from csp_utils.measures.selective import accuracy_at_coverage
from csp_utils.replies.checks import Scale, check_lengths, group_names, percents, rights

MEASURES = (
    "acc", "auc", "brier", "ece", "smece", "signed_error", "overconfidence", "underconfidence", "adaptive_ece",
    "ece_15_right", "mce", "squared_gap_debiased", "brier_reliability_debiased", "brier_resolution_debiased",
    "brier_uncertainty", "log_score", "auprc_right", "auprc_wrong", "aurc", "accuracy_at_80", "parse_failure_rate",
)  # fmt: skip
"""The measures, the most asked for first. acc is the share of right answers among all rows whose correctness is known;
parse_failure_rate is the share of rows without a confidence; all others are over the rows that have both."""
SUMS_OF_SIZES = ("ece", "ece_15_right", "adaptive_ece", "overconfidence", "underconfidence")
SHARES = ("acc", "parse_failure_rate", "accuracy_at_80")
COVERAGES = np.arange(1, 21) / 20
HOUSE = Protocol()
FEW_GROUPS = 30
MOST_WEIGHTS = 500_000_000
"""Groups times resamples, of 4 bytes each, that one call may take."""
ONE_CLASS = "all answers with a confidence are right, or all are wrong"
NO_GROUPS = (
    "No groups were given: the intervals take every row as independent. They are too short if rows share an image or a "
    "question; then give the image as the group."
)


class RowCounts(Counts):
    """Counts of answers by group, in the form in which :class:`csp_utils.measures.counts.Counts` resamples them.

    Args:
        percent: (n,) 0..100, NaN where there is no confidence.
        right: (n,) 1 or 0.
        group: (n,) names of the groups.
    """

    def __init__(self, percent: np.ndarray, right: np.ndarray, group: np.ndarray, protocol: Protocol) -> None:
        self.protocol = protocol
        self.images, at = np.unique(group, return_inverse=True)
        read = ~np.isnan(percent)
        rows = {"questions": np.ones(len(percent)), "right": right, "pairs": np.ones(len(percent)), "parsed": read}
        nothing = dict.fromkeys(("tp", "fp", "fn", "tie"), np.zeros(len(percent)))  # of yes/no questions alone
        self.sums = {name: np.bincount(at, own, len(self.images)) for name, own in (rows | nothing).items()}
        self._sums = np.stack([*self.sums.values()], 1).astype(np.float32)
        percent, right, at = percent[read], right[read].astype(int), at[read]
        whole = (percent % 1 == 0).all()
        self.levels = np.arange(101.0) if whole else np.unique(percent)
        self.predictions = self._count(len(self.levels), np.searchsorted(self.levels, percent), right, at)
        tables = [self.predictions, self.predictions]  # as candidates, and as the answers that a model gives first
        if not whole:
            tables.append(self._count(101, np.floor(percent + 0.5), right, at))
        self._ends = np.cumsum([table.shape[1] for table in tables])
        self._tables = hstack(tables, format="csr").T
        bins = bin_of_percent(protocol.n_bins, protocol.ece_edges)[np.floor(percent + 0.5).astype(int)]
        cells = np.unique(np.stack([at, bins]), axis=1)
        self.groups_of_bin = np.bincount(cells[1], minlength=protocol.n_bins)
        """(n_bins,) how many groups have a row in each bin."""

    def groups_at(self, coverage: float) -> int:
        """Return the fewest groups that the surest ``coverage`` (above 0, at most 1) of the answers can be of."""
        read = self.sums["parsed"]
        return max(1, int(coverage * read.sum() / max(1.0, read.max())))


@dataclass(frozen=True)
class Measured:
    """What :func:`measure` returns.

    Attributes:
        measures: metric, value, ci_low, ci_high, n (rows it is computed from), reason (why there is no value or no
            interval, else null); :data:`MEASURES` says what each is.
        reliability: one row a bin: bin, low, high (percent), n, confidence (mean, 0..1), accuracy (0..1), ci_low and
            ci_high (of the accuracy); null in empty bins, and no interval where one group has all rows.
        risk_coverage: coverage (share of the rows that are answered, the surest first), risk (share of wrong answers
            among them), ci_low, ci_high.
        counts: what, n: how many rows there are, and how many lack what.
        notes: sentences that a reader of the numbers has to know.
    """

    measures: pd.DataFrame
    reliability: pd.DataFrame
    risk_coverage: pd.DataFrame
    counts: pd.DataFrame
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> float | None:
        """Return the value of a measure, None if it is undefined. Raises KeyError for an unknown one."""
        value = self.measures.set_index("metric").at[name, "value"]
        return None if pd.isna(value) else float(value)

    def __str__(self) -> str:
        rows = [f"{metric(row.metric).name:30} {with_interval(row.value, row.ci_low, row.ci_high)}"
                for row in self.measures.itertuples()]  # fmt: skip
        return "\n".join([*rows, "", *self.notes])


def measure(confidence: Any, correct: Any, groups: Any = None, scale: Scale = "auto", n_bootstrap: int = 1000,
            protocol: Protocol = HOUSE) -> Measured:  # fmt: skip
    """Measure how well confidences fit whether the answers were right: accuracy, AUC, ECE and others, with intervals.

    Args:
        confidence: one number for each answer, 0..1 or 0..100 %; None or NaN where there is none. Measures of size
            (Brier, ECE ...) take them at the nearest whole percent, measures of order as they are.
        correct: whether each answer was right: True/False, 1/0 or texts such as "right"; None or NaN if not known.
        groups: what rows share, such as their image. The 95 % intervals resample groups; None: single rows, and a
            note says so.
        scale: "probability", "percent", or "auto" to tell them by the largest number.
        n_bootstrap: resamples behind an interval, at least 40. They take 4 bytes for each group and resample.
        protocol: bins of the ECE and of the reliability diagram, and the seed of the resamples; its other fields are
            for yes/no questions, and are not used.

    Returns:
        the tables and notes. The order of the rows does not matter.

    Raises:
        UserError: no rows, columns of different lengths or indexes, both scales at once, a number outside its scale, a
            text that is no confidence or no correctness, a row without a group, or no row with both.
    """
    if n_bootstrap < LEAST_RESAMPLES:
        raise UserError(f"n_bootstrap is {n_bootstrap}; a 95 % interval needs at least {LEAST_RESAMPLES} resamples.")
    check_lengths({name: given if hasattr(given, "__len__") else [given] for name, given in
                   (("confidence", confidence), ("correct", correct), ("groups", groups)) if given is not None})
    said, right = percents(confidence, scale), rights(correct)
    named = None if groups is None else group_names(groups)
    known, read = ~np.isnan(right), ~np.isnan(said.values)
    if not (known & read).any():
        raise UserError("No row has both a confidence and whether the answer was right; there is nothing to measure.")
    percent, right, own = said.values[known], right[known], None if named is None else named[known]
    if own is None:  # each row is a group; their order must not matter to the resamples
        order = np.lexsort((right, percent))
        percent, right, own = percent[order], right[order], np.arange(len(percent))
    counts = RowCounts(percent, right, own, protocol)
    if len(counts.images) * n_bootstrap > MOST_WEIGHTS:
        raise UserError(f"{n_bootstrap} resamples of {counted(len(counts.images), 'group')} do not fit into 2 GB; set "
                        f"n_bootstrap to {max(LEAST_RESAMPLES, MOST_WEIGHTS // len(counts.images))} or fewer, or give "
                        "larger groups.")  # fmt: skip
    values = resampled(counts, _all_measures, n_bootstrap)
    totals = [("rows", len(known)), ("rows without a confidence", int((~read).sum())),
              ("rows of unknown correctness, left out of everything", int((~known).sum())),
              ("rows with both", int((known & read).sum()))]  # fmt: skip
    totals += [] if named is None else [("groups", len(counts.images))]
    return Measured(_measures(counts, values), _reliability(counts, values), _risk_coverage(counts, values),
                    pd.DataFrame(totals, columns=["what", "n"]),
                    (*said.notes, *_notes(percent, right, counts, named)))  # fmt: skip


def _all_measures(counts: Counts, of: Resampled) -> dict[str, np.ndarray]:
    """Compute the measures, the accuracy in each bin and the risk at each coverage, under all resamples at once."""
    found = counts.confidence_metrics(of) | counts.measures(of)
    bins = np.eye(counts.protocol.n_bins)[bin_of_percent(counts.protocol.n_bins, counts.protocol.ece_edges)]
    accuracy = ratio(of.pairs[:, 1] @ bins, of.pairs.sum(1) @ bins)
    return ({name: found[name] for name in MEASURES} | {f"bin {i}": own for i, own in enumerate(accuracy.T)}
            | {f"risk {i}": 1 - accuracy_at_coverage(of.predictions, share) for i, share in enumerate(COVERAGES)})


def _interval(of: Resamples, n_trials: int | None = None) -> tuple[float | None, float | None, float | None]:
    """Return value, low and high of a measure; null ends if it has no interval.

    A share of exactly 0 or 1 has no spread under resampling. Its other end is then that of the binomial distribution
    (Clopper and Pearson 1934, Biometrika 26, 404), with each group counted as a single trial, however many rows it has.

    Args:
        n_trials: of a share, how many groups it is of.
    """
    value, low, high, _ = estimate(of)
    if n_trials and low is not None and value in (0.0, 1.0):
        far = ((1 - LEVEL) / 2) ** (1 / n_trials)
        low, high = (far, 1.0) if value == 1 else (0.0, 1 - far)
    return value, low, high


def _measures(counts: RowCounts, values: dict[str, Resamples]) -> pd.DataFrame:
    rows, n_groups = [], len(counts.images)
    trials = dict.fromkeys(SHARES, n_groups) | {"accuracy_at_80": counts.groups_at(0.8)}
    for name in MEASURES:
        value, low, high = _interval(values[name], trials.get(name))
        low = max(0.0, low) if low is not None and name in SUMS_OF_SIZES else low
        reason = None
        if value is None:
            reason = "fewer confidences than bins" if name == "adaptive_ece" else ONE_CLASS
        elif low is None:
            reason = metric(name).no_verdict or "one group alone does not show how groups differ"
        elif low == high and np.isnan(values["auc"].low[0]):  # 0 [0, 0] would claim to be sure
            low, high, reason = None, None, ONE_CLASS
        rows.append((name, value, low, high, counts.n(name), reason))
    table = pd.DataFrame(rows, columns=["metric", "value", "ci_low", "ci_high", "n", "reason"])
    return table.astype({"value": float, "ci_low": float, "ci_high": float})


def _reliability(counts: RowCounts, values: dict[str, Resamples]) -> pd.DataFrame:
    whole = counts.resample(np.ones((1, len(counts.images)), dtype=np.float32)).pairs[0]
    table = reliability(whole, counts.protocol.n_bins, counts.protocol.ece_edges)
    ends = [_interval(values[f"bin {i}"]._replace(n_images=int(n)), int(n))[1:]
            for i, n in enumerate(counts.groups_of_bin)]  # fmt: skip
    return table.assign(**pd.DataFrame(ends, columns=["ci_low", "ci_high"], dtype=float))


def _risk_coverage(counts: RowCounts, values: dict[str, Resamples]) -> pd.DataFrame:
    rows = [(share, *_interval(values[f"risk {i}"], counts.groups_at(share))) for i, share in enumerate(COVERAGES)]
    return pd.DataFrame(rows, columns=["coverage", "risk", "ci_low", "ci_high"], dtype=float)


def _notes(percent: np.ndarray, right: np.ndarray, counts: RowCounts, named: np.ndarray | None) -> list[str]:
    """Say what a reader of the numbers has to know."""
    found, n = [], len(counts.images)
    if named is None:
        found.append(NO_GROUPS)
    elif n < FEW_GROUPS:
        found.append(f"There {'is' if n == 1 else 'are'} only {counted(n, 'group')}; intervals over fewer than about "
                     f"{FEW_GROUPS} groups can be too short.")  # fmt: skip
    read = ~np.isnan(percent)
    if lacking := int((~read).sum()):
        without, others = (number(100 * right[rows].mean(), decimals=0) for rows in (~read, read))
        found.append(f"{lacking} of {counted(len(read), 'row')} have no confidence, and measures of confidence leave "
                     f"them out. {without} % of their answers are right, against {others} % of the others.")
    if len(set(right[read])) == 1:
        found.append(f"All answers with a confidence are {'right' if right[read][0] else 'wrong'}, so AUC and AUPRC "
                     "are undefined.")  # fmt: skip
    said, moved = percent[read], np.floor(percent[read] + 0.5)
    if fractions := int((said != moved).sum()):
        exact, rounded = (np.mean((own / 100 - right[read]) ** 2) for own in (said, moved))
        found.append(f"{fractions} of {counted(len(said), 'confidence')} are no whole percents. Measures of size take "
                     f"the nearest whole percent, which moves the Brier score by {number(rounded - exact, True, 6)}; "
                     "AUC, AUPRC and the measures of coverage take them as they are.")  # fmt: skip
    return found
