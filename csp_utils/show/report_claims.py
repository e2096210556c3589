"""The page of the claims (claims.html), and the tables of docs/claims.md.

Everything shown is read from the tables that notebook 11 has saved; templates/claims.j2 says how it is shown.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from csp_utils.base.files import read_parquet
from csp_utils.base.run import RunPaths
from csp_utils.base.wording import SPLITS, in_order, interval, is_missing, metric, name_of, number
from csp_utils.measures.arms import FULL, branch_of
from csp_utils.measures.over_seeds import LEAST_SEEDS
from csp_utils.measures.verdicts import ADVERSARIAL, NEARLY_NOTHING
from csp_utils.show import saved
from csp_utils.show.figures import fig_claims, fig_stress
from csp_utils.show.figures.fig_claims import ARMS, VERDICTS, arm_name
from csp_utils.show.page import Cell, Section, Table, embed, page, section

TRAINING = ("03_perturb", "04_sft", "05_simpo")
SHOWN = ("acc", "f1", "auc", "brier", "ece", "spearman", "kendall", "plain_acc")
COMPARED = ("acc", "auc", "brier", "ece", "spearman", "plain_acc")
SIGNS = {"kept": "✓", "open": "?", "broken": "✗"}
SUMMARY = {"holds": "hold", "holds in part": "hold in part", "does not hold": "do not hold",
           "open": "cannot be told either way", "not tested": "were not tested"}  # fmt: skip


class Tables(NamedTuple):
    """The saved tables of notebook 11."""

    claims: pd.DataFrame
    checks: pd.DataFrame
    values: pd.DataFrame
    differences: pd.DataFrame
    curves: pd.DataFrame
    arms: pd.DataFrame


def load(folder: Path) -> Tables:
    """Read the tables of notebook 11 from the folder that holds them. Raises UserError if one is missing."""
    names = ("claims", "claim_checks", "claim_values", "claim_differences", "claim_curves", "claim_arms")
    return Tables(*(read_parquet(folder / f"{name}.parquet") for name in names))


# ------------------------------------------------------------------------------------------------------ training


def trainings(main: str, runs: Sequence[str], outputs: str = "outputs") -> dict[str, str]:
    """Describe how each branch was trained, as what differs from the whole method, from its executed notebooks.

    A folder names the rows and the model that a run takes from another.
    """
    found: dict[str, dict[str, dict]] = {}
    for run in runs:
        branch, seed = branch_of(run, main)
        executed = saved.executed_notebooks(RunPaths(run, outputs))
        own = {name: saved.parameters(executed, name) for name in TRAINING}
        values = {name: {key: str(value).replace(f".{seed}/", "./") for key, value in p.model_dump().items()
                         if key not in ("run", "seed")} for name, p in own.items() if p is not None}  # fmt: skip
        found.setdefault(branch, values)
    full = found.get(FULL, {})
    return {branch: _differs(values, full) for branch, values in found.items()}


def _differs(values: Mapping[str, Mapping[str, str]], full: Mapping[str, Mapping[str, str]]) -> str:
    parts = [f"without {name}" for name in full if name not in values]
    for name, own in values.items():
        changed = [f"{key} = {value}" for key, value in own.items() if full.get(name, {}).get(key) != value]
        parts += [f"{name}: {', '.join(changed)}"] if changed and full else []
    return "; ".join(parts) or "the whole method"


# -------------------------------------------------------------------------------------------------------- tables


def further_arms(values: pd.DataFrame) -> list[str]:
    """Return the arms beyond the paper, without their SFT alone."""
    return [arm for arm in dict.fromkeys(values["arm"]) if arm not in ARMS and "/" not in arm]


def _value(row: Any, signed: bool = False) -> Cell:
    small = interval(row.ci_low, row.ci_high, signed)
    if not small and not is_missing(row.value) and row.n_seeds < LEAST_SEEDS:
        small = "no interval" if is_missing(getattr(row, "seed_low", None)) else _seeds(row)
    return Cell(number(row.value, signed), small)


def _seeds(row: Any) -> str:
    """Show the least and the largest value of a seed; of two seeds these are their values."""
    return f"seeds: {number(row.seed_low, True)}, {number(row.seed_high, True)}"


def _heads(metrics: Sequence[str]) -> list[str]:
    return [f"{name_of(name)}{' ↓' if metric(name).better < 0 else ''}" for name in metrics]


def verdicts_table(claims: pd.DataFrame) -> Table:
    """Show the eight verdicts."""
    rows = [[Cell(f"{row.number}. {row.title}", row.source), f"{VERDICTS[row.verdict]} {row.verdict}",
             f"{row.kept} / {row.open} / {row.broken}", str(row.n_seeds) if row.n_seeds else "–",
             Cell(row.criterion, kind="words")] for row in claims.itertuples()]  # fmt: skip
    columns = ["claim", "verdict", "kept / open / broken", "seeds", "it holds if"]
    return Table.of("The paper's claims. A claim holds if the whole 95 % interval of every check lies on the side that "
                    "the criterion asks for. Otherwise a check is kept (broken) if its interval lies on that side (on "
                    "the other) after Holm's correction for the number of the claim's checks, else open. Checks with "
                    "fewer than three training seeds are open.", rows, columns)  # fmt: skip


def checks_table(checks: pd.DataFrame, claim: Any) -> Table:
    """Show every check of a claim with its value, interval and range over seeds."""
    rows, own = [], checks[checks["number"] == claim.number]
    for split in in_order(own["split"], SPLITS):
        for row in own[own["split"] == split].itertuples():
            low, high = number(row.seed_low, True), number(row.seed_high, True)
            rows.append([name_of(split), name_of(row.metric), Cell(_with_arms(row.check), kind="words"),
                         _value(row, True), "–" if is_missing(row.seed_low) else f"{low} to {high}",
                         f"{SIGNS[row.outcome]} {row.outcome}"])  # fmt: skip
    columns = ["group", "", "check", "value", "seeds from, to", "outcome"]
    return Table.of(f"Claim {claim.number}: {claim.title}", rows, columns)


def _with_arms(check: str) -> str:
    """Replace the arms in a check's text by their names."""
    words = [ARMS.get(word.removesuffix("'s"), word) for word in check.split()]
    return " ".join(words).replace("SFT + SimPO gain", "SFT + SimPO's gain")


