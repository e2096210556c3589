"""The report's sections about other confidences beside the spoken one, and about what is said when evidence goes."""

import pandas as pd

from csp_utils.base.files import read_parquet
from csp_utils.measures.methods import METHODS, missing_methods
from csp_utils.measures.metrics import SPOKEN
from csp_utils.show import plots_methods, plots_stress
from csp_utils.show.captions import interval, number
from csp_utils.show.plots_stress import REGIONS
from csp_utils.show.report_html import Block, Cell, Folded, Section, Table, Text, drawn
from csp_utils.show.report_saved import Saved, absent
from csp_utils.show.report_tables import VARIANTS, in_order, name_of, split_name

COLUMNS = {
    "acc": "Acc ↑", "auc": "AUC ↑", "ece": "ECE ↓", "brier": "Brier ↓", "log_score": "log score ↓", "aurc": "AURC ↓",
    "tie_rate": "ties", "parse_failure_rate": "no value",
}  # fmt: skip
"""Metric -> column heading of the table of methods."""


def methods(run: Saved) -> Section:
    """The spoken confidence beside the token probability, P(True), self-consistency ... and its recalibrations."""
    section = Section("methods", "Would something else do better?")
    path = run.paths["methods.parquet"]
    if not path.is_file():
        section.blocks.append(absent(path, "other ways to get a confidence"))
        return section
    table = read_parquet(path)
    table = table[table["model"] == run.model]
    split, variants = run.adversarial, in_order(table["variant"], VARIANTS)
    others = [other for other in run.splits if other != split]
    section.blocks += [
        Text("Words are one way to get a confidence. The same measures of others, about the same questions: what the "
             "words leave unsaid, and what a recalibration of the words alone would mend."),
        drawn(plots_methods.methods(table, split),
              f"Accuracy, AUC, ECE and AURC of every method and variant on {split_name(split)}; the numbers are in the "
              "caption.", plots_methods.caption(table, split), dpi=150),
        _methods_table(run, table, variants[-1], [split]),
        Folded("The same for the other splits and variants", [
            _methods_table(run, table, variant, others if variant == variants[-1] else run.splits)
            for variant in reversed(variants) if others or variant != variants[-1]]),
        Folded("Where each method comes from", [_sources(table)]),
    ]  # fmt: skip
    if missing := missing_methods(table):
        needs = ", ".join(f"{METHODS[name].name} ({what})" for name, what in missing.items())
        section.blocks.append(Text(f"Not elicited in this run, with the parameter of notebook 06 that does: {needs}. "
                                   "params/tiny_full.yaml elicits all of them.", "note"))  # fmt: skip
    return section


def _methods_table(run: Saved, table: pd.DataFrame, variant: str, splits: list[str]) -> Table:
    """Values with intervals; where the paired difference to the spoken confidence excludes 0 it is said."""
    path = run.paths["method_differences.parquet"]
    clear: dict[tuple, str] = {}
    if path.is_file():
        for row in read_parquet(path).query("model == @run.model and variant == @variant").itertuples():
            if pd.notna(row.ci_low) and (row.ci_low > 0 or row.ci_high < 0):
                clear[row.split, row.method, row.metric] = "▲" if row.diff > 0 else "▼"
    found = {(row.split, row.method, row.metric): row for row in table[table["variant"] == variant].itertuples()}
    groups = []
    for split in splits:
        rows = []
        for name, method in METHODS.items():
            if (split, name, "acc") in found:
                cells = [_cell(found[split, name, metric], clear.get((split, name, metric), "")) for metric in COLUMNS]
                rows.append([method.name, *cells])
        groups.append((split_name(split), rows))
    return Table(f"{name_of(variant)}: ways to get a confidence, with 95 % intervals. ▲ higher, ▼ lower than the "
                 "spoken confidence, where the interval of the paired difference excludes 0.",
                 ["", *COLUMNS.values()], groups)  # fmt: skip


def _cell(row, mark: str) -> Cell:
    if pd.isna(row.value):
        return Cell("undefined", row.reason or "")
    return Cell(f"{number(row.value, decimals=2)} {mark}".strip(), interval(row.ci_low, row.ci_high))


def _sources(table: pd.DataFrame) -> Table:
    rows = [[method.name, Cell(method.source, kind="words")] for name, method in METHODS.items()
            if name != SPOKEN and name in set(table["method"])]  # fmt: skip
    return Table("Sources of the methods", ["", "source"], [("", rows)])


def stress(run: Saved) -> Section:
    """The curves of the stress test and their correlations."""
    section = Section("stress", "When the evidence is taken away")
    paths = [run.paths["stress_curves.parquet"], run.paths["stress_correlation.parquet"], run.paths["stress_differences.parquet"]]
    if lacking := [path for path in paths if not path.is_file()]:
        section.blocks.append(absent(lacking[0], "the stress test"))
        return section
    curves, correlation, differences = map(read_parquet, paths)
    curves, correlation, differences = (t[t["model"] == run.model] for t in (curves, correlation, differences))
    if curves.empty:
        section.blocks.append(Text(f"Left out: the stress test; it was made of another model than {run.model}.",
                                   "missing"))  # fmt: skip
        return section
    blocks: list[Block] = [
        Text("What CSP claims to teach is tested directly, on pictures that no training has seen: an object is hidden "
             "step by step, and the model is asked how certain it is of the right answer (it is there) and of the "
             "wrong one. A model that has learned it says less of the right answer the less is left, and does not mind "
             "the same noise elsewhere."),
        drawn(plots_stress.curves(curves),
              "Mean spoken confidence of every variant against the level of noise, with the controls; the correlations "
              "are in the table below.", plots_stress.caption(curves, correlation), dpi=150),
        _correlations(correlation), *_differences(differences),
    ]  # fmt: skip
    section.blocks += blocks
    return section


def _correlations(table: pd.DataFrame) -> Table:
    variants = in_order(table["variant"], VARIANTS)
    part = table[table["metric"] == "spearman"]
    found = {(row.region, row.answer, row.variant): row for row in part.itertuples()}
    rows = []
    for region in in_order(part["region"], REGIONS):
        for answer in ("right", "wrong"):
            own = [found.get((region, answer, variant)) for variant in variants]
            rows.append([f"{REGIONS[region]}, {answer} answer", *(Cell("–") if row is None else Cell(
                "undefined", "always the same number") if pd.isna(row.value) else Cell(
                number(row.value, signed=True, decimals=2), interval(row.ci_low, row.ci_high, signed=True))
                for row in own)])  # fmt: skip
    return Table("Spearman's ρ of the level c (what is left of the object) with the spoken confidence, with 95 % "
                 "intervals over images.", ["", *map(name_of, variants)], [("", rows)])  # fmt: skip


def _differences(table: pd.DataFrame) -> list[Block]:
    """What training changed in these correlations, where both are defined."""
    part = table[(table["metric"] == "spearman") & table["diff"].notna()]
    rows = [[f"{name_of(row.variant_b)} minus {name_of(row.variant_a)}: {REGIONS[row.region]}, {row.answer} answer",
             Cell(number(row.diff, signed=True, decimals=2), interval(row.ci_low, row.ci_high, signed=True)),
             number(row.p)] for row in part.itertuples()]  # fmt: skip
    if not rows:
        return []
    return [Table("Differences of these correlations on the same resampled images, where both are defined",
                  ["", "difference", "p"], [("", rows)])]  # fmt: skip
