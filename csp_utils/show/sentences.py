"""Sentences that the report makes from a run's numbers, and the verdicts on which they rest."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from csp_utils.base.wording import metric, name_of, number
from csp_utils.measures.published import published

HEADLINE = ("acc", "f1", "auc", "brier", "ece", "tie_rate", "plain_acc")
"""The metrics of the first tables and sentences."""


def verdicts(differences: pd.DataFrame, a: str, b: str, names: Iterable[str] = HEADLINE) -> pd.DataFrame:
    """Judge the differences of ``b`` minus ``a`` in the metrics ``names``.

    A difference is "better" or "worse" only where its 95 % interval excludes 0 and its metric has a better direction;
    else it is "unclear", or "undefined" where there is no interval.

    Returns:
        the rows of ``differences`` with the column verdict.
    """
    part = differences[(differences["variant_a"] == a) & (differences["variant_b"] == b)]
    part = part[part["metric"].isin(list(names))].copy()
    low, high = part["ci_low"].to_numpy(float), part["ci_high"].to_numpy(float)
    sign = np.array([metric(name).better for name in part["metric"]], float)
    up, down, known = low > 0, high < 0, ~np.isnan(low) & ~np.isnan(high)
    good, bad = np.where(sign > 0, up, down), np.where(sign > 0, down, up)
    part["verdict"] = np.select([~known, sign == 0, good, bad], ["undefined", "unclear", "better", "worse"], "unclear")
    return part.reset_index(drop=True)


class Change(NamedTuple):
    """What one variant changes against another, in words."""

    lead: str
    """How many comparisons are better, worse or not clear."""
    items: list[str]
    """A sentence for each metric that moved, and one for all that did not."""


def change(differences: pd.DataFrame, model: str, a: str, b: str) -> Change | None:
    """Say what ``b`` changes against ``a``; None if the run does not have both variants."""
    table = verdicts(differences[differences["model"] == model], a, b)
    if table.empty:
        return None
    count = table["verdict"].value_counts()
    better, worse = int(count.get("better", 0)), int(count.get("worse", 0))
    unclear, splits = len(table) - better - worse, table["split"].nunique()
    lead = (
        f"{name_of(b)} against {name_of(a)}: of {len(table)} comparisons ({table['metric'].nunique()} metrics on "
        f"{splits} splits) {_are(better)} better, {_are(worse)} worse, and {_are(unclear)} not clear (the interval of "
        "the difference includes 0, or a value is undefined)."
    )
    items, still = [], []
    for name in HEADLINE:
        phrase, part = metric(name).phrase or metric(name).name, table[table["metric"] == name]
        moved = "; ".join(filter(None, (_moved(part, verdict, splits) for verdict in ("better", "worse"))))
        if moved:
            items.append(f"{phrase[0].upper()}{phrase[1:]}: {moved}.")
        else:
            still.append(phrase)
    if still:
        items.append(f"No clear change on any split: {', '.join(still)}.")
    return Change(lead, items)


def _are(n: int) -> str:
    return f"{n} is" if n == 1 else f"{n} are"


def _moved(part: pd.DataFrame, verdict: str, splits: int) -> str:
    """Say where a metric moved: "better on 3 of 5 splits (+0.12 to +0.40)"; "" if nowhere."""
    moved = part[part["verdict"] == verdict]
    if moved.empty:
        return ""
    low, high = moved["diff"].min(), moved["diff"].max()
    span = number(low, True) if number(low) == number(high) else f"{number(low, True)} to {number(high, True)}"
    where = f"on all {splits} splits" if len(moved) == splits and splits > 1 else f"on {len(moved)} of {splits} splits"
    if len(moved) < splits and len(moved) <= 2:
        return f"{verdict} {where}: {' and '.join(map(name_of, moved['split']))}, {span}"
    return f"{verdict} {where} ({span})"


def failure(responses: pd.DataFrame, metrics: pd.DataFrame, model: str) -> list[str]:
    """Describe the base model's failure: ties, one number for everything, overconfidence. Empty without a base."""
    part = responses[(responses["model"] == model) & (responses["variant"] == "base")]
    if part.empty:
        return []
    own = metrics[(metrics["model"] == model) & (metrics["variant"] == "base")]
    value = own.pivot_table(index="split", columns="metric", values="value", dropna=False).astype(float)
    numbers = part["verbalized"].dropna().astype(float)
    found = []
    if len(numbers):
        top = numbers.mode().iloc[0]
        found.append(f"It says “{top:.0f}%” in {100 * (numbers == top).mean():.1f} % of its replies. Half of the "
                     f"answers it judges are right, and on average it says {numbers.mean():.1f} %.")  # fmt: skip
    ties, acc, plain = (_span(100 * value[name]) + " %" for name in ("tie_rate", "acc", "plain_acc"))
    found.append(f"It gives Yes and No the same number in {ties} of the questions of a split, and answers {acc} of "
                 f"them right by its verbalized confidence; asked plainly, it answers {plain} right.")  # fmt: skip
    found.append(f"Its ECE over candidate pairs is {_span(value['ece'], 3)}: the mean gap between its confidence and "
                 "the share of right answers.")  # fmt: skip
    return found


def _span(values: pd.Series, decimals: int = 1) -> str:
    """Give the lowest and the highest value over the splits: "0.4 to 1.2"."""
    if values.dropna().empty:
        return "an undefined"
    low, high = f"{values.min():.{decimals}f}", f"{values.max():.{decimals}f}"
    return low if low == high else f"{low} to {high}"


def direction(differences: pd.DataFrame, model: str, paper_model: str, names: Iterable[str]) -> str:
    """Count the cells in which ours moves clearly as the paper prints for ``paper_model``, and those in which not."""
    table = verdicts(differences[differences["model"] == model], "base", "csp", names)
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