def values_table(values: pd.DataFrame, arms: Sequence[str], split: str) -> Table:
    """Show every metric of some arms on one split."""
    found = {(row.arm, row.metric): row for row in values[values["split"] == split].itertuples()}
    rows = []
    for arm in arms:
        own = [found[arm, name] for name in SHOWN if (arm, name) in found]
        if own:
            rows.append([arm_name(arm), f"{own[0].n_seeds:.0f}", *(
                Cell("undefined", "always the same") if is_missing(row.value) else _value(row) for row in own)])
    return Table.of(f"{name_of(split)}: means over seeds, with 95 % intervals over images and trainings, of the base "
                    "over test images only. An arm with fewer than three seeds has no interval. Higher is better "
                    "except for ↓.", rows, ["", "seeds", *_heads(SHOWN)])  # fmt: skip


def against_full(differences: pd.DataFrame, arms: Sequence[str], trained: Mapping[str, str]) -> Table:
    """Show what each further arm gains or loses against the whole method, with the same seeds, on POPE adversarial."""
    own = differences[(differences["versus"] == FULL) & (differences["split"] == ADVERSARIAL)]
    found = {(row.arm, row.metric): row for row in own.itertuples()}
    rows = [[Cell(arm_name(arm), trained.get(arm, ""), "words"), found[arm, "acc"].n_seeds,
             *(_value(found[arm, name], True) for name in COMPARED)] for arm in arms if (arm, "acc") in found]
    return Table.of("Each arm minus SFT + SimPO, with the same seeds on the same images (POPE adversarial). Two seeds "
                    "have no interval; their own differences are given instead.",
                    rows, ["", "seeds", *_heads(COMPARED)])  # fmt: skip


def arms_table(arms: pd.DataFrame) -> Table:
    """Show the verdicts of claims that can be asked of any arm, with each arm in the place of the whole method."""
    found = {(row.arm, row.number): row for row in arms.itertuples()}
    titles = dict(zip(arms["number"], arms["title"], strict=True))
    rows = [[arm_name(arm), str(next(iter(arms.loc[arms["arm"] == arm, "n_seeds"]))),
             *(Cell(f"{VERDICTS[row.verdict]} {row.verdict}", f"{row.kept} / {row.open} / {row.broken}")
               for row in (found[arm, number] for number in titles))]
            for arm in dict.fromkeys(arms["arm"])]  # fmt: skip
    return Table.of("Does a verdict depend on the setting? The claims with each arm in the place of the whole method; "
                    "below a verdict its checks: kept / open / broken",
                    rows, ["", "seeds", *(f"{number}. {title}" for number, title in titles.items())])  # fmt: skip


def words_table(values: pd.DataFrame, differences: pd.DataFrame, arm: str) -> Table:
    """Show the arm that never saw the words and the whole method, on questions with these words and on the others."""
    found = {(row.arm, row.split, row.metric): row for row in values.itertuples()}
    against = differences[(differences["arm"] == arm) & (differences["versus"] == FULL)]
    minus = {(row.split, row.metric): row for row in against.itertuples()}
    rows = [[split.replace("pope", "POPE").replace("amber", "AMBER"), name_of(name),
             *(_value(found[own, split, name]) for own in ("base", arm, FULL)), _value(minus[split, name], True)]
            for split in dict.fromkeys(values["split"]) if split not in SPLITS for name in ("acc", "auc", "ece")]
    columns = ["group", "", "base", arm_name(arm), name_of("csp"), f"{arm_name(arm)} − {name_of('csp')}"]
    return Table.of("Questions that speak of the words that were left out of training, and the others; values over all "
                    "seeds of an arm, differences over the seeds that both have", rows, columns)


