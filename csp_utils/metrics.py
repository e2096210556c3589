"""Metrics of verbalised confidence, from the table of responses (paper, section 4.2 and table 1; docs/fidelity.md).

The table of responses has one row per (question, candidate): model, variant, split, question_id, image, question,
label (1 if this candidate is right, else 0), candidate ("Yes" or "No"), raw (what the model said), verbalized (whole
percent, or null if it could not be parsed), internal (probability in 0..1), plain_answer ("Yes", "No" or null).

Every metric is computed from counts per image, so that resampling images (:mod:`csp_utils.intervals`) is one matrix
product. A metric that is undefined is null, with its reason in the column ``reason``.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from csp_utils.calibration import auc, brier, ece, histogram, ratio
from csp_utils.errors import UserError
from csp_utils.intervals import interval, kendall, resampled_images, spearman

RESPONSE_COLUMNS = [
    "model", "variant", "split", "question_id", "image", "question", "label", "candidate", "raw", "verbalized",
    "internal", "plain_answer",
]  # fmt: skip
CANDIDATES = ("Yes", "No")
METRICS = (
    "acc", "f1", "auc", "brier", "ece", "tie_rate", "parse_failure_rate", "spearman", "kendall", "plain_acc",
)  # fmt: skip
PLAIN_METRICS = ("accuracy", "precision", "recall", "f1", "parse_failure_rate")
REASONS = {
    "f1": "no question of the positive class, and none predicted",
    "auc": "no right or no wrong candidate with a confidence",
    "brier": "no confidence was parsed",
    "ece": "no confidence was parsed",
    "spearman": "constant or missing confidence",
    "kendall": "constant or missing confidence",
    "precision": "the positive class was never answered",
    "recall": "no question of the positive class",
}
"""Why a metric can be undefined (null)."""


@dataclass(frozen=True)
class Protocol:
    """What the paper leaves open (docs/fidelity.md gives the reason of each default)."""

    ties: Literal["wrong", "first", "random"] = "wrong"
    ece_edges: Literal["right", "left"] = "right"
    n_bins: int = 10
    positive: Literal["yes", "no"] = "yes"
    seed: int = 0


# ------------------------------------------------------------------------- from one model, variant and split to values


class Cell:
    """Counts per image of one (model, variant, split).

    Attributes:
        images: (I,) names, sorted.
        sums: name -> (I,) counts; the keys are what :meth:`values` divides.
        counts: (I, 2, 101) pairs (question, candidate) by image, label and percent.
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

    def values(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric for every row of `weights`.

        Args:
            weights: (B, I) how often each image counts.

        Returns:
            metric -> (B,) values, NaN where undefined; :data:`METRICS`, and :data:`PLAIN_METRICS` as "plain/<name>".
        """
        s = {name: weights @ column for name, column in self.sums.items()}
        counts = (weights @ self.counts.reshape(len(self.images), -1)).reshape(len(weights), 2, 101)
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
        values["spearman"] = spearman(internal, percent, weights[:, image])
        values["kendall"] = kendall(internal, percent, weights[:, image])
        return values

    def n(self, metric: str) -> int:
        """How many questions (acc, f1, tie_rate, plain) or pairs (the others) a metric is computed from."""
        if metric in ("auc", "brier", "ece"):
            return int(self.counts.sum())
        if metric in ("spearman", "kendall"):
            return len(self._pairs[0])
        return int(self.sums["pairs" if metric == "parse_failure_rate" else "questions"].sum())


def _confusion(prefix: str, truth: np.ndarray, yes: np.ndarray, no: np.ndarray, positive: str) -> dict[str, np.ndarray]:
    """Flags per question. A question that got neither answer is wrong, and a miss if it is positive."""
    true, said = (truth, yes) if positive == "yes" else (~truth, no)
    flags = {"right": (truth & yes) | (~truth & no), "tp": true & said, "fp": ~true & said, "fn": true & ~said}
    return {prefix + name: flag for name, flag in (flags | {"said": yes | no}).items()}


def _coin(seed: int, question: tuple[str, str]) -> int:
    """A fair coin that depends on the seed and the question alone, not on the order of rows."""
    return zlib.crc32(repr((seed, *question)).encode()) & 1


# ------------------------------------------------------------------------------------------------------------- tables


def compute(responses: pd.DataFrame, protocol: Protocol, n_bootstrap: int) -> tuple[pd.DataFrame, ...]:
    """All tables of the evaluation.

    Returns:
        metrics (model, variant, split, metric, value, ci_low, ci_high, n, reason), plain (the same columns, metrics
        of the plain answers), differences (model, variant_a, variant_b, split, metric, diff, ci_low, ci_high, n:
        variant_b minus variant_a on the same resampled images).

    Raises:
        UserError: see :func:`check_responses`; or two variants that were asked different questions.
    """
    responses = check_responses(responses)
    rows, differences = [], []
    for (model, split), part in responses.groupby(["model", "split"], sort=False):
        draws: dict[str, dict[str, np.ndarray]] = {}
        first: Cell | None = None
        for variant, cell_rows in part.groupby("variant", sort=False):
            cell = Cell(cell_rows, protocol)
            if first is not None and cell.question_ids != first.question_ids:
                raise UserError(f"variants of {model} answered different questions of {split}; evaluate them together")
            first = first or cell
            weights = resampled_images(len(cell.images), n_bootstrap, protocol.seed)
            weights = weights if len(cell.images) > 1 else weights[:1]  # one image says nothing of how images differ
            draws[variant] = cell.values(weights)
            rows += [_row((model, variant, split), m, v, cell.n(m.split("/")[-1])) for m, v in draws[variant].items()]
        for a, b in (pair for pair in (("base", "sft"), ("base", "csp"), ("sft", "csp")) if set(pair) <= set(draws)):
            for metric in METRICS:
                row = _row((model, a, split), metric, draws[b][metric] - draws[a][metric], first.n("acc"))
                named = {"model": model, "variant_a": a, "variant_b": b, "split": split, "metric": metric}
                differences.append(named | {"diff": row["value"], **{k: row[k] for k in ("ci_low", "ci_high", "n")}})
    table = pd.DataFrame(rows)
    plain = table[table["metric"].str.startswith("plain/")].reset_index(drop=True)
    plain["metric"] = plain["metric"].str.removeprefix("plain/")
    table = table[table["metric"].isin(METRICS)].reset_index(drop=True)
    return table, plain, pd.DataFrame(differences)


def correlations(responses: pd.DataFrame, n_bootstrap: int, seed: int = 0) -> pd.DataFrame:
    """Spearman's and Kendall's correlation of internal with verbalised confidence (paper, table 2), over pairs.

    Returns:
        the rows "spearman" and "kendall" of the metrics table of :func:`compute`.
    """
    table = compute(responses, Protocol(seed=seed), n_bootstrap)[0]
    return table[table["metric"].isin(["spearman", "kendall"])].reset_index(drop=True)


def _row(cell: tuple[str, str, str], metric: str, values: np.ndarray, n: int) -> dict:
    low, high = interval(values)
    undefined = bool(np.isnan(values[0]))
    names = dict(zip(("model", "variant", "split"), cell, strict=True))
    return names | {
        "metric": metric,
        "value": None if undefined else float(values[0]),
        "ci_low": low,
        "ci_high": high,
        "n": n,
        "reason": REASONS[metric.split("/")[-1]] if undefined else None,
    }


def check_responses(responses: pd.DataFrame) -> pd.DataFrame:
    """The table, if it keeps the contract at the top of this module.

    Raises:
        UserError: columns missing, no rows, a confidence that is no whole percent in 0..100, a probability outside
            0..1, a repeated or incomplete question, or labels that do not name one right answer.
    """
    missing = [name for name in RESPONSE_COLUMNS if name not in responses.columns]
    if missing:
        raise UserError(f"the responses table lacks the columns {', '.join(missing)}; make it with notebook 06_eval")
    if responses.empty:
        raise UserError("the responses table has no rows; run notebook 06_eval")
    percent = responses["verbalized"].dropna().to_numpy(float)
    internal = responses["internal"].dropna().to_numpy(float)
    key = ["model", "variant", "split", "question_id"]
    groups = responses.groupby(key)
    wrong_percent = (percent % 1 != 0) | (percent < 0) | (percent > 100)
    tests: list[tuple[str, Callable[[], bool]]] = [
        ("verbalized is not a whole percent in 0..100", lambda: bool(wrong_percent.any())),
        ("internal is not a probability", lambda: bool(np.any((internal < 0) | (internal > 1)))),
        ("label is neither 0 nor 1", lambda: not responses["label"].isin([0, 1]).all()),
        ("candidate is neither Yes nor No", lambda: not responses["candidate"].isin(CANDIDATES).all()),
        ("a (question, candidate) stands twice", lambda: bool(responses.duplicated([*key, "candidate"]).any())),
        ("a question lacks one of its two candidates", lambda: not (groups.size() == 2).all()),
        ("a question has not exactly one right candidate", lambda: not (groups["label"].sum() == 1).all()),
    ]
    for problem, failed in tests:
        if failed():
            raise UserError(f"the responses table is not valid: {problem}; make it again with notebook 06_eval")
    return responses
