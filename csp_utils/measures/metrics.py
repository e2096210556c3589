"""The tables of metrics, with intervals and paired differences (paper, section 4.2 and table 1; docs/fidelity.md).

All are computed from the table of responses, with one row per (question, candidate): model, variant, split,
question_id, image, question, label (1 if this candidate is right, else 0), candidate ("Yes" or "No"), raw (the reply),
verbalized (whole percent, or null if it could not be parsed), internal (probability, 0..1) and plain_answer ("Yes",
"No" or null).

:mod:`csp_utils.measures.counts` computes the values under all resamples of the images
(:mod:`csp_utils.measures.bootstrap`) at once. An undefined metric is null, with its reason in the column ``reason``.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.wording import PAIRS
from csp_utils.measures.bootstrap import Resamples, estimate, image_weights, paired_differences, resamples
from csp_utils.measures.counts import Counts, Protocol, Resampled
from csp_utils.measures.rank import RANK, as_compared
from csp_utils.measures.selective import aurc, risk_coverage
from csp_utils.models.vlm.reply import CANDIDATES

RESPONSE_COLUMNS = [
    "model", "variant", "split", "question_id", "image", "question", "label", "candidate", "raw", "verbalized",
    "internal", "plain_answer",
]  # fmt: skip
METRICS = (
    "acc", "f1", "auc", "brier", "ece", "tie_rate", "parse_failure_rate", "spearman", "kendall", "plain_acc",
)  # fmt: skip
MEASURES = (
    "precision", "recall", "auprc_right", "auprc_wrong", "brier_reliability", "brier_resolution", "brier_uncertainty",
    "brier_reliability_debiased", "brier_resolution_debiased", "log_score", "ece_10_right", "ece_10_left",
    "ece_15_right", "ece_15_left", "adaptive_ece", "squared_gap_debiased", "smece", "mce", "signed_error",
    "overconfidence", "underconfidence", "aurc", "accuracy_at_80",
)  # fmt: skip
"""The measures of :func:`compute_measures`; a measure whose name has no number of bins uses the protocol's."""
METHOD_MEASURES = (
    "acc", "f1", "auc", "brier", "ece", "smece", "signed_error", "log_score", "aurc", "accuracy_at_80", "tie_rate",
    "parse_failure_rate",
)  # fmt: skip
"""The measures of :func:`compute_methods`; parse_failure_rate is the share of pairs without a confidence."""
SPOKEN = "spoken"
"""The method with which the others are compared: the paper's prompt, with a greedy reply."""
PLAIN_METRICS = ("accuracy", "precision", "recall", "f1", "parse_failure_rate")
_ONE_CLASS = "no right or no wrong candidate with a confidence"
_NOTHING_PARSED = "no confidence was parsed"
_NOTHING_PREDICTED = "no question whose two confidences were parsed"
REASONS = dict.fromkeys(MEASURES, _NOTHING_PARSED) | {
    "f1": "no question of the positive class, and none predicted",
    "auc": _ONE_CLASS,
    "auprc_right": _ONE_CLASS,
    "auprc_wrong": _ONE_CLASS,
    "brier": _NOTHING_PARSED,
    "ece": _NOTHING_PARSED,
    "adaptive_ece": "fewer parsed confidences than bins",
    "aurc": _NOTHING_PREDICTED,
    "accuracy_at_80": _NOTHING_PREDICTED,
    "spearman": "constant or missing confidence",
    "kendall": "constant or missing confidence",
    "precision": "the positive class was never answered",
    "recall": "no question of the positive class",
}
"""Why a metric can be undefined (null)."""

WIDEST = 2_000_000
"""Resamples times levels that are counted in one step: about 100 MB."""
Measure = Callable[[Counts, Resampled], dict[str, np.ndarray]]
"""(counts, the same under B resamples of the images) -> metric -> (B,) values."""
DIFFERENCE_COLUMNS = ["model", "variant_a", "variant_b", "split", "metric", "diff", "ci_low", "ci_high", "n", "p"]


# ------------------------------------------------------------------------------------------------------------- tables


