"""Captions of the figures, made from the same saved tables: what is shown, how to read it, and the numbers.

A caption stands beside its saved figure (``<name>.md``, and the PDF's Subject) and below it in the report, and can be
printed as it is. Every function takes the tables that its figure is drawn from and, where these hold no intervals, the
table that does. A value that is undefined is called so, with its reason; no interval is invented where there is none.
"""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from csp_utils.show.plots import BARS, PLAIN, likelier, named, variants_of

_PAPER = "the paper (arXiv 2504.14848)"
_INTERVALS = " In brackets: 95 % bootstrap intervals over images."
_PAIRS = {"auc", "brier", "ece", "parse_failure_rate", "spearman", "kendall"}  # over pairs, not over questions
_LOWER = {"brier", "ece", "tie_rate", "parse_failure_rate"}  # the lower the better


def number(value: float | None, signed: bool = False, decimals: int = 3) -> str:
    """A number with a true minus sign; "undefined" for null."""
    if value is None or pd.isna(value):
        return "undefined"
    return f"{value:{'+' if signed and value else ''}.{decimals}f}".replace("-", "−")


def interval(low: float | None, high: float | None, signed: bool = False) -> str:
    """The interval in brackets; "" if there is none."""
    if pd.isna(low) or pd.isna(high):
        return ""
    return f"[{number(low, signed)}, {number(high, signed)}]"


def reason_of(row: Any) -> str:
    """Why a value of a table of metrics is undefined; "" where the table does not say."""
    reason = getattr(row, "reason", None)
    return reason if isinstance(reason, str) else ""


def value_of(row: Any) -> str:
    """One row of a table of metrics: its value with its interval, or "undefined" with the reason."""
    if row is None:
        return "not computed"
    if pd.isna(row.value):
        return f"undefined ({reason_of(row)})" if reason_of(row) else "undefined"
    return f"{number(row.value)} {interval(row.ci_low, row.ci_high)}".rstrip()


def calibration(responses: pd.DataFrame, metrics: pd.DataFrame, split: str, n_bins: int = 10,
                edges: str = "right") -> str:  # fmt: skip
    """The caption of :func:`csp_utils.show.plots.calibration`, with AUC, ECE and Brier score of each model and variant.

    Args:
        metrics: table of :func:`csp_utils.measures.metrics.compute`, of the same responses, bins and edges.
    """
    part, rows = responses[responses["split"] == split], metrics[metrics["split"] == split]
    return (
        f"Calibration of {_models(part)} on {named(split)}, as figures 3 and 7 to 10 of {_PAPER}. Top: ROC curves, "
        "right against wrong candidates by their verbalised confidence; the diagonal is chance. Middle: share of right "
        f"candidates against mean verbalised confidence, in {n_bins} bins of equal width that hold their {edges} edge; "
        "on the diagonal what is said is true, below it the model is too sure; a larger marker stands for more pairs. "
        f"Bottom: pairs in each bin (logarithmic). {_asked(part)}, two candidates each; {_parsed(part)}."
        f"{_brackets(rows)} "
        + _listed(rows, (("auc", "AUC"), ("ece", "ECE"), ("brier", "Brier score")))
    )


def bars(metrics: pd.DataFrame, split: str, names: tuple[str, ...] = BARS) -> str:
    """The caption of :func:`csp_utils.show.plots.bars`, with every value that is drawn."""
    rows = metrics[(metrics["split"] == split) & metrics["metric"].isin(names)]
    found, said = _cells(rows), []
    for metric in names:
        values = [f"{who} {value_of(found.get((*key, split, metric)))}" for key, who in _who(rows).items()]
        said.append(f"{named(metric)} (n = {_counts(rows, metric)}): {', '.join(values)}")
    up = [named(metric) for metric in names if metric not in _LOWER]
    down = [named(metric) for metric in names if metric in _LOWER]
    better = ", and ".join(f"{word} is better for {_and(of)}" for word, of in (("higher", up), ("lower", down)) if of)
    pairs = [named(metric) for metric in names if metric in _PAIRS]
    return (
        f"The variants of {_models(rows)} on {named(split)}, as figure 4 of {_PAPER}: {better}. n "
        f"counts questions{f' (of {_and(pairs)}: question and candidate pairs)' if pairs else ''}."
        f"{' Ties are questions whose two candidates got the same confidence.' if 'tie_rate' in names else ''}"
        f"{_brackets(rows)} {'; '.join(said)}."
    )


