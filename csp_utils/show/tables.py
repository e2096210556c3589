"""The report's tables, made from the saved tables of a run."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from csp_utils.base.wording import (
    ARROWS,
    CONDITIONS,
    MEASURES,
    SPLITS,
    VARIANTS,
    Metric,
    heading,
    in_order,
    interval,
    is_missing,
    listed,
    metric,
    name_of,
    number,
    p_text,
    percent,
    reason_of,
)
from csp_utils.measures.methods import METHODS
from csp_utils.measures.metrics import SPOKEN
from csp_utils.show.page import Cell, Table
from csp_utils.show.published import published

HEADLINE = ("acc", "f1", "auc", "brier", "ece", "tie_rate", "plain_acc")
"""The metrics of the first tables and sentences."""
PAPER_METRICS = ("acc", "f1", "ece")
CORRELATIONS = ("spearman", "kendall")
METHOD_METRICS = ("acc", "auc", "ece", "brier", "log_score", "aurc", "tie_rate", "parse_failure_rate")
OUTCOMES = ("right", "tied", "wrong", "not parsed")
"""What the two confidences of a question say: the right answer has the higher one, both are equal, ..."""


def _cells(table: pd.DataFrame, keys: Iterable[str], make: Callable[[Any], Cell]) -> dict[tuple, Cell]:
    """Make a cell of every row of a table, by the row's keys."""
    return {tuple(getattr(row, key) for key in keys): make(row) for row in table.itertuples()}


def _frame(cells: Mapping[tuple, Cell], rows: Mapping[Hashable, str | Cell], columns: Mapping[str, str],
           group: str = "", key: tuple = ()) -> pd.DataFrame:  # fmt: skip
    """Arrange cells by (*key, row, column) under the names of rows and columns; a row without any cell is left out."""
    found = [[group, name, *(cells.get((*key, row, column)) for column in columns)] for row, name in rows.items()]
    found = [row for row in found if any(cell is not None for cell in row[2:])]
    return pd.DataFrame(found, columns=["group", "", *columns.values()], dtype=object)


def _names(values: Iterable[str], order: Iterable[str]) -> dict[str, str]:
    return {value: name_of(value) for value in in_order(values, order)}


def value_cell(row: Any, signed: bool = False, decimals: int = 3) -> Cell:
    """Show a row of a table of metrics: the value and its interval, or why it is undefined."""
    small = interval(row.ci_low, row.ci_high, signed) or reason_of(row) or "no interval"
    return Cell(number(row.value, signed, decimals), small)


def difference_cell(row: Any) -> Cell:
    """Show a row of :func:`verdicts`: difference, interval, verdict and p-value."""
    kind = row.verdict if row.verdict in ("better", "worse") else ""
    return Cell(number(row.diff, True), interval(row.ci_low, row.ci_high, True), kind, p_text(getattr(row, "p", None)))


# ----------------------------------------------------------------------------------------------------------- metrics


def verdicts(differences: pd.DataFrame, a: str, b: str, names: Iterable[str] = HEADLINE) -> pd.DataFrame:
    """Judge the differences of ``b`` minus ``a`` in the metrics ``names``.

    A difference is "better" or "worse" only where its 95 % interval excludes 0 and its metric has a better direction;
    else it is "unclear", or "undefined" where there is no interval. A metric whose differences are not judged
    (:class:`csp_utils.base.wording.Metric`, ``no_verdict``) gets "none".

    Returns:
        the rows of ``differences`` with the column verdict.
    """
    part = differences[(differences["variant_a"] == a) & (differences["variant_b"] == b)]
    part = part[part["metric"].isin(list(names))].copy()
    low, high = part["ci_low"].to_numpy(float), part["ci_high"].to_numpy(float)
    sign = np.array([metric(name).better for name in part["metric"]], float)
    silent = np.array([bool(metric(name).no_verdict) for name in part["metric"]], bool)
    up, down, known = low > 0, high < 0, ~np.isnan(low) & ~np.isnan(high)
    good, bad = np.where(sign > 0, up, down), np.where(sign > 0, down, up)
    part["verdict"] = np.select([silent, ~known, sign == 0, good, bad],
                                ["none", "undefined", "unclear", "better", "worse"], "unclear")  # fmt: skip
    return part.reset_index(drop=True)


