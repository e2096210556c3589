"""What the report says in tables and sentences. Every sentence is made from the numbers of the run."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from csp_utils.data.benchmarks import SPLITS
from csp_utils.measures.published import published
from csp_utils.show.captions import interval, number, reason_of
from csp_utils.show.plots import named
from csp_utils.show.plots_measures import EXPLAINED
from csp_utils.show.report_html import Bullets, Cell, Table, Text

VARIANTS = ("base", "sft", "csp")
name_of = split_name = named  # the report calls variants and splits what the figures call them
HEADLINE = {
    "acc": ("Acc", "accuracy by spoken confidence", +1),
    "f1": ("F1", "F1 by spoken confidence", +1),
    "auc": ("AUC", "AUC", +1),
    "brier": ("Brier", "Brier score", -1),
    "ece": ("ECE", "ECE", -1),
    "tie_rate": ("ties", "rate of ties", -1),
    "plain_acc": ("plain acc", "accuracy of the plain answers", +1),
}
"""Metric -> column heading, name in a sentence, and +1 if higher is better, -1 if lower is."""

PAPER_METRICS = {"acc": "Acc", "f1": "F1", "ece": "ECE"}
CORRELATIONS = {"spearman": "Spearman's ρ", "kendall": "Kendall's τ"}
SIGNS = dict.fromkeys([*CORRELATIONS], +1) | {metric: sign for metric, (_, _, sign) in HEADLINE.items()}
MEASURE_SIGNS = {metric: sign for group in EXPLAINED.values() for metric, (_, sign, _) in group.items()}
ARROWS = {+1: " ↑", -1: " ↓", 0: ""}
HEADS = ["", *(f"{short}{ARROWS[sign]}" for short, _, sign in HEADLINE.values())]


def in_order(values: Iterable[str], order: Iterable[str]) -> list[str]:
    """Each of ``values`` once: first those of ``order``, in its order, then the others."""
    found = list(dict.fromkeys(values))
    order = list(order)
    return [v for v in order if v in found] + [v for v in found if v not in order]


# ------------------------------------------------------------------------------------------------------------ headline


def headline(metrics: pd.DataFrame, model: str) -> Table:
    """Variants by split and metric, each value with its 95 % interval."""
    part = metrics[metrics["model"] == model]
    cells = {(r.split, r.variant, r.metric): r for r in part.itertuples()}
    variants = in_order(part["variant"], VARIANTS)
    groups = []
    for split in in_order(part["split"], SPLITS):
        n = next((r.n for r in cells.values() if r.split == split and r.metric == "acc"), 0)
        rows = [[name_of(v), *(_value(cells.get((split, v, metric))) for metric in HEADLINE)] for v in variants]
        groups.append((f"{split_name(split)} ({n} questions)", rows))
    return Table(f"{model}: every metric with its 95 % interval. ↑ higher is better, ↓ lower is better.", HEADS, groups)


def _value(row: Any) -> Cell:
    """A row of a table of metrics as a cell: the value and its interval, or why it is undefined."""
    if row is None:
        return Cell("–")
    return Cell(number(row.value), interval(row.ci_low, row.ci_high) or reason_of(row) or "no interval")


def verdicts(differences: pd.DataFrame, a: str, b: str, signs: Mapping[str, int] = SIGNS) -> pd.DataFrame:
    """split, metric, diff, ci_low, ci_high and verdict (better, worse, unclear, undefined) of ``b`` minus ``a``.

    Better or worse only where the 95 % interval of the difference excludes 0, and only of metrics that have a better
    direction (``signs``: +1, -1, or 0 for none); metrics that are not among the signs are left out.
    """
    part = differences[(differences["variant_a"] == a) & (differences["variant_b"] == b)]
    part = part[part["metric"].isin(signs)].copy()
    low, high = part["ci_low"].to_numpy(float), part["ci_high"].to_numpy(float)
    sign = part["metric"].map(signs).to_numpy(float)
    up, down, known = low > 0, high < 0, ~np.isnan(low) & ~np.isnan(high)
    good, bad = np.where(sign > 0, up, down), np.where(sign > 0, down, up)
    part["verdict"] = np.select([~known, sign == 0, good, bad], ["undefined", "unclear", "better", "worse"], "unclear")
    return part.reset_index(drop=True)


def differences_table(differences: pd.DataFrame, model: str, a: str, b: str) -> Table:
    """``b`` minus ``a`` by split and metric, each with its interval, what it means, and its p-value."""
    judged = verdicts(differences[differences["model"] == model], a, b)
    rows = []
    for split in in_order(judged["split"], SPLITS):
        cells = judged[judged["split"] == split].set_index("metric")
        rows.append([split_name(split), *(_difference(cells.loc[m]) for m in HEADLINE)])
    return Table(f"{name_of(b)} minus {name_of(a)}, {model}: paired differences with 95 % intervals and p-values. "
                 "“Better” and “worse” stand where the interval excludes 0.", HEADS, [("", rows)])  # fmt: skip


def _difference(row: pd.Series) -> Cell:
    kind = row["verdict"] if row["verdict"] in ("better", "worse") else ""
    return Cell(number(row["diff"], signed=True), interval(row["ci_low"], row["ci_high"], signed=True), kind,
                _p(row.get("p")))  # fmt: skip


def _p(p: float | None) -> str:
    """"p = 0.002"; "" where there is none, as in tables of older runs."""
    return "" if p is None or pd.isna(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def measures_table(
    measures: pd.DataFrame, differences: pd.DataFrame | None, model: str, split: str, explained: bool = True
) -> Table:
    """The further measures of a split by variant, and SFT + SimPO minus base if there are differences of both.

    Args:
        measures, differences: as :func:`csp_utils.measures.metrics.compute_measures` returns them.
        explained: whether a line below each measure's name says what it is.
    """
    part = measures[(measures["model"] == model) & (measures["split"] == split)]
    cells = {(r.variant, r.metric): r for r in part.itertuples()}
    variants, judged = in_order(part["variant"], VARIANTS), {}
    if differences is not None:
        own = differences[(differences["model"] == model) & (differences["split"] == split)]
        judged = {row["metric"]: row for _, row in verdicts(own, "base", "csp", MEASURE_SIGNS).iterrows()}
    groups = []
    for group, names in EXPLAINED.items():
        rows = []
        for metric, (name, sign, told) in names.items():
            row = [Cell(name + ARROWS[sign], told * explained), *(_value(cells.get((v, metric))) for v in variants)]
            rows.append(row + [_difference(judged[metric]) if metric in judged else Cell("–")] * bool(judged))
        groups.append((group, rows))
    columns = ["", *map(name_of, variants), *[f"{name_of('csp')} − {name_of('base')}"] * bool(judged)]
    what = "with 95 % intervals, and paired differences with p-values" if judged else "with 95 % intervals"
    return Table(f"Further measures on {split_name(split)}, {model}, {what}. ↑ higher is better, ↓ lower is better.",
                 columns, groups)  # fmt: skip


def sentences(differences: pd.DataFrame, model: str, a: str, b: str) -> list[Text | Bullets]:
    """What ``b`` changes against ``a``, in words: how many comparisons are better, worse or not clear, then by metric.

    An empty list if the run does not hold both variants.
    """
    table = verdicts(differences[differences["model"] == model], a, b)
    table = table[table["metric"].isin(HEADLINE)]
    if table.empty:
        return []
    count = table["verdict"].value_counts()
    better, worse = int(count.get("better", 0)), int(count.get("worse", 0))
    open_ = len(table) - better - worse
    splits = table["split"].nunique()
    lead = (
        f"{name_of(b)} against {name_of(a)}: of {len(table)} comparisons ({table['metric'].nunique()} metrics on "
        f"{splits} splits) {_are(better)} better, {_are(worse)} worse, and {_are(open_)} not clear (the interval of "
        "the difference includes 0, or a value is undefined)."
    )
    items, still = [], []
    for metric, (_, name, _) in HEADLINE.items():
        part = table[table["metric"] == metric]
        said = "; ".join(filter(None, (_moved(part, verdict, splits) for verdict in ("better", "worse"))))
        if said:
            items.append(f"{name[0].upper()}{name[1:]}: {said}.")
        else:
            still.append(name)
    if still:
        items.append(f"No clear change on any split: {', '.join(still)}.")
    return [Text(lead, "lead" if b == "csp" else ""), Bullets(items)]


def _are(n: int) -> str:
    return f"{n} is" if n == 1 else f"{n} are"


def _moved(part: pd.DataFrame, verdict: str, splits: int) -> str:
    """"better on 3 of 5 splits (+0.12 to +0.40)"; "" if on none."""
    moved = part[part["verdict"] == verdict]
    if moved.empty:
        return ""
    low, high = moved["diff"].min(), moved["diff"].max()
    span = number(low, True) if number(low) == number(high) else f"{number(low, True)} to {number(high, True)}"
    where = f"on all {splits} splits" if len(moved) == splits and splits > 1 else f"on {len(moved)} of {splits} splits"
    if len(moved) < splits and len(moved) <= 2:
        where += f": {' and '.join(split_name(s) for s in moved['split'])}"
        return f"{verdict} {where}, {span}"
    return f"{verdict} {where} ({span})"


# ------------------------------------------------------------------------------------------- what a variant says


def spoken(responses: pd.DataFrame, model: str) -> Table:
    """How each variant speaks: its most frequent number, how often; mean spoken confidence in right and wrong."""
    part = responses[responses["model"] == model]
    rows = []
    for variant in in_order(part["variant"], VARIANTS):
        said = part[part["variant"] == variant]
        parsed = said.dropna(subset="verbalized")
        percent = parsed["verbalized"].astype(float)
        top = percent.mode().iloc[0] if len(percent) else None
        wrong, right = (percent[parsed["label"] == label].mean() for label in (0, 1))
        often = f"{top:.0f} % ({100 * (percent == top).mean():.0f} % of its replies)" if top is not None else "none"
        rows.append([name_of(variant), Cell(often), str(percent.nunique()), _share(right), _share(wrong),
                     str(len(said) - len(parsed))])  # fmt: skip
    columns = ["", "most frequent reply", "different numbers", "mean about right answers", "mean about wrong answers",
               "not parsed"]  # fmt: skip
    return Table("What each variant says when it is asked for its confidence, over all splits.", columns, [("", rows)])


def _share(percent: float) -> str:
    return "undefined" if pd.isna(percent) else f"{percent:.1f} %"


def failure(responses: pd.DataFrame, metrics: pd.DataFrame, model: str) -> list[str]:
    """The base model's failure in sentences: ties, one number for everything, overconfidence. Empty without a base."""
    part = responses[(responses["model"] == model) & (responses["variant"] == "base")]
    if part.empty:
        return []
    own = metrics[(metrics["model"] == model) & (metrics["variant"] == "base")]
    value = own.pivot_table(index="split", columns="metric", values="value", dropna=False).astype(float)
    percent = part["verbalized"].dropna().astype(float)
    said = []
    if len(percent):
        top = percent.mode().iloc[0]
        said.append(f"It says “{top:.0f}%” in {100 * (percent == top).mean():.1f} % of its replies. Half of the "
                    f"answers it judges are right, and on average it says {percent.mean():.1f} %.")  # fmt: skip
    ties, acc, plain = (_span(100 * value[m]) + " %" for m in ("tie_rate", "acc", "plain_acc"))
    said.append(f"It gives Yes and No the same number in {ties} of the questions of a split, and answers {acc} of them "
                f"right by its spoken confidence; asked plainly, it answers {plain} right.")  # fmt: skip
    said.append(f"Its ECE over candidate pairs is {_span(value['ece'], 3)}: the mean gap between what it says and how "
                "often it is right.")  # fmt: skip
    return said


