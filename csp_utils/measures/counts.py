"""Counts of one model, variant and split, and every metric and measure of them under resampled images.

All metrics but the two rank correlations are computed from counts per image. Resampling images is therefore one product
of weights and counts, whatever the number of metrics; both are whole numbers, so single precision is exact.

Verbalized confidences are whole percents. Other confidences (a token probability, a recalibrated number) are not. They
are counted twice: at the nearest whole percent for metrics of size (Brier, ECE ...), and at each distinct value for
metrics of order (AUC, AUPRC, risk and coverage), so that rounding creates no ties.
"""

import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, hstack

from csp_utils.measures import calibration, scores, selective
from csp_utils.measures.calibration import ece, ratio
from csp_utils.measures.rank import RANK, rank_correlations
from csp_utils.measures.smooth_ece import smece

OF_QUESTIONS = ("acc", "f1", "precision", "recall", "tie_rate", "plain_acc")
OF_PREDICTIONS = ("aurc", "accuracy_at_80")


@dataclass(frozen=True)
class Protocol:
    """The choices of the evaluation that the paper leaves open (docs/fidelity.md gives the reason of each default)."""

    ties: Literal["wrong", "first", "random"] = "wrong"
    """The prediction where both candidates have the same confidence: none, Yes, or a seeded coin."""
    ece_edges: calibration.Edges = "right"
    n_bins: int = 10
    positive: Literal["yes", "no"] = "yes"
    """The positive class of F1, precision and recall."""
    seed: int = 0
    """Seed of the resamples and of the coin."""


class Resampled(NamedTuple):
    """The counts of a :class:`Counts` under each of B rows of weights.

    Attributes:
        sums: name -> (B,) counts of questions or pairs.
        pairs: (B, 2, 101) candidate pairs by label and percent.
        ordered: (B, 2, L) the same by label and level: the percents, or each distinct value from low to high.
        predictions: (B, 2, L) questions by [answered rightly, level of the predicted answer's confidence].
        weights: (B, I) the weights themselves.
    """

    sums: dict[str, np.ndarray]
    pairs: np.ndarray
    ordered: np.ndarray
    predictions: np.ndarray
    weights: np.ndarray


