"""The page of the claims (claims.html), and the tables of docs/claims.md.

    python -m csp_utils.show.report_claims outputs/claims docs/claims.md

writes the tables between the marks of that file, and copies the two pictures into the folder img beside it.

Everything shown is read from the tables that notebook 11 has saved.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_parquet, write_bytes, write_text
from csp_utils.base.run import RunPaths
from csp_utils.base.stage import stages
from csp_utils.data.benchmarks import SPLITS
from csp_utils.measures.arms import FULL
from csp_utils.measures.verdicts import ADVERSARIAL, NEARLY_NOTHING
from csp_utils.show import plots_claims, plots_stress, report_run
from csp_utils.show.plots_claims import arm_name
from csp_utils.show.report_claims_tables import (
    PAPER_ARMS,
    against_full,
    checks_table,
    further,
    trainings,
    values_table,
    verdicts_table,
    words_table,
)
from csp_utils.show.report_html import Block, Bullets, Cell, Folded, Section, Table, Text, drawn, page
from csp_utils.show.report_tables import in_order

BEGIN, END = "<!-- tables: begin (python -m csp_utils.show.report_claims) -->", "<!-- tables: end -->"


class Tables(NamedTuple):
    """What notebook 11 has saved."""

    claims: pd.DataFrame
    checks: pd.DataFrame
    values: pd.DataFrame
    differences: pd.DataFrame
    curves: pd.DataFrame


def load(paths: RunPaths) -> Tables:
    """Reads the tables of notebook 11. Raises UserError if one is missing."""
    return Tables(*map(read_parquet, (paths["claims.parquet"], paths["claim_checks.parquet"], paths["claim_values.parquet"], paths["claim_differences.parquet"],
                                      paths["claim_curves.parquet"])))  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- page


def sections(p: Any, tables: Tables, told: Mapping[str, str], n_images: int) -> list[Section]:
    """The parts of the page."""
    t = tables
    seeds = int(t.claims["n_seeds"].max())
    found = [Section("claims", "The eight claims at a glance", [
        Text(_summary(t.claims), "lead"),
        drawn(plots_claims.claims(t.claims, t.checks, t.differences), "A panel for each claim with its checks; the "
              "numbers are in the tables below.", plots_claims.claims_caption(t.claims, seeds, n_images), dpi=150),
        verdicts_table(t.claims),
        Text(f"“Nearly nothing” and “does not help” mean: less than {100 * NEARLY_NOTHING:.0f} % of what SFT + SimPO "
             "gains. The criteria were written down before the runs (csp_utils/measures/verdicts.py). A claim of many checks "
             "needs all of them, so their number makes it harder to hold, not easier.", "note"),
    ])]  # fmt: skip
    if not t.curves.empty:
        found.append(Section("noise", "Spoken confidence against noise, before and after", [
            Text("Held-out pictures, their object hidden step by step. Before training the line is level; after it, it "
                 "falls where the object is hidden, and should not where the noise is elsewhere."),
            drawn(plots_stress.curves(t.curves), "Mean spoken confidence of every arm against the level of noise.",
                  plots_claims.noise_caption(t.curves), dpi=150),
        ]))  # fmt: skip
    found.append(Section("checks", "Every check", [
        Folded(f"{row.number}  {row.title}: {row.verdict}", [checks_table(t.checks, row)])
        for row in t.claims.itertuples() if row.verdict != "not tested"]))  # fmt: skip
    paper, splits = _paper_arms_and_splits(t.values)
    found.append(Section("values", "Every metric", [values_table(t.values, paper, ADVERSARIAL), Folded(
        "The other splits", [values_table(t.values, paper, split) for split in splits if split != ADVERSARIAL])]))
    if more := further(t.values):
        names = ["base", FULL, *more]
        found.append(Section("beyond", "Beyond the paper: one thing changed at a time", [
            drawn(plots_claims.arms(t.values, names), "Accuracy, AUC, ECE and plain accuracy of every further arm.",
                  plots_claims.arms_caption(t.values, names), dpi=150),
            against_full(t.differences, more, told), values_table(t.values, names, ADVERSARIAL),
        ]))  # fmt: skip
    words: list[Block] = [*_words_tables(p, t, told)]
    if words:
        found.append(Section("words", "Does it carry over to what was never hidden?", [
            Text(f"One arm was trained without any row that speaks of {', '.join(p.leave_out)}."), *words]))
    facts = [f"commit {report_run.commit()}", report_run.hardware(), f"n_bootstrap = {p.n_bootstrap}"]
    arms = [[arm_name(branch), Cell(text, kind="words")] for branch, text in told.items()]
    found.append(Section("about", "How these numbers were made", [
        Bullets(facts), Table("What was trained, as what differs from the whole method", ["arm", "parameters"],
                              [("", arms)])]))  # fmt: skip
    return found


def _paper_arms_and_splits(values: pd.DataFrame) -> tuple[list[str], list[str]]:
    """What the tables of every metric show, in the paper's order."""
    arms = [arm for arm in PAPER_ARMS if arm in set(values["arm"])]
    return arms, in_order([split for split in values["split"] if split in SPLITS], SPLITS)


