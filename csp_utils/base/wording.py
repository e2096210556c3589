"""Names, order and number formats that every table, figure, caption and notebook shares.

The order of a dictionary is the order in which its entries are shown. No pandas is imported here, so that every room
can use this module; a missing value may be None, NaN or pandas' NA.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

VARIANTS = {"base": "base", "sft": "SFT", "csp": "SFT + SimPO"}
PAIRS = (("base", "sft"), ("base", "csp"), ("sft", "csp"))
"""The variants that are compared: the second minus the first."""
SPLITS = {
    "pope_random": "POPE random", "pope_popular": "POPE popular", "pope_adversarial": "POPE adversarial",
    "amber_attribute": "AMBER attribute", "amber_relation": "AMBER relation",
}  # fmt: skip
CONDITIONS = {
    "object": "noise on the object", "box": "noise in its box", "elsewhere": "the same noise elsewhere",
    "everywhere": "noise everywhere", "swapped": "other image", "removed": "no image",
}  # fmt: skip
"""What the stress test does to an image."""
_RAISED = "chance alone raises it"
ARROWS = {+1: " ↑", -1: " ↓", 0: ""}


class Metric(NamedTuple):
    """How a metric is called, and which direction is better."""

    name: str
    """On axes and in captions."""
    better: int
    """+1 if higher is better, -1 if lower is, 0 if neither."""
    heading: str = ""
    """Above a column of a table, where it differs from the name."""
    phrase: str = ""
    """In a sentence, where it differs from the name."""
    explanation: str = ""
    """What the metric measures, in a line."""
    no_verdict: str = ""
    """Why no difference of it is called better or worse; "" if differences are judged."""


METRICS = {
    "acc": Metric("accuracy", +1, "Acc", "accuracy by verbalized confidence"),
    "f1": Metric("F1", +1, "F1", "F1 by verbalized confidence"),
    "auc": Metric("AUC", +1),
    "brier": Metric("Brier score", -1, "Brier"),
    "ece": Metric("ECE", -1),
    "tie_rate": Metric("ties", -1, "ties", "rate of ties"),
    "parse_failure_rate": Metric("parse failures", -1, "no value"),
    "spearman": Metric("Spearman's ρ", +1),
    "kendall": Metric("Kendall's τ", +1),
    "plain_acc": Metric("plain accuracy", +1, "plain acc", "accuracy of the plain answers"),
}
"""The metrics of the paper's tables and figures."""

MEASURES = {
    "Answers by verbalized confidence": {
        "precision": Metric("precision", +1, explanation="share of the answers of F1's positive class that are right"),
        "recall": Metric("recall", +1, explanation="share of the questions of that class that got this answer"),
    },
    "Telling right from wrong candidates": {
        "auprc_right": Metric("AUPRC, right", +1, explanation="area under the precision-recall curve of finding right "
                              "candidates by high confidence; the chance level is their share"),
        "auprc_wrong": Metric("AUPRC, wrong", +1,
                              explanation="the same of finding wrong candidates by low confidence"),
    },
    "Squared and logarithmic error": {
        "brier_reliability": Metric("Brier: reliability", -1, explanation="squared gap between the confidence and the "
                                    "share of right candidates", no_verdict=_RAISED),
        "brier_resolution": Metric("Brier: resolution", +1, explanation="how far the confidences separate candidates; "
                                   "the Brier score is reliability − resolution + uncertainty", no_verdict=_RAISED),
        "brier_uncertainty": Metric("Brier: uncertainty", 0, explanation="share right times share wrong: a property of "
                                    "the questions, neither good nor bad"),
        "brier_reliability_debiased": Metric("Brier: reliability, debiased", -1, explanation="reliability without what "
                                             "chance adds to it; can be below 0"),
        "brier_resolution_debiased": Metric("Brier: resolution, debiased", +1, explanation="resolution without what "
                                            "chance adds to it; 0 for random numbers"),
        "log_score": Metric("log score", -1, explanation="mean −ln of the probability given to the truth, between 0 "
                            "and 5.3 (confidences are clipped to 0.5 and 99.5 %)"),
    },
    "Calibration error": {
        "ece_10_right": Metric("ECE, 10 bins, right", -1, explanation="mean gap between confidence and share right, "
                               "over bins of equal width that contain their right edge"),
        "ece_10_left": Metric("ECE, 10 bins, left", -1, explanation="the same with bins that contain their left edge"),
        "ece_15_right": Metric("ECE, 15 bins, right", -1, explanation="the same with 15 narrower bins, right edge"),
        "ece_15_left": Metric("ECE, 15 bins, left", -1, explanation="the same with 15 narrower bins, left edge"),
        "adaptive_ece": Metric("adaptive ECE", -1, explanation="the same with bins of equally many pairs"),
        "squared_gap_debiased": Metric("squared gap, debiased", -1, explanation="mean squared gap over the bins of the "
                                       "ECE, without what chance adds to it; can be below 0"),
        "smece": Metric("smECE", -1, explanation="calibration error smoothed over all confidences, without bins",
                        no_verdict="no interval of it contains the truth of a calibrated model often enough"),
        "mce": Metric("MCE", -1, explanation="the largest gap of a bin, however few pairs it contains",
                      no_verdict="no interval of it contains the truth of a calibrated model often enough"),
        "signed_error": Metric("signed error", 0, explanation="mean confidence minus share right; best at 0, above 0 "
                               "the model is too sure"),
        "overconfidence": Metric("overconfidence", -1,
                                 explanation="the part of the ECE from bins in which the model is too sure"),
        "underconfidence": Metric("underconfidence", -1,
                                  explanation="the part of the ECE from bins in which the model is not sure enough"),
    },
    "Answering only where the model is sure": {
        "aurc": Metric("AURC", -1,
                       explanation="mean share of wrong answers when the surest questions are answered first"),
        "accuracy_at_80": Metric("accuracy at 80 %", +1,
                                 explanation="accuracy on the 80 % of the questions with most confidence"),
    },
}  # fmt: skip
"""Group -> the measures that the paper does not print."""