def plain_answers(plain: pd.DataFrame) -> str:
    """The caption of :func:`csp_utils.show.plots.plain_answers`: accuracy with intervals, the rest without."""
    rows = plain[plain["metric"].isin(PLAIN)]
    found, said, neither = _cells(plain), [], []
    for split in dict.fromkeys(rows["split"]):
        values = []
        for model, variant in _who(rows):
            if (unread := found.get((model, variant, split, "parse_failure_rate"))) is not None and unread.value > 0:
                neither.append(f"{named(variant)} on {named(split)} {100 * unread.value:.1f} %")
            first, *others = (found.get((model, variant, split, metric)) for metric in PLAIN)
            rest = " / ".join(number(row.value if row is not None else None) for row in others)
            values.append(f"{named(variant)} {value_of(first)} / {rest}")
        count = _counts(rows[rows["split"] == split], "accuracy")
        said.append(f"{named(split)} (n = {count}): {', '.join(values)}")
    return (
        f"The plain answers, to the question without a word about confidence, as figure 5 of {_PAPER}: calibration "
        "should not cost answers, so no variant should fall below the base."
        f"{' Error bars: 95 % bootstrap intervals over images.' if _brackets(rows) else ''} Numbers: accuracy"
        f"{' [its interval]' if _brackets(rows) else ''} / precision / recall / F1, over n questions. "
        f"{'Neither Yes nor No, which is counted as wrong: ' + ', '.join(neither) + '. ' if neither else ''}"
        f"{'; '.join(said)}."
    )


def token_probabilities(responses: pd.DataFrame, split: str) -> str:
    """The caption of :func:`csp_utils.show.plots.token_probabilities`, with the means of right and of wrong answers."""
    part, said = likelier(responses, split), []
    for variant in variants_of(part):
        rows = part[part["variant"] == variant]
        right, wrong = (rows.loc[rows["label"] == label, "internal"] for label in (1, 0))
        said.append(f"{named(variant)} {number(rows['internal'].mean())} ({len(right)} right: {number(right.mean())}, "
                    f"{len(wrong)} wrong: {number(wrong.mean())})")  # fmt: skip
    return (
        f"How sure the first token of the plain answer is on {named(split)}, as figure 6 of {_PAPER}: the probability "
        "of the likelier of Yes and No, normalised over the two, by whether that answer is right (light) or wrong "
        "(dark, on top). An overconfident model has its wrong answers at the far right. "
        f"{_asked(responses[responses['split'] == split])}. Mean probability: {'; '.join(said)}."
    )


def correlation(responses: pd.DataFrame, correlations: pd.DataFrame) -> str:
    """The caption of :func:`csp_utils.show.plots.correlation`, with both rank correlations of every panel.

    Args:
        correlations: table of :func:`csp_utils.measures.metrics.correlations`, of the same responses.
    """
    rows = correlations[correlations["metric"].isin(["spearman", "kendall"])]
    found, said = _cells(rows), []
    for split in dict.fromkeys(responses["split"]):
        values = []
        for model, variant in _who(rows):
            rho, tau = (found.get((model, variant, split, metric)) for metric in ("spearman", "kendall"))
            values.append(f"{named(variant)} ρ {value_of(rho)}, τ {number(tau.value if tau is not None else None)}")
        asked = _asked(responses[responses["split"] == split])
        count = _counts(rows[rows["split"] == split], "spearman")
        said.append(f"{named(split)} ({asked}, n = {count}): {'; '.join(values)}")
    return (
        "Internal confidence (probability of the candidate as the first token of the plain answer) against verbalised "
        f"confidence. Not a figure of {_PAPER}: its table 2 has these correlations. A darker hexagon holds more of the "
        "n question and candidate pairs; on the dotted line both confidences agree. Spearman's rank correlation ρ and "
        f"Kendall's τ-b: 1 is the same order, 0 no relation.{_brackets(rows)} {'. '.join(said)}."
    )