def compute(responses: pd.DataFrame, protocol: Protocol, n_bootstrap: int) -> tuple[pd.DataFrame, ...]:
    """Compute all tables of the paper's evaluation.

    Returns:
        metrics (model, variant, split, metric, value, ci_low, ci_high, n, reason), plain (the same columns, metrics
        of the plain answers), differences (model, variant_a, variant_b, split, metric, diff, ci_low, ci_high, n, p:
        variant_b minus variant_a on the same resampled images; n of the smaller; p as in
        :func:`csp_utils.measures.bootstrap.estimate`). In differences a constant confidence counts as a rank
        correlation of 0 (:func:`csp_utils.measures.rank.as_compared`).

    Raises:
        UserError: see :func:`check_responses`; or two variants were asked different questions.
    """
    table, differences = _tables(check_responses(responses), protocol, n_bootstrap, Counts.metrics, METRICS)
    plain = table[table["metric"].str.startswith("plain/")].reset_index(drop=True)
    plain["metric"] = plain["metric"].str.removeprefix("plain/")
    return table[table["metric"].isin(METRICS)].reset_index(drop=True), plain, differences


def compute_measures(responses: pd.DataFrame, protocol: Protocol,
                     n_bootstrap: int) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Compute the further measures, :data:`MEASURES`, on the same resampled images as :func:`compute`.

    Returns:
        measures and measure_differences, with the columns of metrics and differences of :func:`compute`.

    Raises:
        UserError: as :func:`compute`.
    """
    return _tables(check_responses(responses), protocol, n_bootstrap, Counts.measures, MEASURES)


def compute_methods(by_method: pd.DataFrame, protocol: Protocol, n_bootstrap: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute the same measures, :data:`METHOD_MEASURES`, of several ways to get a confidence for the same questions.

    Args:
        by_method: responses with the column method, from :func:`csp_utils.measures.methods.confidences_by_method`;
            percents need not be whole.

    Returns:
        values (model, variant, method, split, metric, value, ci_low, ci_high, n, reason) and differences (model,
        variant, method, split, metric, diff, ci_low, ci_high, n, p: the method minus the spoken confidence, on the same
        resampled images).

    Raises:
        UserError: as :func:`compute`.
    """

    def measures(counts: Counts, of: Resampled) -> dict[str, np.ndarray]:
        found = counts.confidence_metrics(of) | counts.measures(of)
        return {name: found[name] for name in METHOD_MEASURES}

    tables, differences = [], []
    for variant, part in by_method.groupby("variant", sort=False):
        pairs = [(SPOKEN, method) for method in part["method"].unique() if method != SPOKEN]
        named = check_responses(part.assign(variant=part["method"]), whole=False)
        table, compared = _tables(named, protocol, n_bootstrap, measures, METHOD_MEASURES, pairs)
        table = table.rename(columns={"variant": "method"})
        table.insert(1, "variant", variant)
        compared = compared.rename(columns={"variant_b": "method", "variant_a": "variant"}).assign(variant=variant)
        tables.append(table)
        differences.append(compared)
    return pd.concat(tables, ignore_index=True), pd.concat(differences, ignore_index=True)


def correlations(responses: pd.DataFrame, n_bootstrap: int, seed: int = 0) -> pd.DataFrame:
    """Correlate internal with verbalized confidence over candidate pairs (Spearman and Kendall; paper, table 2).

    Returns:
        the rows "spearman" and "kendall" of the metrics table of :func:`compute` with the same seed, without the
        other metrics' cost.

    Raises:
        UserError: see :func:`check_responses`; or two variants were asked different questions.
    """
    protocol = Protocol(seed=seed)
    table, _ = _tables(check_responses(responses), protocol, n_bootstrap, Counts.rank_correlations, RANK, pairs=())
    return table.astype({"value": float, "ci_low": float, "ci_high": float})


