"""Counts of one model, variant and split, and every metric and measure of them under resampled images.

Everything but the two rank correlations is computed from counts per image. Resampling images is therefore one product
of weights and counts, whatever the number of measures; both are whole numbers, so single precision is exact.

Spoken confidences are whole percents. Others (a token probability, a recalibrated number) are not: they are counted at
the nearest whole percent where their size matters (Brier, ECE ...), and at each distinct value where only their order
does (AUC, AUPRC, risk and coverage), so that rounding creates no ties.
"""

import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, hstack

from csp_utils.measures import scores as measures
from csp_utils.measures.bootstrap import kendall, spearman
from csp_utils.measures.calibration import auc, brier, ece, ratio
from csp_utils.measures.smooth import smece


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
        ordered: (B, 2, L) the same by label and level: the percents, or each distinct value from low to high.
        predictions: (B, 2, L) questions by (answered rightly, level of the predicted answer's confidence).
    """

    weights: np.ndarray
    sums: dict[str, np.ndarray]
    pairs: np.ndarray
    ordered: np.ndarray
    predictions: np.ndarray


class Cell:
    """Counts per image of one (model, variant, split).

    Args:
        rows: as in :mod:`csp_utils.measures.metrics`; verbalized in percent, 0..100, null where there is none.

    Attributes:
        images: (I,) names, sorted.
        sums: name -> (I,) counts; the keys are what :meth:`values` divides.
        levels: (L,) percents by which confidences are ordered: 0..100 if all are whole, else the distinct ones.
    """

    def __init__(self, rows: pd.DataFrame, protocol: Protocol):
        self.protocol = protocol
        rows = rows.sort_values(["question_id", "candidate"])
        self.images, image = np.unique(rows["image"].to_numpy(str), return_inverse=True)
        percent, label = rows["verbalized"].to_numpy(float, na_value=np.nan), rows["label"].to_numpy(int)
        parsed = ~np.isnan(percent)
        whole = (percent[parsed] % 1 == 0).all()
        self.levels = np.arange(101.0) if whole else np.unique(percent[parsed])
        nearest = np.floor(percent[parsed] + 0.5)
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
        self.sums["parsed"] = np.bincount(image[parsed], minlength=len(self.images)).astype(float)
        answer = np.fmax(c_no, c_yes)[known]
        at, answered = np.searchsorted(self.levels, percent[parsed]), np.searchsorted(self.levels, answer)
        # Only questions whose two confidences were read have a prediction; a tie without one is wrong, as for accuracy.
        self.predictions = self._counts(len(self.levels), answered, sums["right"][known], where[known])
        tables = [self._counts(len(self.levels), at, label[parsed], image[parsed]), self.predictions]
        tables += [] if whole else [self._counts(101, nearest, label[parsed], image[parsed])]
        self._ends = np.cumsum([table.shape[1] for table in tables])
        self._tables = hstack(tables, format="csr").T  # beside one another, so that they are weighted in one product
        self._sums = np.stack([*self.sums.values()], 1).astype(np.float32)

    def _counts(self, width: int, level: np.ndarray, flag: np.ndarray, image: np.ndarray) -> csr_array:
        """(I, 2 * width) counts by image, flag (0 or 1) and level; sparse, because an image has few of them."""
        columns = flag.astype(np.int64) * width + level.astype(np.int64)
        ones = np.ones(len(columns), dtype=np.float32)
        return csr_array((ones, (image, columns)), shape=(len(self.images), 2 * width))

    def resample(self, weights: np.ndarray) -> Resampled:
        """The counts under each row of (B, I) weights: whole numbers, exact while they are below 2**24."""

        counts = (self._tables @ weights.T).T.astype(float, order="C")
        ordered, predictions, *pairs = (part.reshape(len(weights), 2, -1)
                                        for part in np.split(counts, self._ends[:-1], axis=1))  # fmt: skip
        sums = (weights @ self._sums).T.astype(float)
        named = dict(zip(self.sums, sums, strict=True))
        return Resampled(weights, named, pairs[0] if pairs else ordered, ordered, predictions)

    def answered(self) -> np.ndarray:
        """(2, L) questions by (answered rightly, level of the predicted answer's confidence), of all images."""
        return self.predictions.sum(0).reshape(2, -1).astype(float)

    def scores(self, of: Resampled) -> dict[str, np.ndarray]:
        """The metrics of the prediction by confidence and of the candidate pairs, for every row of weights.

        Returns:
            metric -> (B,) values, NaN where undefined.
        """
        s, pairs, questions = of.sums, of.pairs, of.sums["questions"]
        return {
            "acc": ratio(s["right"], questions),
            "f1": ratio(2 * s["tp"], 2 * s["tp"] + s["fp"] + s["fn"]),
            "auc": auc(of.ordered),
            "brier": brier(pairs),
            "ece": ece(pairs, self.protocol.n_bins, self.protocol.ece_edges),
            "tie_rate": ratio(s["tie"], questions),
            "parse_failure_rate": ratio(s["pairs"] - s["parsed"], s["pairs"]),
        }

    def values(self, of: Resampled) -> dict[str, np.ndarray]:
        """Every metric for every row of weights.

        Returns:
            metric -> (B,) values, NaN where undefined; :data:`csp_utils.measures.metrics.METRICS`, and
            :data:`csp_utils.measures.metrics.PLAIN_METRICS` as "plain/<name>".
        """
        s, questions = of.sums, of.sums["questions"]
        values = self.scores(of) | {
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
        """Every further measure (:mod:`csp_utils.measures.scores`) for every row of weights, as :meth:`values`.

        Returns:
            measure -> (B,) values, NaN where undefined; :data:`csp_utils.measures.metrics.MEASURES`.
        """
        s, pairs, bins = of.sums, of.pairs, (self.protocol.n_bins, self.protocol.ece_edges)
        reliability, resolution, uncertainty = measures.brier_decomposition(pairs)
        over, under = measures.over_and_underconfidence(pairs, *bins)
        return {
            "precision": ratio(s["tp"], s["tp"] + s["fp"]),
            "recall": ratio(s["tp"], s["tp"] + s["fn"]),
            "auprc_right": measures.average_precision(of.ordered, "right"),
            "auprc_wrong": measures.average_precision(of.ordered, "wrong"),
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