class Counts:
    """Counts per image of one model, variant and split.

    Args:
        rows: as in :mod:`csp_utils.measures.metrics`; verbalized in percent, 0..100, null where there is none.

    Attributes:
        images: (I,) names, sorted.
        questions: sorted list of what was asked: (image, question, whether Yes is right).
        sums: name -> (I,) counts of questions and pairs, which the metrics divide.
        levels: (L,) percents by which confidences are ordered: 0..100 if all are whole, else the distinct ones.
        predictions: sparse (I, 2 * L) questions with a prediction, by image, answered rightly, and level.
    """

    def __init__(self, rows: pd.DataFrame, protocol: Protocol):
        self.protocol = protocol
        rows = rows.sort_values(["question_id", "candidate"])
        yes = rows.iloc[1::2]
        self.questions = sorted(zip(yes["image"], yes["question"], yes["label"] == 1, strict=True))
        self.images, image = np.unique(rows["image"].to_numpy(str), return_inverse=True)
        percent, label = rows["verbalized"].to_numpy(float, na_value=np.nan), rows["label"].to_numpy(int)
        parsed = ~np.isnan(percent)
        internal = rows["internal"].to_numpy(float, na_value=np.nan)
        both = parsed & ~np.isnan(internal)
        self._internal_pairs = (internal[both], percent[both], image[both])

        flags = _question_flags(rows, percent, protocol)
        where = image[0::2]
        self.sums = {name: np.bincount(where, flag, len(self.images)) for name, flag in flags.items()}
        self.sums["pairs"] = np.bincount(image, minlength=len(self.images)).astype(float)
        self.sums["parsed"] = np.bincount(image[parsed], minlength=len(self.images)).astype(float)
        self._sums = np.stack([*self.sums.values()], 1).astype(np.float32)

        whole = (percent[parsed] % 1 == 0).all()
        self.levels = np.arange(101.0) if whole else np.unique(percent[parsed])
        width = len(self.levels)
        # A question whose two confidences were not both read has no prediction; a tie counts as a wrong answer here.
        known = parsed[0::2] & parsed[1::2]
        level = np.searchsorted(self.levels, np.fmax(percent[0::2], percent[1::2])[known])
        self.predictions = self._count(width, level, flags["right"][known], where[known])
        level = np.searchsorted(self.levels, percent[parsed])
        tables = [self._count(width, level, label[parsed], image[parsed]), self.predictions]
        if not whole:
            tables.append(self._count(101, np.floor(percent[parsed] + 0.5), label[parsed], image[parsed]))
        self._ends = np.cumsum([table.shape[1] for table in tables])
        self._tables = hstack(tables, format="csr").T  # side by side, so that one product weights them all

    def _count(self, width: int, level: np.ndarray, flag: np.ndarray, image: np.ndarray) -> csr_array:
        """Count by image, flag (0 or 1) and level: (I, 2 * width), sparse because an image has few entries."""
        columns = flag.astype(np.int64) * width + level.astype(np.int64)
        ones = np.ones(len(columns), dtype=np.float32)
        return csr_array((ones, (image, columns)), shape=(len(self.images), 2 * width))

    def resample(self, weights: np.ndarray) -> Resampled:
        """Sum the counts under each row of (B, I) weights: whole numbers, exact while they are below 2**24."""
        counts = (self._tables @ weights.T).T.astype(float, order="C")
        ordered, predictions, *pairs = (part.reshape(len(weights), 2, -1)
                                        for part in np.split(counts, self._ends[:-1], axis=1))  # fmt: skip
        sums = (weights @ self._sums).T.astype(float)
        named = dict(zip(self.sums, sums, strict=True))
        return Resampled(named, pairs[0] if pairs else ordered, ordered, predictions, weights)

    def prediction_counts(self) -> np.ndarray:
        """Count the questions of all images: (2, L) by [answered rightly, level of the predicted answer]."""
        return self.predictions.sum(0).reshape(2, -1).astype(float)

    def confidence_metrics(self, of: Resampled) -> dict[str, np.ndarray]:
        """Compute the paper's metrics of the prediction by confidence and of the candidate pairs.

        Returns:
            metric -> (B,) values, NaN where undefined; so do the methods below.
        """
        s, pairs, questions = of.sums, of.pairs, of.sums["questions"]
        return {
            "acc": ratio(s["right"], questions),
            "f1": ratio(2 * s["tp"], 2 * s["tp"] + s["fp"] + s["fn"]),
            "auc": scores.auc(of.ordered),
            "brier": scores.brier(pairs),
            "ece": ece(pairs, self.protocol.n_bins, self.protocol.ece_edges),
            "tie_rate": ratio(s["tie"], questions),
            "parse_failure_rate": ratio(s["pairs"] - s["parsed"], s["pairs"]),
        }

    def plain_metrics(self, of: Resampled) -> dict[str, np.ndarray]:
        """Compute the metrics of the plain answers: "plain_acc", and "plain/<name>" for the plain table."""
        s, questions = of.sums, of.sums["questions"]
        return {
            "plain_acc": ratio(s["plain_right"], questions),
            "plain/accuracy": ratio(s["plain_right"], questions),
            "plain/precision": ratio(s["plain_tp"], s["plain_tp"] + s["plain_fp"]),
            "plain/recall": ratio(s["plain_tp"], s["plain_tp"] + s["plain_fn"]),
            "plain/f1": ratio(2 * s["plain_tp"], 2 * s["plain_tp"] + s["plain_fp"] + s["plain_fn"]),
            "plain/parse_failure_rate": ratio(questions - s["plain_said"], questions),
        }

    def rank_correlations(self, of: Resampled) -> dict[str, np.ndarray]:
        """Correlate internal with verbalized confidence over pairs that have both."""
        internal, percent, image = self._internal_pairs
        return rank_correlations(internal, percent, of.weights[:, image].astype(float))

    def metrics(self, of: Resampled) -> dict[str, np.ndarray]:
        """Compute every metric of the paper's evaluation, and of the plain answers."""
        return self.confidence_metrics(of) | self.plain_metrics(of) | self.rank_correlations(of)

    def measures(self, of: Resampled) -> dict[str, np.ndarray]:
        """Compute every further measure: :data:`csp_utils.measures.metrics.MEASURES`."""
        s, pairs, bins = of.sums, of.pairs, (self.protocol.n_bins, self.protocol.ece_edges)
        reliability, resolution, uncertainty = scores.brier_decomposition(pairs)
        debiased = scores.debiased_decomposition(pairs)
        over, under = calibration.over_and_underconfidence(pairs, *bins)
        return {
            "precision": ratio(s["tp"], s["tp"] + s["fp"]),
            "recall": ratio(s["tp"], s["tp"] + s["fn"]),
            "auprc_right": scores.average_precision(of.ordered, "right"),
            "auprc_wrong": scores.average_precision(of.ordered, "wrong"),
            "brier_reliability": reliability,
            "brier_resolution": resolution,
            "brier_uncertainty": uncertainty,
            "brier_reliability_debiased": debiased[0],
            "brier_resolution_debiased": debiased[1],
            "log_score": scores.log_score(pairs),
            **{f"ece_{n}_{edges}": ece(pairs, n, edges) for n in (10, 15) for edges in ("right", "left")},
            "adaptive_ece": calibration.adaptive_ece(pairs, self.protocol.n_bins),
            "squared_gap_debiased": scores.squared_gap(pairs, *bins),
            "smece": smece(pairs),
            "mce": calibration.mce(pairs, *bins),
            "signed_error": calibration.signed_error(pairs),
            "overconfidence": over,
            "underconfidence": under,
            "aurc": selective.aurc(of.predictions),
            "accuracy_at_80": selective.accuracy_at_coverage(of.predictions, 0.8),
        }

    def gaps(self, of: Resampled) -> dict[str, np.ndarray]:
        """Compute, for every measure that is a sum of sizes of gaps, the signed gaps: (B, bins) each."""
        bins = (self.protocol.n_bins, self.protocol.ece_edges)
        own = calibration.gaps(of.pairs, *bins)
        whole = self.resample(np.ones((1, len(self.images)), dtype=np.float32)).pairs[0]
        return {
            "ece": own, "overconfidence": own, "underconfidence": own,
            **{f"ece_{n}_{edges}": calibration.gaps(of.pairs, n, edges) for n in (10, 15)
               for edges in ("right", "left")},
            "adaptive_ece": calibration.adaptive_gaps(of.pairs, whole, bins[0]),
        }  # fmt: skip

    def n(self, metric: str) -> int:
        """Return how many questions, predictions or candidate pairs a metric is computed from."""
        if metric in RANK:
            return len(self._internal_pairs[0])
        if metric in OF_PREDICTIONS:
            return int(self.predictions.sum())
        if metric in OF_QUESTIONS or metric.startswith("plain/"):
            return int(self.sums["questions"].sum())
        return int(self.sums["pairs" if metric == "parse_failure_rate" else "parsed"].sum())