def headline(metrics: pd.DataFrame, model: str) -> Table:
    """Show the variants by split and metric, each value with its 95 % interval."""
    part = metrics[metrics["model"] == model]
    cells = _cells(part, ("split", "variant", "metric"), value_cell)
    questions = part[part["metric"] == "acc"].groupby("split")["n"].first()
    frames = [_frame(cells, _names(part["variant"], VARIANTS), {m: heading(m) for m in HEADLINE},
                     f"{name_of(split)} ({questions.get(split, 0)} questions)", (split,))
              for split in in_order(part["split"], SPLITS)]  # fmt: skip
    return Table(f"{model}: every metric with its 95 % interval. ↑ higher is better, ↓ lower is better.",
                 pd.concat(frames))  # fmt: skip


def differences(table: pd.DataFrame, model: str, a: str, b: str) -> Table:
    """Show ``b`` minus ``a`` by split and metric, each with its interval, its verdict and its p-value."""
    judged = verdicts(table[table["model"] == model], a, b)
    cells = _cells(judged, ("split", "metric"), difference_cell)
    return Table(f"{name_of(b)} minus {name_of(a)}, {model}: paired differences with 95 % intervals and p-values. "
                 "“Better” and “worse” are given where the interval excludes 0.",
                 _frame(cells, _names(judged["split"], SPLITS), {m: heading(m) for m in HEADLINE}))  # fmt: skip


def measures(values: pd.DataFrame, differences: pd.DataFrame | None, model: str, split: str,
             explained: bool = True) -> Table:  # fmt: skip
    """Show the further measures of a split by variant, and SFT + SimPO minus base if there are differences of both.

    Args:
        values, differences: as :func:`csp_utils.measures.metrics.compute_measures` returns them.
        explained: whether a line below each measure's name says what it measures.
    """
    part = values[(values["model"] == model) & (values["split"] == split)]
    cells = _cells(part, ("metric", "variant"), value_cell)
    columns, what = _names(part["variant"], VARIANTS), "with 95 % intervals"
    if differences is not None:
        own = differences[(differences["model"] == model) & (differences["split"] == split)]
        judged = verdicts(own, "base", "csp", [name for names in MEASURES.values() for name in names])
        if not judged.empty:
            cells |= {(row.metric, "difference"): difference_cell(row) for row in judged.itertuples()}
            columns["difference"] = f"{name_of('csp')} − {name_of('base')}"
            what = "with 95 % intervals, and paired differences with p-values"
    rows = {group: {name: Cell(entry.name + ARROWS[entry.better], _explained(entry) if explained else "")
                    for name, entry in names.items()} for group, names in MEASURES.items()}  # fmt: skip
    silent = [entry.name for names in MEASURES.values() for entry in names.values() if entry.no_verdict]
    return Table(f"Further measures on {name_of(split)}, {model}, {what}. ↑ higher is better, ↓ lower is better. "
                 f"{listed(silent)} get no verdict, because of what chance does to them.",
                 pd.concat([_frame(cells, names, columns, group) for group, names in rows.items()]))  # fmt: skip


def _explained(entry: Metric) -> str:
    """Say what a measure measures, and why its differences are not judged."""
    return "; no verdict: ".join(filter(None, (entry.explanation, entry.no_verdict)))