_ALL = METRICS | {name: metric for group in MEASURES.values() for name, metric in group.items()}


def metric(name: str) -> Metric:
    """Return the entry of a metric or measure; an unlisted one keeps its own name, without a better direction."""
    return _ALL.get(name, Metric(name, 0))


def name_of(key: str) -> str:
    """Return the reader's name of a variant, split or metric; a key that is not listed is its own name."""
    return VARIANTS.get(key) or SPLITS.get(key) or metric(key).name


def heading(name: str) -> str:
    """Return a metric's column heading with the arrow of the better direction."""
    entry = metric(name)
    return (entry.heading or entry.name) + ARROWS[entry.better]


def in_order(values: Iterable[str], order: Iterable[str]) -> list[str]:
    """Return each value once: first those in ``order``, in that order, then the others as they come."""
    found, order = list(dict.fromkeys(values)), list(order)
    return [value for value in order if value in found] + [value for value in found if value not in order]


# ------------------------------------------------------------------------------------------------- numbers as text


def is_missing(value: Any) -> bool:
    """Say whether a value is None, NaN or pandas' NA."""
    try:
        return math.isnan(value)
    except TypeError:
        return True


def number(value: float | None, signed: bool = False, decimals: int = 3) -> str:
    """Format a number with a true minus sign; a missing one is "undefined". ``signed`` adds a plus to gains."""
    if is_missing(value):
        return "undefined"
    return f"{value:{'+' if signed and value else ''}.{decimals}f}".replace("-", "−")


def interval(low: float | None, high: float | None, signed: bool = False, decimals: int = 3) -> str:
    """Format an interval in brackets; a missing one is the empty string."""
    if is_missing(low) or is_missing(high):
        return ""
    return f"[{number(low, signed, decimals)}, {number(high, signed, decimals)}]"


def with_interval(value: float | None, low: float | None, high: float | None, signed: bool = False,
                  decimals: int = 3) -> str:  # fmt: skip
    """Format a value and its interval: "0.25 [0.20, 0.31]", or "undefined"."""
    if is_missing(value):
        return "undefined"
    return f"{number(value, signed, decimals)} {interval(low, high, signed, decimals)}".rstrip()


def rows_with_intervals(table: Any, value: str = "value", signed: bool = False, decimals: int = 2) -> list[str]:
    """Format every row of a data frame with the columns ``value``, ci_low and ci_high, for a notebook's pivot."""
    columns = (table[value], table["ci_low"], table["ci_high"])
    return [with_interval(*row, signed=signed, decimals=decimals) for row in zip(*columns, strict=True)]


def reason_of(row: Any) -> str:
    """Return why a value of a table of metrics is undefined; "" where the table does not say."""
    reason = getattr(row, "reason", None)
    return reason if isinstance(reason, str) else ""


def value_of(row: Any) -> str:
    """Format a row of a table of metrics: its value with its interval, or "undefined" with the reason."""
    if row is None:
        return "not computed"
    if is_missing(row.value) and reason_of(row):
        return f"undefined ({reason_of(row)})"
    return with_interval(row.value, row.ci_low, row.ci_high)


def p_text(p: float | None) -> str:
    """Format a p-value: "p = 0.002", "p < 0.001"; "" where there is none."""
    return "" if is_missing(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def percent(value: float | None, decimals: int = 0) -> str:
    """Format a number of percents: "95 %"; a missing one is a dash."""
    return "–" if is_missing(value) else f"{value:.{decimals}f} %"


def listed(names: Iterable[str]) -> str:
    """Join names in a sentence: "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def counted(n: int, noun: str) -> str:
    """Count a noun: "1 image", "2 images"."""
    return f"{n} {noun}{'s' * (n != 1)}"