def risk_coverage_table(responses: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Tabulate the risk-coverage curve of every model, variant and split.

    Returns:
        model, variant, split, coverage, risk (see :func:`csp_utils.measures.selective.risk_coverage`) and aurc, the
        area under the curve; 100 rows for each curve, risk and aurc null where no question had two parsed confidences.
    """
    curves = []
    for (model, variant, split), rows in responses.groupby(["model", "variant", "split"], sort=False):
        counts = Counts(rows, protocol).prediction_counts()
        names = {"model": model, "variant": variant, "split": split}
        curves.append(risk_coverage(counts).assign(**names, aurc=float(aurc(counts))))
    return pd.concat(curves, ignore_index=True)[["model", "variant", "split", "coverage", "risk", "aurc"]]


def _tables(responses: pd.DataFrame, protocol: Protocol, n_bootstrap: int, measure: Measure, compared: Sequence[str],
            pairs: Sequence[tuple[str, str]] = PAIRS) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Make the table of all values of `measure`, and that of the differences of the metrics in `compared`."""
    rows, differences = [], []
    for (model, split), part in responses.groupby(["model", "split"], sort=False):
        counts = {variant: Counts(own, protocol) for variant, own in part.groupby("variant", sort=False)}
        first = next(iter(counts.values()))
        for variant, own in counts.items():
            check_same_questions(first, own, f"Variant {variant} of {model}", split)
        values = {variant: resampled(own, measure, n_bootstrap) for variant, own in counts.items()}
        for variant, own in values.items():
            names = {"model": model, "variant": variant, "split": split}
            rows += [_row(names, metric, under, counts[variant].n(metric)) for metric, under in own.items()]
            for metric in RANK:
                if metric in own:
                    own[metric] = as_compared(own[metric], counts[variant].n(metric))
        for a, b, metric, (diff, low, high, p) in paired_differences(values, pairs, compared):
            n = min(counts[a].n(metric), counts[b].n(metric))
            differences.append((model, a, b, split, metric, diff, low, high, n, p))
    return pd.DataFrame(rows), pd.DataFrame(differences, columns=DIFFERENCE_COLUMNS)


def check_same_questions(one: Counts, other: Counts, who: str, split: str) -> None:
    """Refuse to compare answers to different questions, whatever their ids are. ``who`` gave the ``other`` answers.

    Raises:
        UserError: an image, a question or a right answer is not the same.
    """
    if one.questions == other.questions:
        return
    strange = sorted(set(other.questions) - set(one.questions)) or sorted(set(one.questions) - set(other.questions))
    image, question, yes = (strange or one.questions)[0]
    raise UserError(f"{who} was asked different questions of {split} than the answers it is compared with, for example "
                    f"“{question}” about {image} (right answer {'Yes' if yes else 'No'}); evaluate all of them on the "
                    "same data.")  # fmt: skip


def resampled(counts: Counts, measure: Measure, n_bootstrap: int) -> dict[str, Resamples]:
    """Compute metric -> its values under the images themselves and under n_bootstrap resamples of them."""
    n_images = len(counts.images)
    # One image does not show how images differ: without resamples there is no interval.
    weights = image_weights(n_images, n_bootstrap if n_images > 1 else 0, counts.protocol.seed)
    # Many distinct values make wide tables; the resamples are then computed in steps.
    size = max(1, WIDEST // len(counts.levels))
    values, gaps = [], []
    for at in range(0, len(weights), size):
        of = counts.resample(weights[at : at + size])
        values.append(measure(counts, of))
        gaps.append(counts.gaps(of))
    found = {name: np.concatenate([step[name] for step in values]) for name in values[0]}
    signed = {name: np.concatenate([step[name] for step in gaps]) for name in gaps[0] if name in found}
    return {name: resamples(name, under, n_images, signed.get(name)) for name, under in found.items()}


def _row(names: dict[str, str], metric: str, values: Resamples, n: int) -> dict:
    value, low, high, _ = estimate(values)
    if low is not None and metric.split("_")[0] in ("ece", "adaptive", "overconfidence", "underconfidence"):
        low = max(0.0, low)  # a sum of sizes
    reason = REASONS[metric.removeprefix("plain/")] if value is None else None
    return names | {"metric": metric, "value": value, "ci_low": low, "ci_high": high, "n": n, "reason": reason}


def check_responses(responses: pd.DataFrame, whole: bool = True) -> pd.DataFrame:
    """Return the table if it keeps the contract at the top of this module.

    Args:
        whole: confidences have to be whole percents.

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
    wrong_percent = (whole & (percent % 1 != 0)) | (percent < 0) | (percent > 100)
    tests: list[tuple[str, Callable[[], bool]]] = [
        (f"verbalized is not a {'whole ' if whole else ''}percent in 0..100", lambda: bool(wrong_percent.any())),
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
