"""The page of replies that exist already: how good their confidences are, how they were read, and the worst of them.

Everything is made from the tables of notebook 12 (:data:`TABLES`); templates/replies.j2 says how it is shown.
"""

import importlib.metadata
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from csp_utils.base.files import read_parquet
from csp_utils.base.wording import counted, heading, interval, is_missing, metric, number, percent
from csp_utils.show.figures import fig_replies
from csp_utils.show.page import Cell, Section, Table, embed, page, section

TABLES = ("replies", "replies_unread", "replies_measures", "replies_reliability", "replies_risk_coverage",
          "replies_counts", "replies_notes")  # fmt: skip
FIRST = ("acc", "auc", "brier", "ece", "smece", "signed_error", "accuracy_at_80", "parse_failure_rate")
"""The measures of the first table; all others are folded."""
MEANING = {
    "acc": "share of the answers that are right",
    "auc": "how often a right answer has a higher confidence than a wrong one; 0.5 is chance",
    "brier": "mean squared difference between confidence and correctness",
    "ece": "mean gap between confidence and share of right answers, over bins of equal width",
    "ece_15_right": "the ECE with 15 bins that contain their right edge",
    "adaptive_ece": "the ECE with bins of equally many answers",
    "mce": "the largest gap of a bin, however few answers it contains",
    "auprc_right": "area under the precision-recall curve of finding right answers by high confidence; chance level: "
    "their share",
    "auprc_wrong": "the same of finding wrong answers by low confidence",
    "aurc": "mean share of wrong answers when the surest answers are given first",
    "accuracy_at_80": "share of right answers among the 80 % with most confidence",
    "parse_failure_rate": "share of the answers without a confidence",
}  # fmt: skip
"""Explanations of measures of single answers; those of csp_utils.base.wording are about questions and candidates."""
MOST_SHOWN, LONGEST = 10, 240
"""How many of the most confident mistakes are shown, and how many characters of their texts."""
PACKAGES = ("numpy", "scipy", "pandas", "matplotlib", "seaborn")


def load(folder: Path) -> dict[str, pd.DataFrame]:
    """Read the tables of notebook 12 from the folder that holds them. Raises UserError if one is missing."""
    return {name: read_parquet(folder / f"{name}.parquet") for name in TABLES}


def over(counts: pd.DataFrame) -> str:
    """Say what the intervals resample: groups, or single rows."""
    n = counts.set_index("what")["n"]
    return counted(int(n["groups"]), "group") if "groups" in n.index else "single rows"


# ------------------------------------------------------------------------------------------------------- sentences


def verdict(measures: pd.DataFrame) -> list[str]:
    """Say in words what the numbers say: too sure or not, better than chance or not, and how large the error is."""
    found = {row.metric: row for row in measures.itertuples()}
    error, auc, ece = found["signed_error"], found["auc"], found["ece"]
    points = f"{number(100 * abs(error.value), decimals=0)} points"
    if is_missing(error.ci_low):
        lead = f"Confidence and share of right answers differ by {points} on average; there is no interval."
    elif error.ci_low > 0:
        lead = f"The answers are stated with too much confidence: on average {points} more than are right."
    elif error.ci_high < 0:
        lead = f"The answers are stated with too little confidence: on average {points} less than are right."
    else:
        lead = ("On average confidence and share of right answers do not differ clearly: the interval of their "
                f"difference, {interval(error.ci_low, error.ci_high, True)}, holds 0.")  # fmt: skip
    items = [lead]
    if is_missing(auc.value):
        items.append(f"Whether confidence tells right from wrong answers cannot be said: {auc.reason}.")
    else:
        known = not is_missing(auc.ci_low) and not auc.ci_low <= 0.5 <= auc.ci_high
        than = ("which is not clearly different from chance" if not known
                else "better than chance" if auc.value > 0.5 else "worse than chance")  # fmt: skip
        items.append(f"A right answer has a higher confidence than a wrong one in {percent(100 * auc.value)} of the "
                     f"pairs (a tie counts half), {than}.")  # fmt: skip
    items.append(f"The gap in a bin of the reliability diagram is {number(100 * ece.value, decimals=0)} points on "
                 f"average (ECE {number(ece.value)} {interval(ece.ci_low, ece.ci_high)}). Chance alone makes it larger "
                 "than 0.")  # fmt: skip
    return items


# ---------------------------------------------------------------------------------------------------------- tables


def measures_table(measures: pd.DataFrame, names: Any, caption: str) -> Table:
    """Show measures with their intervals, what each says, and how many rows it is over."""
    rows = []
    for row in (row for row in measures.itertuples() if row.metric in names):
        small = interval(row.ci_low, row.ci_high)
        if not small and isinstance(row.reason, str):
            small = row.reason if is_missing(row.value) else f"no interval: {row.reason}"
        meaning = MEANING.get(row.metric) or metric(row.metric).explanation
        rows.append([heading(row.metric), Cell(number(row.value), small), row.n, Cell(meaning, kind="words")])
    return Table.of(caption, rows, ["measure", "value", "answers", "what it says"])


