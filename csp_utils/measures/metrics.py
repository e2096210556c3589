"""Metrics of verbalised confidence, from the table of responses (paper, section 4.2 and table 1; docs/fidelity.md).

The table of responses has one row per (question, candidate): model, variant, split, question_id, image, question,
label (1 if this candidate is right, else 0), candidate ("Yes" or "No"), raw (what the model said), verbalized (whole
percent, or null if it could not be parsed), internal (probability in 0..1), plain_answer ("Yes", "No" or null).

The values are made by :mod:`csp_utils.measures.counts`, for all resamples of the images (:mod:`csp_utils.measures.bootstrap`) at once. A
metric that is undefined is null, with its reason in the column ``reason``.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.wording import PAIRS
from csp_utils.measures.bootstrap import interval, p_value, resampled_images
from csp_utils.measures.counts import Cell, Protocol, Resampled

RESPONSE_COLUMNS = [
    "model", "variant", "split", "question_id", "image", "question", "label", "candidate", "raw", "verbalized",
    "internal", "plain_answer",
]  # fmt: skip
CANDIDATES = ("Yes", "No")
METRICS = (
    "acc", "f1", "auc", "brier", "ece", "tie_rate", "parse_failure_rate", "spearman", "kendall", "plain_acc",
)  # fmt: skip
MEASURES = (
    "precision", "recall", "auprc_right", "auprc_wrong", "brier_reliability", "brier_resolution", "brier_uncertainty",
    "log_score", "ece_10_right", "ece_10_left", "ece_15_right", "ece_15_left", "adaptive_ece", "smece", "mce",
    "signed_error", "overconfidence", "underconfidence", "aurc", "accuracy_at_80",
)  # fmt: skip
"""What :func:`compute_measures` adds; the number of a measure's bins, where its name has none, is the protocol's."""
METHOD_MEASURES = (
    "acc", "f1", "auc", "brier", "ece", "smece", "signed_error", "log_score", "aurc", "accuracy_at_80", "tie_rate",
    "parse_failure_rate",
)  # fmt: skip
"""What :func:`compute_methods` computes; parse_failure_rate is the share of pairs without a confidence."""
SPOKEN = "spoken"
"""The method that others are compared with: the paper's prompt, read greedily."""
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
"""Resamples times levels that are counted at once: about 100 MB."""
DIFFERENCE_COLUMNS = ["model", "variant_a", "variant_b", "split", "metric", "diff", "ci_low", "ci_high", "n", "p"]


# ------------------------------------------------------------------------------------------------------------- tables


def compute(responses: pd.DataFrame, protocol: Protocol, n_bootstrap: int) -> tuple[pd.DataFrame, ...]:
    """All tables of the evaluation as the paper has it.

    Returns:
        metrics (model, variant, split, metric, value, ci_low, ci_high, n, reason), plain (the same columns, metrics
        of the plain answers), differences (model, variant_a, variant_b, split, metric, diff, ci_low, ci_high, n, p:
        variant_b minus variant_a on the same resampled images; p as in :func:`csp_utils.measures.bootstrap.p_value`).

    Raises:
        UserError: see :func:`check_responses`; or two variants that were asked different questions.
    """
    table, differences = _tables(responses, protocol, n_bootstrap, Cell.values, METRICS)
    plain = table[table["metric"].str.startswith("plain/")].reset_index(drop=True)
    plain["metric"] = plain["metric"].str.removeprefix("plain/")
    return table[table["metric"].isin(METRICS)].reset_index(drop=True), plain, differences


def compute_measures(
    responses: pd.DataFrame, protocol: Protocol, n_bootstrap: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The further measures, :data:`MEASURES`, on the same resampled images as the metrics of :func:`compute`.

    Returns:
        measures and measure_differences, with the columns of metrics and differences of :func:`compute`.

    Raises:
        UserError: as :func:`compute`.
    """
    return _tables(responses, protocol, n_bootstrap, Cell.measures, MEASURES)


def _tables(
    responses: pd.DataFrame,
    protocol: Protocol,
    n_bootstrap: int,
    values: Callable[[Cell, Resampled], dict[str, np.ndarray]],
    compared: tuple[str, ...],
    compared_with: Sequence[tuple[str, str]] = PAIRS,
    whole: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of all `values`, and of the differences between variants for the names in `compared`.

    Args:
        compared_with: pairs of variants.
        whole: confidences have to be whole percents.
    """
    responses = check_responses(responses, whole)
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
            # Many distinct values make wide tables: the resamples then come in parts.
            size = max(1, WIDEST // len(cell.levels))
            parts = [values(cell, cell.resample(weights[at : at + size])) for at in range(0, len(weights), size)]
            draws[variant] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            rows += [_row((model, variant, split), m, v, cell.n(m)) for m, v in draws[variant].items()]
        for a, b in (pair for pair in compared_with if set(pair) <= set(draws)):
            for metric in compared:
                diff = draws[b][metric] - draws[a][metric]
                row = _row((model, a, split), metric, diff, first.n("acc"))
                named = {"model": model, "variant_a": a, "variant_b": b, "split": split, "metric": metric}
                numbers = {"diff": row["value"], **{k: row[k] for k in ("ci_low", "ci_high", "n")}}
                differences.append(named | numbers | {"p": p_value(diff)})
    return pd.DataFrame(rows), pd.DataFrame(differences, columns=DIFFERENCE_COLUMNS)


def compute_methods(scored: pd.DataFrame, protocol: Protocol, n_bootstrap: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same measures, :data:`METHOD_MEASURES`, of several ways to get a confidence about the same questions.

    Args:
        scored: responses with the column method, as :func:`csp_utils.measures.methods.scores` returns it.

    Returns:
        values (model, variant, method, split, metric, value, ci_low, ci_high, n, reason) and differences (model,
        variant, method, split, metric, diff, ci_low, ci_high, n, p: the method minus the spoken confidence, on the same
        resampled images).

    Raises:
        UserError: as :func:`compute`; percents need not be whole.
    """

    def values(cell: Cell, of: Resampled) -> dict[str, np.ndarray]:
        found = cell.scores(of) | cell.measures(of)
        return {name: found[name] for name in METHOD_MEASURES}

    tables, differences = [], []
    for variant, part in scored.groupby("variant", sort=False):
        pairs = [(SPOKEN, method) for method in part["method"].unique() if method != SPOKEN]
        named = part.assign(variant=part["method"])
        table, compared = _tables(named, protocol, n_bootstrap, values, METHOD_MEASURES, pairs, whole=False)
        table = table.rename(columns={"variant": "method"})
        table.insert(1, "variant", variant)
        compared = compared.rename(columns={"variant_b": "method", "variant_a": "variant"}).assign(variant=variant)
        tables.append(table)
        differences.append(compared)
    return pd.concat(tables, ignore_index=True), pd.concat(differences, ignore_index=True)


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


def check_responses(responses: pd.DataFrame, whole: bool = True) -> pd.DataFrame:
    """The table, if it keeps the contract at the top of this module (``whole``: confidences are whole percents).

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