def _question_flags(rows: pd.DataFrame, percent: np.ndarray, protocol: Protocol) -> dict[str, np.ndarray]:
    """Judge every question, by confidence and by its plain answer.

    Args:
        rows: "No" before "Yes" of each question.

    Returns:
        name -> (questions,) flags; the names of the plain answer begin with "plain_".
    """
    no, yes = rows.iloc[0::2], rows.iloc[1::2]
    c_no, c_yes = percent[0::2], percent[1::2]
    tie = c_no == c_yes  # false if one is NaN, and so are the next two
    says_yes, says_no = c_yes > c_no, c_no > c_yes
    if protocol.ties == "first":
        says_yes |= tie
    elif protocol.ties == "random":
        keys = zip(no["image"], no["question"], strict=True)
        coin = np.array([_coin(protocol.seed, question) for question in keys], dtype=bool)
        says_yes, says_no = says_yes | (tie & coin), says_no | (tie & ~coin)
    plain = yes["plain_answer"].astype(object).where(yes["plain_answer"].notna(), "").to_numpy()
    truth = yes["label"].to_numpy(int) == 1  # is Yes right?
    flags = {"questions": np.ones(len(yes)), "tie": tie}
    flags |= _confusion("", truth, says_yes, says_no, protocol.positive)
    return flags | _confusion("plain_", truth, plain == "Yes", plain == "No", protocol.positive)


def _confusion(prefix: str, truth: np.ndarray, yes: np.ndarray, no: np.ndarray, positive: str) -> dict[str, np.ndarray]:
    """Flag each question. A question that got neither answer is wrong, and a miss if it is positive."""
    true, predicted = (truth, yes) if positive == "yes" else (~truth, no)
    flags = {"right": (truth & yes) | (~truth & no),
             "tp": true & predicted, "fp": ~true & predicted, "fn": true & ~predicted}  # fmt: skip
    return {prefix + name: flag for name, flag in (flags | {"said": yes | no}).items()}


def _coin(seed: int, question: tuple[str, str]) -> int:
    """Toss a fair coin (0 or 1) that depends on the seed and the question alone, not on the order of rows."""
    return zlib.crc32(repr((seed, *question)).encode()) & 1