def correlation(table: pd.DataFrame, model: str) -> Table:
    """Show table 2 of the paper for this run: internal against verbalized confidence, with intervals."""
    part = table[table["model"] == model]
    cells = _cells(part, ("metric", "variant", "split"), value_cell)
    frames = [_frame(cells, _names(part["variant"], VARIANTS), SPLITS, name_of(name), (name,)) for name in CORRELATIONS]
    return Table(f"{model}: rank correlation of internal with verbalized confidence, over (question, candidate) pairs, "
                 "with 95 % intervals (the paper's table 2).", pd.concat(frames))  # fmt: skip


def beside_paper(metrics: pd.DataFrame, names: Iterable[str]) -> list[Table]:
    """Return one table a metric: our base → CSP above the paper's printed base → CSP of its four models."""
    keys, tables = ["model", "split", "variant"], []
    for name in names:
        parts = {"measured here": (metrics, 3, ""),
                 "printed in the paper, of its models and test sets": (published(), 4 if name == "ece" else 2, "paper")}
        frames = []
        for group, (table, decimals, kind) in parts.items():
            values = table[table["metric"] == name].set_index(keys)["value"]
            cells = {pair: _arrow(values.get((*pair, "base")), values.get((*pair, "csp")), decimals, kind)
                     for pair in dict.fromkeys(values.index.droplevel("variant"))}  # fmt: skip
            rows = {model: Cell(model if kind else f"{model} (this run)", kind=kind) for model, _ in cells}
            cells |= {(m, s): Cell("–", kind=kind) for m in rows for s in SPLITS if kind and (m, s) not in cells}
            frames.append(_frame(cells, rows, SPLITS, group))
        better = "higher is better" if metric(name).better > 0 else "lower is better"
        title = metric(name).heading or metric(name).name
        tables.append(Table(f"{title}, before → after CSP ({better})", pd.concat(frames)))
    return tables


def _arrow(before: float | None, after: float | None, decimals: int, kind: str) -> Cell:
    return Cell(" → ".join("–" if value is None else number(value, decimals=decimals) for value in (before, after)),
                kind=kind)  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- replies


def examples(responses: pd.DataFrame, model: str, split: str, seed: int) -> Table:
    """Show one question of every kind, drawn by ``seed``: right answer (Yes, No) times outcome of the last variant."""
    part = responses[(responses["model"] == model) & (responses["split"] == split)].copy()
    part["confidence"] = [percent(value) for value in part["verbalized"]]
    part["answer"] = np.where(part["label"] == 1, "right", "wrong")
    replies = part.set_index(["question_id", "variant", "candidate"])["confidence"]
    variants = _names(part["variant"], VARIANTS)
    *_, last = variants
    numbers = part[part["variant"] == last].pivot(index="question_id", columns="answer", values="verbalized")
    right, wrong = numbers["right"].to_numpy(float, na_value=np.nan), numbers["wrong"].to_numpy(float, na_value=np.nan)
    outcomes = pd.Series(np.select([right > wrong, right == wrong, right < wrong], OUTCOMES[:3], OUTCOMES[3]),
                         numbers.index)  # fmt: skip
    questions = part[part["label"] == 1].drop_duplicates("question_id").set_index("question_id").sort_index()
    rng, rows = np.random.default_rng(seed), []
    for outcome in OUTCOMES:
        for candidate in ("Yes", "No"):
            of_answer = questions[questions["candidate"] == candidate]
            same = of_answer[outcomes[of_answer.index] == outcome]
            if same.empty:
                continue
            row = same.iloc[rng.integers(len(same))]
            pairs = [f"{replies[row.name, v, 'Yes']} / {replies[row.name, v, 'No']}" for v in variants]
            rows.append([f"{name_of(last)} {outcome}", row["question"], candidate, *pairs,
                         f"{len(same)} of {len(of_answer)}"])  # fmt: skip
    columns = ["group", "question", "right answer", *variants.values(), "questions of this kind"]
    return Table.of(f"Examples ({name_of(split)}), one question of each kind: verbalized confidence in Yes / in No",
                    rows, columns)  # fmt: skip