def _words_tables(p: Any, t: Tables, told: Mapping[str, str]) -> list[Table]:
    """A table for each arm that left the words out of its training."""
    arms = [arm for arm in further(t.values) if p.leave_out and f"leave_out = {p.leave_out}" in told.get(arm, "")]
    return [words_table(t.values, t.differences, arm) for arm in arms]


def _summary(claims: pd.DataFrame) -> str:
    """Which of the eight hold, hold in part, ..."""
    texts = {"holds": "hold", "holds in part": "hold in part", "does not hold": "do not hold",
             "open": "cannot be told either way", "not tested": "were not tested"}  # fmt: skip
    own = {verdict: claims.loc[claims["verdict"] == verdict, "number"].astype(str).tolist() for verdict in texts}
    parts = [f"{texts[v]}: {', '.join(own[v])}" for v in texts if own[v]]
    return f"Of the paper's eight claims these {'; '.join(parts)}."


def write(p: Any, paths: RunPaths, n_images: int, outputs: str = "outputs") -> None:
    """Writes claims.html, whole."""
    told = trainings(p.run, p.runs, outputs)
    footer = f"Made from the tables in {paths.root}/ by csp_utils/show/report_claims.py."
    subtitle = f"Run “{p.run}” and its branches"
    write_text(page(p.title, subtitle, sections(p, load(paths), told, n_images), footer), paths["claims.html"])


# ------------------------------------------------------------------------------------------------------------- docs


def markdown(table: Table) -> str:
    """A table for docs/claims.md."""

    def text(cell: Cell) -> str:
        return f"{cell.text} {cell.small}".strip().replace("|", "/")

    lines = [f"**{table.caption}**", "", f"| {' | '.join(table.columns)} |", "|" + " --- |" * len(table.columns)]
    for name, rows in table.cells():
        lines += [f"| **{name}** {'| ' * len(table.columns)}".rstrip()] if name else []
        lines += [f"| {' | '.join(map(text, row))} |" for row in rows]
    return "\n".join(lines)


def tables_of_docs(paths: RunPaths) -> str:
    """The tables of docs/claims.md."""
    t = load(paths)
    runs = report_run.executed(paths)
    p = report_run.parameters(runs, "11_claims") or stages["11_claims"].params(run=paths.run)
    told = trainings(p.run, p.runs, str(paths.root.parent))
    paper, splits = _paper_arms_and_splits(t.values)
    found = [verdicts_table(t.claims), *(values_table(t.values, paper, split) for split in splits)]
    if more := further(t.values):
        found.append(against_full(t.differences, more, told))
        found += _words_tables(p, t, told)
    return "\n\n".join(map(markdown, found))


def main(arguments: list[str]) -> str:
    """The command line; returns what to print."""
    if len(arguments) != 2:
        raise UserError("usage: python -m csp_utils.show.report_claims RUN_FOLDER MARKDOWN_FILE")
    folder, path = map(Path, arguments)
    text = path.read_text(encoding="utf-8") if path.is_file() else f"{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise UserError(f"{path} lacks the marks {BEGIN} and {END}, between which the tables go.")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    made = tables_of_docs(RunPaths(folder.resolve().name, folder.parent))
    pictures = RunPaths(folder.resolve().name, folder.parent).figures
    for name in ("claims.png", "claims_noise.png"):
        if (pictures / name).is_file():
            write_bytes((pictures / name).read_bytes(), path.parent / "img" / name)
    write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", path)
    return f"wrote the tables of {folder} into {path}"


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
