"""Counts of one model, variant and split, and every metric and measure of them under resampled images.

Everything but the two rank correlations is computed from counts per image. Resampling images is therefore one product
of weights and counts, whatever the number of measures; both are whole numbers, so single precision is exact.
"""

import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from csp_utils import measures
from csp_utils.calibration import auc, brier, ece, histogram, ratio
from csp_utils.intervals import kendall, spearman
from csp_utils.smooth import smece


@dataclass(frozen=True)
class Protocol:
    """What the paper leaves open (docs/fidelity.md gives the reason of each default)."""

    ties: Literal["wrong", "first", "random"] = "wrong"
    ece_edges: Literal["right", "left"] = "right"
    n_bins: int = 10
    positive: Literal["yes", "no"] = "yes"
    seed: int = 0


class Resampled(NamedTuple):
    """Counts of a cell under each row of weights.

    Attributes:
        weights: (B, I) how often each image counts.
        sums: name -> (B,) counts of questions or pairs.
        pairs: (B, 2, 101) candidate pairs by label and percent.
        predictions: (B, 2, 101) questions by (answered rightly, percent of the predicted answer).
    """

    weights: np.ndarray
    sums: dict[str, np.ndarray]
    pairs: np.ndarray
    predictions: np.ndarray


class Cell:
    """Counts per image of one (model, variant, split).

    Attributes:
        images: (I,) names, sorted.
        sums: name -> (I,) counts; the keys are what :meth:`values` divides.
        counts: (I, 2, 101) pairs (question, candidate) by image, label and percent.
        predictions: (I, 2, 101) questions by image, (answered rightly, percent of the predicted answer). Only questions
            whose two confidences were read; a tie without prediction is wrong, as for the accuracy.
    """

    def __init__(self, rows: pd.DataFrame, protocol: Protocol):
        self.protocol = protocol
        rows = rows.sort_values(["question_id", "candidate"])
        self.images, image = np.unique(rows["image"].to_numpy(str), return_inverse=True)
        percent, label = rows["verbalized"].to_numpy(float, na_value=np.nan), rows["label"].to_numpy(int)
        parsed = ~np.isnan(percent)
        self.counts = histogram(percent[parsed], label[parsed], image[parsed], len(self.images))
        internal = rows["internal"].to_numpy(float, na_value=np.nan)
        both = parsed & ~np.isnan(internal)
        self._pairs = (internal[both], percent[both], image[both])

        no, yes = rows.iloc[0::2], rows.iloc[1::2]  # sorted: "No" before "Yes"
        self.question_ids = yes["question_id"].tolist()
        c_no, c_yes = percent[0::2], percent[1::2]
        truth = label[1::2] == 1  # is Yes right?
        known = parsed[0::2] & parsed[1::2]
        tie = known & (c_no == c_yes)
        says_yes, says_no = known & (c_yes > c_no), known & (c_no > c_yes)
        if protocol.ties == "first":
            says_yes |= tie
        elif protocol.ties == "random":
            asked = zip(no["image"], no["question"], strict=True)
            coin = np.array([_coin(protocol.seed, question) for question in asked], dtype=bool)
            says_yes, says_no = says_yes | (tie & coin), says_no | (tie & ~coin)
        plain = yes["plain_answer"].astype(object).where(yes["plain_answer"].notna(), "").to_numpy()

        where = image[0::2]
        sums = {"questions": np.ones(len(where)), "tie": tie}
        sums |= _confusion("", truth, says_yes, says_no, protocol.positive)
        sums |= _confusion("plain_", truth, plain == "Yes", plain == "No", protocol.positive)
        self.sums = {name: np.bincount(where, flags, len(self.images)) for name, flags in sums.items()}
        self.sums["pairs"] = np.bincount(image, minlength=len(self.images)).astype(float)
        self.sums["parsed"] = self.counts.sum((1, 2))
        answer = np.fmax(c_no, c_yes)[known]
        self.predictions = histogram(answer, sums["right"][known], where[known], len(self.images))
        # Sparse, because an image has a few percents of 101; the sums are dense.
        self._table = csr_array(np.concatenate([self.counts, self.predictions], 1, dtype=np.float32).reshape(-1, 404))
        self._sums = np.stack([*self.sums.values()], 1).astype(np.float32)

    def resample(self, weights: np.ndarray) -> Resampled:
        """The counts under each row of (B, I) weights: whole numbers, exact while they are below 2**24."""
        table = (self._table.T @ weights.T).T.astype(float, order="C").reshape(-1, 2, 2, 101)
        sums = (weights @ self._sums).T.astype(float)
        return Resampled(weights, dict(zip(self.sums, sums, strict=True)), table[:, 0], table[:, 1])

    def values(self, of: Resampled) -> dict[str, np.ndarray]:
        """Every metric for every row of weights.

        Returns:
            metric -> (B,) values, NaN where undefined; :data:`csp_utils.metrics.METRICS`, and
            :data:`csp_utils.metrics.PLAIN_METRICS` as "plain/<name>".
        """
        s, counts = of.sums, of.pairs
        questions = s["questions"]
        values = {
            "acc": ratio(s["right"], questions),
            "f1": ratio(2 * s["tp"], 2 * s["tp"] + s["fp"] + s["fn"]),
            "auc": auc(counts),
            "brier": brier(counts),
            "ece": ece(counts, self.protocol.n_bins, self.protocol.ece_edges),
            "tie_rate": ratio(s["tie"], questions),
            "parse_failure_rate": ratio(s["pairs"] - s["parsed"], s["pairs"]),
            "plain_acc": ratio(s["plain_right"], questions),
            "plain/accuracy": ratio(s["plain_right"], questions),
            "plain/precision": ratio(s["plain_tp"], s["plain_tp"] + s["plain_fp"]),
            "plain/recall": ratio(s["plain_tp"], s["plain_tp"] + s["plain_fn"]),
            "plain/f1": ratio(2 * s["plain_tp"], 2 * s["plain_tp"] + s["plain_fp"] + s["plain_fn"]),
            "plain/parse_failure_rate": ratio(questions - s["plain_said"], questions),
        }
        internal, percent, image = self._pairs
        weights = of.weights[:, image].astype(float)
        values["spearman"] = spearman(internal, percent, weights)
        values["kendall"] = kendall(internal, percent, weights)
        return values

    def measures(self, of: Resampled) -> dict[str, np.ndarray]:
        """Every further measure (:mod:`csp_utils.measures`) for every row of weights, as :meth:`values`.

        Returns:
            measure -> (B,) values, NaN where undefined; :data:`csp_utils.metrics.MEASURES`.
        """
        s, pairs, bins = of.sums, of.pairs, (self.protocol.n_bins, self.protocol.ece_edges)
        reliability, resolution, uncertainty = measures.brier_decomposition(pairs)
        over, under = measures.over_and_underconfidence(pairs, *bins)
        return {
            "precision": ratio(s["tp"], s["tp"] + s["fp"]),
            "recall": ratio(s["tp"], s["tp"] + s["fn"]),
            "auprc_right": measures.average_precision(pairs, "right"),
            "auprc_wrong": measures.average_precision(pairs, "wrong"),
            "brier_reliability": reliability,
            "brier_resolution": resolution,
            "brier_uncertainty": uncertainty,
            "log_score": measures.log_score(pairs),
            **{f"ece_{n}_{edges}": ece(pairs, n, edges) for n in (10, 15) for edges in ("right", "left")},
            "adaptive_ece": measures.adaptive_ece(pairs, self.protocol.n_bins),
            "smece": smece(pairs),
            "mce": measures.mce(pairs, *bins),
            "signed_error": measures.signed_error(pairs),
            "overconfidence": over,
            "underconfidence": under,
            "aurc": measures.aurc(of.predictions),
            "accuracy_at_80": measures.accuracy_at_coverage(of.predictions, 0.8),
        }

    def n(self, metric: str) -> int:
        """How many questions (acc, f1, precision, recall, tie_rate, plain, aurc) or pairs a metric is computed from."""
        if metric in ("spearman", "kendall"):
            return len(self._pairs[0])
        if metric in ("aurc", "accuracy_at_80"):
            return int(self.predictions.sum())
        if metric in ("acc", "f1", "precision", "recall", "tie_rate", "plain_acc") or metric.startswith("plain/"):
            return int(self.sums["questions"].sum())
        return int(self.sums["pairs" if metric == "parse_failure_rate" else "parsed"].sum())


def _confusion(prefix: str, truth: np.ndarray, yes: np.ndarray, no: np.ndarray, positive: str) -> dict[str, np.ndarray]:
    """Flags per question. A question that got neither answer is wrong, and a miss if it is positive."""
    true, said = (truth, yes) if positive == "yes" else (~truth, no)
    flags = {"right": (truth & yes) | (~truth & no), "tp": true & said, "fp": ~true & said, "fn": true & ~said}
    return {prefix + name: flag for name, flag in (flags | {"said": yes | no}).items()}


def _coin(seed: int, question: tuple[str, str]) -> int:
    """A fair coin that depends on the seed and the question alone, not on the order of rows."""
    return zlib.crc32(repr((seed, *question)).encode()) & 1