# ------------------------------------------------------------------------------- other confidences, the stress test


def methods(table: pd.DataFrame, differences: pd.DataFrame | None, variant: str, splits: Iterable[str]) -> Table:
    """Show each way to get a confidence with intervals; ▲ and ▼ mark clear differences to the verbalized one.

    Args:
        table, differences: as :func:`csp_utils.measures.metrics.compute_methods` returns them, of one model.
    """
    clear: dict[tuple, str] = {}
    if differences is not None:
        own = differences[differences["variant"] == variant]
        own = own[np.array([not metric(name).no_verdict for name in own["metric"]], bool)]
        own = own[(own["ci_low"].astype(float) > 0) | (own["ci_high"].astype(float) < 0)]
        clear = {(row.split, row.method, row.metric): " ▲" if row.diff > 0 else " ▼" for row in own.itertuples()}

    def cell(row: Any) -> Cell:
        if is_missing(row.value):
            return Cell("undefined", row.reason or "")
        mark = clear.get((row.split, row.method, row.metric), "")
        return Cell(number(row.value, decimals=2) + mark, interval(row.ci_low, row.ci_high))

    cells = _cells(table[table["variant"] == variant], ("split", "method", "metric"), cell)
    columns = {m: heading(m) if m not in ("tie_rate", "parse_failure_rate") else metric(m).heading
               for m in METHOD_METRICS}  # fmt: skip
    rows = {name: method.name for name, method in METHODS.items()}
    return Table(f"{name_of(variant)}: ways to get a confidence, with 95 % intervals. ▲ higher, ▼ lower than the "
                 "verbalized confidence, where the interval of the paired difference excludes 0. ECE, Brier and log "
                 "score count a confidence at its nearest whole percent (the log score 0 % as 0.5 %, 100 % as 99.5 %).",
                 pd.concat([_frame(cells, rows, columns, name_of(split), (split,)) for split in splits]))  # fmt: skip


def method_sources(table: pd.DataFrame) -> Table:
    """Show where each method of a table comes from."""
    rows = [[method.name, Cell(method.source, kind="words")] for name, method in METHODS.items()
            if name != SPOKEN and name in set(table["method"])]  # fmt: skip
    return Table.of("Sources of the methods", rows, ["", "source"])


def stress_correlations(table: pd.DataFrame) -> Table:
    """Show Spearman's correlation of the level c with confidence, by region, answer and variant."""
    part = table[table["metric"] == "spearman"]

    def cell(row: Any) -> Cell:
        return Cell("undefined", "always the same number") if is_missing(row.value) else value_cell(row, True, 2)

    cells = {((row.region, row.answer), row.variant): cell(row) for row in part.itertuples()}
    rows = {(region, answer): f"{CONDITIONS[region]}, {answer} answer"
            for region in in_order(part["region"], CONDITIONS) for answer in ("right", "wrong")}  # fmt: skip
    return Table("Spearman's ρ of the level c (what is left of the object) with the verbalized confidence, with 95 % "
                 "intervals over images.", _frame(cells, rows, _names(part["variant"], VARIANTS)))  # fmt: skip


def stress_differences(table: pd.DataFrame) -> Table | None:
    """Show what training changed in these correlations, where both variants gave a confidence; None if nowhere."""
    part = table[(table["metric"] == "spearman") & table["diff"].notna()]
    rows = [[f"{name_of(row.variant_b)} minus {name_of(row.variant_a)}: {CONDITIONS[row.region]}, {row.answer} answer",
             Cell(number(row.diff, True, 2), interval(row.ci_low, row.ci_high, True)), number(row.p)]
            for row in part.itertuples()]  # fmt: skip
    if not rows:
        return None
    return Table.of("Differences of these correlations on the same resampled images. A model that always says the same "
                    "number has no correlation; here it counts as 0.", rows, ["", "difference", "p"])  # fmt: skip