def _span(values: pd.Series, decimals: int = 1) -> str:
    """Lowest and highest value over the splits: "0.4 to 1.2"."""
    if values.dropna().empty:
        return "an undefined"
    low, high = f"{values.min():.{decimals}f}", f"{values.max():.{decimals}f}"
    return low if low == high else f"{low} to {high}"


# ---------------------------------------------------------------------------------------------------------- the paper


def beside_paper(metrics: pd.DataFrame, names: dict[str, str]) -> list[Table]:
    """One table a metric: our base → CSP above the paper's printed base → CSP of its four models."""
    paper = published().set_index(["model", "variant", "split", "metric"])["value"]
    tables = []
    for metric, name in names.items():
        own = metrics[metrics["metric"] == metric].set_index(["model", "variant", "split"])["value"]
        ours = [[f"{model} (this run)", *(_arrow(own, model, split, 3) for split in SPLITS)]
                for model in dict.fromkeys(own.index.get_level_values("model"))]  # fmt: skip
        printed = paper.xs(metric, level="metric")
        decimals = 4 if metric == "ece" else 2
        theirs = [[Cell(model, kind="paper"), *(_arrow(printed, model, split, decimals, "paper") for split in SPLITS)]
                  for model in dict.fromkeys(printed.index.get_level_values("model"))]  # fmt: skip
        columns = ["", *(split_name(split) for split in SPLITS)]
        arrow = "higher is better" if SIGNS[metric] > 0 else "lower is better"
        tables.append(Table(f"{name}, before → after CSP ({arrow})", columns,
                            [("measured here", ours), ("printed in the paper: other models, other data", theirs)]))
    return tables