def words_tables(p: Any, t: Tables, trained: Mapping[str, str]) -> list[Table]:
    """Return a table for each arm that left the words out of its training."""
    left = f"leave_out = {p.leave_out}"
    arms = [arm for arm in further_arms(t.values) if p.leave_out and left in trained.get(arm, "")]
    return [words_table(t.values, t.differences, arm) for arm in arms]


def _paper_arms_and_splits(values: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the arms and splits of the tables of every metric, in order."""
    arms = [arm for arm in ARMS if arm in set(values["arm"])]
    return arms, in_order([split for split in values["split"] if split in SPLITS], SPLITS)


# ---------------------------------------------------------------------------------------------------------- page


def sections(p: Any, t: Tables, trained: Mapping[str, str], n_images: int) -> list[Section]:
    """Render the sections of the page; those whose arms were not trained are left out."""
    paper, splits = _paper_arms_and_splits(t.values)
    verdicts = {v: t.claims.loc[t.claims["verdict"] == v, "number"].astype(str) for v in SUMMARY}
    summary = "; ".join(f"{SUMMARY[v]}: {', '.join(own)}" for v, own in verdicts.items() if len(own))
    figure = embed(fig_claims.claims(t.claims, t.checks, t.differences), "A panel for each claim with its checks; the "
                   "numbers are in the tables below.",
                   fig_claims.claims_caption(t.claims, int(t.claims["n_seeds"].max()), n_images), dpi=150)  # fmt: skip
    found = [("claims", "The eight claims at a glance", {
        "summary": f"Of the paper's eight claims these {summary}.", "figure": figure,
        "table": verdicts_table(t.claims), "nearly_nothing": f"{100 * NEARLY_NOTHING:.0f} %"})]  # fmt: skip
    if not t.curves.empty:
        figure = embed(fig_stress.curves(t.curves), "Mean verbalized confidence of every arm against the level of "
                       "noise.", fig_stress.seeds_caption(t.curves), dpi=150)  # fmt: skip
        found.append(("noise", "Verbalized confidence against noise, before and after", {"figure": figure}))
    tested = [row for row in t.claims.itertuples() if row.verdict != "not tested"]
    found.append(("checks", "Every check", {"tables": [
        (f"{row.number}  {row.title}: {row.verdict}", checks_table(t.checks, row)) for row in tested]}))
    found.append(("values", "Every metric", {
        "table": values_table(t.values, paper, ADVERSARIAL),
        "others": [values_table(t.values, paper, split) for split in splits if split != ADVERSARIAL]}))
    if more := further_arms(t.values):
        names = ["base", FULL, *more]
        figure = embed(fig_claims.arms(t.values, names), "Accuracy, AUC, ECE and plain accuracy of every further arm.",
                       fig_claims.arms_caption(t.values, names), dpi=150)  # fmt: skip
        found.append(("beyond", "Beyond the paper: one thing changed at a time", {
            "figure": figure, "verdicts": arms_table(t.arms),
            "against": against_full(t.differences, more, trained),
            "table": values_table(t.values, names, ADVERSARIAL)}))  # fmt: skip
    if words := words_tables(p, t, trained):
        found.append(("words", "Does it carry over to what was never hidden?", {
            "words": ", ".join(p.leave_out), "tables": words}))  # fmt: skip
    arms = [[arm_name(branch), Cell(text, kind="words")] for branch, text in trained.items()]
    found.append(("about", "How these numbers were made", {
        "facts": [f"commit {saved.commit()}", saved.hardware(), f"n_bootstrap = {p.n_bootstrap}"],
        "arms": Table.of("What was trained, as what differs from the whole method", arms, ["arm", "parameters"])}))
    return [section("claims.j2", name, title, partial(dict, values)) for name, title, values in found]


def html(p: Any, paths: RunPaths, t: Tables, n_images: int) -> str:
    """Render the whole page.

    Args:
        p: parameters of notebook 11.
        paths: of the main run; its branches are beside it.
        n_images: number of test images.
    """
    trained = trainings(p.run, p.runs, str(paths.root.parent))
    footer = f"Made from the tables in {paths.root}/ by csp_utils/show/report_claims.py."
    subtitle = f"Run “{p.run}” and its branches"
    return page(p.title, subtitle, sections(p, t, trained, n_images), footer)


# ---------------------------------------------------------------------------------------------------------- docs


def tables_of_docs(p: Any, paths: RunPaths) -> str:
    """Return the tables of docs/claims.md as Markdown; arguments as for :func:`html`."""
    t, trained = load(paths.root), trainings(p.run, p.runs, str(paths.root.parent))
    paper, splits = _paper_arms_and_splits(t.values)
    found = [verdicts_table(t.claims), *(values_table(t.values, paper, split) for split in splits)]
    if more := further_arms(t.values):
        found += [arms_table(t.arms), against_full(t.differences, more, trained), *words_tables(p, t, trained)]
    return "\n\n".join(table.markdown() for table in found)