def risk_coverage(curves: pd.DataFrame, measures: pd.DataFrame, split: str) -> str:
    """The caption of :func:`csp_utils.show.plots_measures.risk_coverage`.

    Args:
        measures: table of :func:`csp_utils.measures.metrics.compute_measures`, of the same responses: intervals and n.
    """
    rows = measures[(measures["split"] == split) & measures["metric"].isin(["aurc", "accuracy_at_80"])]
    last = curves[(curves["split"] == split) & (curves["coverage"] == 1)].set_index(["model", "variant"])["risk"]
    risks = [f"{who} {number(last.get(key))}" for key, who in _who(rows).items()]
    return (
        f"Risk and coverage of {_models(rows)} on {named(split)}; not a figure of {_PAPER}. Risk "
        "is the share of wrong answers among the questions that are answered with the highest confidence, coverage is "
        "how many these are of all; an answer is the candidate with the higher verbalised confidence, which is its "
        "confidence. A curve that is low on the left belongs to a model that is surest where it is right, a level one "
        "to a model whose confidence does not tell. AURC is the area under the curve, lower is better. n = "
        f"{_counts(rows, 'aurc')} questions with two parsed confidences. Risk where all of them are answered: "
        f"{', '.join(risks)}.{_brackets(rows)} "
        + _listed(rows, (("aurc", "AURC"), ("accuracy_at_80", "accuracy on the surest 80 %")))
    )


# --------------------------------------------------------------------------------------------------------------- pieces


def _cells(rows: pd.DataFrame) -> dict[tuple[str, str, str, str], Any]:
    return {(row.model, row.variant, row.split, row.metric): row for row in rows.itertuples()}


def _who(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(model, variant) -> its name, in the order of the figures; the model is named only where there are several."""
    models = list(dict.fromkeys(rows["model"]))
    return {(model, variant): f"{model}, {named(variant)}" if len(models) > 1 else named(variant)
            for model in models for variant in variants_of(rows[rows["model"] == model])}  # fmt: skip


def _listed(rows: pd.DataFrame, names: Iterable[tuple[str, str]]) -> str:
    """"base: AUC 0.5 [0.4, 0.6], ECE ...; SFT: ..." of the rows of one split."""
    found = {(model, variant, metric): row for (model, variant, _, metric), row in _cells(rows).items()}
    names = list(names)
    return "; ".join(f"{who}: " + ", ".join(f"{name} {value_of(found.get((*key, metric)))}" for metric, name in names)
                     for key, who in _who(rows).items()) + "."  # fmt: skip


def _counts(rows: pd.DataFrame, metric: str) -> str:
    """What a metric is computed from: "470", or "base 470, SFT 468" where the variants differ."""
    found = rows[rows["metric"] == metric].set_index(["model", "variant"])["n"]
    if found.nunique() == 1:
        return str(found.iloc[0])
    return ", ".join(f"{who} {found[key]}" for key, who in _who(rows).items() if key in found.index) or "0"


def _brackets(rows: pd.DataFrame) -> str:
    """The sentence about intervals, if there are any."""
    return _INTERVALS if rows["ci_low"].notna().any() else ""


def _models(rows: pd.DataFrame) -> str:
    return _and(dict.fromkeys(rows["model"]))


def _asked(part: pd.DataFrame) -> str:
    questions, images = part["question_id"].nunique(), part["image"].nunique()
    return f"{questions} question{'s' * (questions != 1)} about {images} image{'s' * (images != 1)}"


def _parsed(part: pd.DataFrame) -> str:
    """How many confidences could be read, and of whom not all."""
    said = [(who, part[(part["model"] == model) & (part["variant"] == variant)]["verbalized"])
            for (model, variant), who in _who(part).items()]  # fmt: skip
    lacking = [f"{int(v.isna().sum())} of {len(v)} of {who}" for who, v in said if v.isna().any()]
    if not lacking:
        return "all their confidences were parsed"
    return f"confidences that were not parsed, and are left out: {', '.join(lacking)}"


def _and(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