def _arrow(values: pd.Series, model: str, split: str, decimals: int, kind: str = "") -> Cell:
    """Base → CSP of one model and split; a dash for what is not there."""
    pair = [values.get((model, variant, split)) for variant in ("base", "csp")]
    if all(value is None for value in pair):
        return Cell("–", kind=kind)
    return Cell(" → ".join("–" if value is None else number(value, decimals=decimals) for value in pair), kind=kind)


def direction(differences: pd.DataFrame, model: str, paper_model: str, names: Iterable[str]) -> str:
    """In how many cells ours moves clearly the way that the paper prints for ``paper_model``, and in how many not."""
    table = verdicts(differences[differences["model"] == model], "base", "csp")
    table = table[table["metric"].isin(list(names))]
    paper = published().query("model == @paper_model").set_index(["variant", "split", "metric"])["value"]
    same = other = unclear = 0
    for row in table.itertuples():
        key = (row.split, row.metric)
        if ("base", *key) not in paper.index:
            continue
        change = paper["csp", *key] - paper["base", *key]
        if row.verdict not in ("better", "worse") or change == 0:
            unclear += 1
        elif np.sign(row.diff) == np.sign(change):
            same += 1
        else:
            other += 1
    total = same + other + unclear
    if not total:
        return ""
    return (f"Of the {total} cells that the paper prints for {paper_model}, ours moves clearly in the same direction "
            f"in {same}, clearly in the other in {other}, and not clearly in {unclear}.")  # fmt: skip


def correlation_table(correlation: pd.DataFrame, model: str) -> Table:
    """Table 2 for this run: internal against verbalised confidence, with intervals."""
    part = correlation[correlation["model"] == model]
    cells = {(r.variant, r.split, r.metric): r for r in part.itertuples()}
    groups = []
    for metric, name in CORRELATIONS.items():
        groups.append((name, [[name_of(v), *(_value(cells.get((v, split, metric))) for split in SPLITS)]
                              for v in in_order(part["variant"], VARIANTS)]))
    columns = ["", *(split_name(split) for split in SPLITS)]
    return Table(f"{model}: rank correlation of internal with verbalised confidence, over (question, candidate) pairs, "
                 "with 95 % intervals (the paper's table 2).", columns, groups)  # fmt: skip
