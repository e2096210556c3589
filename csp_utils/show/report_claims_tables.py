"""The tables of the claims: verdicts, checks, every metric of every arm, and how the arms were trained."""

from collections.abc import Mapping, Sequence

import pandas as pd

from csp_utils.base.run import RunPaths
from csp_utils.data.benchmarks import SPLITS
from csp_utils.measures.arms import FULL, branch_of
from csp_utils.measures.verdicts import ADVERSARIAL, DOWN
from csp_utils.show import plots_claims, report_run
from csp_utils.show.captions import interval, number
from csp_utils.show.plots_claims import SHORT, VERDICTS, arm_name
from csp_utils.show.report_html import Cell, Table
from csp_utils.show.report_tables import in_order, split_name

PAPER_ARMS = ("base", f"{FULL}/sft", "simpo_only", "global_noise", "original_data", FULL)
TRAINING = ("03_perturb", "04_sft", "05_simpo")
SHOWN = ("acc", "f1", "auc", "brier", "ece", "spearman", "kendall", "plain_acc")
SIGNS = {"kept": "✓", "open": "?", "broken": "✗"}


def further(values: pd.DataFrame) -> list[str]:
    """The arms beyond the paper, without their SFT alone: what a sweep changed."""
    return [arm for arm in dict.fromkeys(values["arm"]) if arm not in PAPER_ARMS and "/" not in arm]


def left_out(values: pd.DataFrame) -> list[str]:
    """The splits by words that a branch has left out; none if there is no such branch."""
    return [split for split in dict.fromkeys(values["split"]) if split not in SPLITS]


# ------------------------------------------------------------------------------------------------- what was trained


def trainings(main: str, runs: Sequence[str], outputs: str = "outputs") -> dict[str, str]:
    """Branch -> how it was trained, as what differs from the whole method's parameters; read from executed notebooks.

    The rows and the model that a run takes from another are named by their folder.
    """
    found: dict[str, dict[str, dict]] = {}
    for run in runs:
        branch, seed = branch_of(run, main)
        executed = report_run.executed(RunPaths(run, outputs))
        own = {name: report_run.parameters(executed, name) for name in TRAINING}
        told = {name: {key: str(value).replace(f".{seed}/", "./") for key, value in p.model_dump().items()
                       if key not in ("run", "seed")} for name, p in own.items() if p is not None}  # fmt: skip
        found.setdefault(branch, told)
    full = found.get(FULL, {})
    return {branch: _differs(told, full) for branch, told in found.items()}


def _differs(told: Mapping[str, Mapping[str, str]], full: Mapping[str, Mapping[str, str]]) -> str:
    parts = [f"without {name}" for name in full if name not in told]
    for name, values in told.items():
        changed = [f"{key} = {value}" for key, value in values.items() if full.get(name, {}).get(key) != value]
        parts += [f"{name}: {', '.join(changed)}"] if changed and full else []
    return "; ".join(parts) or "the whole method"


# ------------------------------------------------------------------------------------------------------------ tables


def verdicts_table(claims: pd.DataFrame) -> Table:
    """The eight verdicts."""
    rows = [[Cell(f"{row.number}. {row.title}", row.source), f"{VERDICTS[row.verdict]} {row.verdict}",
             f"{row.kept} / {row.open} / {row.broken}", str(row.n_seeds) if row.n_seeds else "–",
             Cell(row.criterion, kind="words")] for row in claims.itertuples()]  # fmt: skip
    return Table("The paper's claims, in miniature. A check is kept (broken) if its whole 95 % interval lies on the "
                 "side that the criterion asks for (on the other), else open.",
                 ["claim", "verdict", "kept / open / broken", "seeds", "it holds if"], [("", rows)])  # fmt: skip