def bins_table(bins: pd.DataFrame) -> Table:
    """Show the numbers behind the reliability diagram."""
    rows = [[f"{row.low:g} to {row.high:g} %", row.n, number(row.confidence) if row.n else "–",
             Cell(number(row.accuracy), interval(row.ci_low, row.ci_high)) if row.n else "–"]
            for row in bins.itertuples()]  # fmt: skip
    return Table.of("The bins of the reliability diagram", rows, ["bin", "answers", "mean confidence", "share right"])


def mistakes_table(replies: pd.DataFrame) -> Table | None:
    """Show the wrong answers with the highest confidences, the first of the file first; None if there is none."""
    wrong = replies[(replies["correct"] == 0) & replies["confidence"].notna()]
    wrong = wrong.sort_values(["confidence", "row"], ascending=[False, True]).head(MOST_SHOWN)
    if wrong.empty:
        return None
    rows = [[str(row.row if is_missing_text(row.id) else row.id), percent(row.confidence), _words(row.question),
             _words(row.truth), _words(row.reply if not is_missing_text(row.reply) else row.answer)]
            for row in wrong.itertuples()]  # fmt: skip
    return Table.of("The surest wrong answers", rows, ["row or id", "confidence", "question", "truth", "reply"])


def is_missing_text(value: Any) -> bool:
    """Tell whether a cell of a column of texts is empty."""
    return not isinstance(value, str) and is_missing(value)


def _words(value: Any) -> Cell:
    text = "–" if is_missing_text(value) else str(value)
    return Cell(text if len(text) <= LONGEST else f"{text[:LONGEST]} …", kind="words")


def unread_table(unread: pd.DataFrame) -> Table | None:
    """Show why rows have no confidence, how many of them are right, and one of each; None if all were read."""
    if unread.empty:
        return None
    rows = [[Cell(row.reason, row.meaning), row.n, row.right, _words(row.example)] for row in unread.itertuples()]
    return Table.of("Rows without a confidence, by reason", rows, ["reason", "rows", "of these right", "the first one"])


# ------------------------------------------------------------------------------------------------------------ page


def sections(p: Any, tables: Mapping[str, pd.DataFrame], sha256: str) -> list[Section]:
    """Render the sections of the page."""
    measures, bins = tables["replies_measures"], tables["replies_reliability"]
    curve, replies, resampled = tables["replies_risk_coverage"], tables["replies"], over(tables["replies_counts"])
    others = [name for name in measures["metric"] if name not in FIRST]
    diagram = embed(fig_replies.reliability(bins, replies), "Reliability diagram; its numbers are in the table below.",
                    fig_replies.reliability_caption(bins, measures, resampled), dpi=160)  # fmt: skip
    risk = embed(fig_replies.risk_coverage(curve), "Risk-coverage curve; its numbers: replies_risk_coverage.parquet.",
                 fig_replies.risk_coverage_caption(curve, measures, resampled), dpi=160)  # fmt: skip
    counted_rows = [[row.what, row.n] for row in tables["replies_counts"].itertuples()]
    facts = [("file", p.file), ("its SHA-256", sha256), ("resamples", p.n_bootstrap), ("seed", p.seed),
             ("bins", f"{p.n_bins}, with their {p.ece_edges} edge"), ("columns", p.columns or "recognised"),
             *((name, importlib.metadata.version(name)) for name in PACKAGES)]  # fmt: skip
    found = [
        ("results", "What the confidences are worth", {
            "lead": verdict(measures), "notes": list(tables["replies_notes"]["note"]), "over": resampled,
            "table": measures_table(measures, FIRST, f"Measures, with 95 % bootstrap intervals over {resampled}")}),
        ("reliability", "Where they are too high or too low", {"figure": diagram, "table": bins_table(bins)}),
        ("coverage", "If only the surest answers are given", {"figure": risk}),
        ("mistakes", "The surest mistakes", {"table": mistakes_table(replies)}),
        ("read", "What was read", {"counts": Table.of("Rows", counted_rows, ["", "n"]),
                                   "unread": unread_table(tables["replies_unread"])}),
        ("measures", "Further measures", {
            "table": measures_table(measures, others, "Further measures, in the same way")}),
        ("about", "How these numbers were made", {"facts": Table.of(
            "File, parameters and versions", [[name, Cell(str(value), kind="words")] for name, value in facts],
            ["", "value"])}),
    ]  # fmt: skip
    return [section("replies.j2", name, title, partial(dict, values)) for name, title, values in found]


def html(p: Any, tables: Mapping[str, pd.DataFrame], sha256: str) -> str:
    """Render the whole page.

    Args:
        p: parameters of notebook 12.
        tables: name -> table, for each of :data:`TABLES`.
        sha256: of the file of replies.
    """
    rows = counted(len(tables["replies"]), "row")
    return page(p.title or f"Confidences in {Path(p.file).name}", f"{rows} of {p.file}",
                sections(p, tables, sha256), "Made by notebook 12_replies from a file of replies, without a model.")