def checks_table(checks: pd.DataFrame, claim) -> Table:
    """Every check of a claim with its value, interval and range over seeds."""
    groups = []
    own = checks[checks["number"] == claim.number]
    for split in in_order(own["split"], SPLITS):
        rows = []
        for row in own[own["split"] == split].itertuples():
            seeds = "–" if pd.isna(row.seed_low) else f"{number(row.seed_low, True)} to {number(row.seed_high, True)}"
            rows.append([SHORT[row.metric], Cell(_with_arms(row.check), kind="words"),
                         Cell(number(row.value, True), interval(row.ci_low, row.ci_high, True)), seeds,
                         f"{SIGNS[row.outcome]} {row.outcome}"])  # fmt: skip
        groups.append((split_name(split), rows))
    return Table(f"Claim {claim.number}: {claim.title}", ["", "check", "value", "seeds from, to", ""], groups)


def _with_arms(check: str) -> str:
    """A check in the names of the page."""
    words = [plots_claims.ARMS.get(word.removesuffix("'s"), word) for word in check.split()]
    return " ".join(words).replace("SFT + SimPO gain", "SFT + SimPO's gain")


def values_table(values: pd.DataFrame, arms: Sequence[str], split: str) -> Table:
    """Every metric of some arms on one split."""
    own = values[values["split"] == split].set_index(["arm", "metric"])
    rows = []
    for arm in arms:
        cells = [own.loc[(arm, metric)] for metric in SHOWN if (arm, metric) in own.index]
        if cells:
            rows.append([arm_name(arm), f"{cells[0]['n_seeds']:.0f}",
                         *(Cell("undefined", "always the same") if pd.isna(row["value"]) else
                           Cell(number(row["value"]), interval(row["ci_low"], row["ci_high"])) for row in cells)])
    return Table(f"{split_name(split)}: means over seeds, with 95 % intervals over images and seeds. Higher is better "
                 "but for ↓.", ["", "seeds", *_heads(SHOWN)], [("", rows)])  # fmt: skip


def _heads(metrics: Sequence[str]) -> list[str]:
    return [f"{SHORT[metric]}{' ↓' if metric in DOWN else ''}" for metric in metrics]


def against_full(differences: pd.DataFrame, arms: Sequence[str], told: Mapping[str, str]) -> Table:
    """What each further arm gains or loses against the whole method, with the same seeds, on POPE adversarial."""
    own = differences[(differences["versus"] == FULL) & (differences["split"] == ADVERSARIAL)]
    found = {(row.arm, row.metric): row for row in own.itertuples()}
    metrics = ("acc", "auc", "brier", "ece", "spearman", "plain_acc")
    rows = []
    for arm in arms:
        if (arm, "acc") in found:
            cells = [found[arm, metric] for metric in metrics]
            rows.append([Cell(arm_name(arm), told.get(arm, ""), "words"), str(cells[0].n_seeds),
                         *(Cell(number(row.value, True), interval(row.ci_low, row.ci_high, True)) for row in cells)])
    return Table("Each arm minus SFT + SimPO, with the same seeds on the same images (POPE adversarial)",
                 ["", "seeds", *_heads(metrics)], [("", rows)])  # fmt: skip


def words_table(values: pd.DataFrame, differences: pd.DataFrame, arm: str) -> Table:
    """The arm that never saw the words, beside the whole method, on questions that speak of them and on the others."""
    names = {(row.arm, row.split, row.metric): row for row in values.itertuples()}
    against = differences[(differences["arm"] == arm) & (differences["versus"] == FULL)]
    minus = {(row.split, row.metric): row for row in against.itertuples()}
    groups = []
    for split in left_out(values):
        rows = []
        for metric in ("acc", "auc", "ece"):
            cells = [names[name, split, metric] for name in ("base", arm, FULL)]
            difference = minus[split, metric]
            rows.append([SHORT[metric], *(Cell(number(row.value), interval(row.ci_low, row.ci_high)) for row in cells),
                         Cell(number(difference.value, True), interval(difference.ci_low, difference.ci_high, True))])
        groups.append((split.replace("pope", "POPE").replace("amber", "AMBER"), rows))
    return Table("Questions that speak of the words that were left out of training, and the others; values over all "
                 "seeds of an arm, differences over those that both have",
                 ["", "base", arm_name(arm), "SFT + SimPO", f"{arm_name(arm)} − SFT + SimPO"], groups)  # fmt: skip
