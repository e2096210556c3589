"""Stage 11: judge the paper's claims by the measurements of all runs of a params file."""

from typing import TYPE_CHECKING

from pydantic import Field

from csp_utils.base.params import LEAST_RESAMPLES, Protocol, Resampling
from csp_utils.base.run import RunPaths
from csp_utils.results.stage import Inputs, Job, Stage, page_files

if TYPE_CHECKING:
    import pandas as pd


class Claims(Resampling, Protocol):
    """Parameters of notebook 11."""

    runs: list[str] = Field(
        [], description="runs to compare, <run>.<branch>.<seed>; ./run_all.sh gives those of the params file"
    )
    leave_out: list[str] = Field([], description="words that a branch left out of its training (notebook 03)")
    title: str = Field("The paper's claims about CSP", min_length=1, description="title of the page")
    n_bootstrap: int = Field(200, ge=LEAST_RESAMPLES, description="resamples of images behind an interval")


def _each(p: Claims, paths: RunPaths, name: str) -> Inputs:
    outputs = paths.root.parent
    return {f"{name} of {run}": RunPaths(run, outputs)[f"{name}.parquet"] for run in (p.run, *p.runs)}


def reads(p: Claims, paths: RunPaths) -> Inputs:
    """Return the answers of all runs."""
    return _each(p, paths, "responses")


def looks_at(p: Claims, paths: RunPaths) -> Inputs:
    """Return the stress tests of all runs, and the other confidences of the main run."""
    return _each(p, paths, "stress") | {f"methods of {p.run}": paths["methods.parquet"]}


def compute(job: Job[Claims]) -> None:
    """Write the tables of values, differences, checks and verdicts, and the HTML page."""
    from csp_utils.base.files import write_parquet, write_text
    from csp_utils.show.report_claims import html, load

    n_images, tables = judge(job.p, str(job.paths.root.parent))
    for name, table in tables.items():
        write_parquet(table, job.out / f"{name}.parquet")
    write_text(html(job.p, job.paths, load(job.out), n_images), job.out / "claims.html")


def judge(p: Claims, outputs: str) -> "tuple[int, dict[str, pd.DataFrame]]":
    """Return the number of test images, and name -> table of the runs.

    If words were left out of a training, the questions about these words and all others are also evaluated separately.
    """
    import pandas as pd

    from csp_utils.measures import arms, over_seeds, stress_curves, verdicts
    from csp_utils.measures.metrics import Protocol as Rules

    runs = arms.read_responses(p.run, p.seed, p.runs, outputs)
    rules, seeds = Rules(p.ties, p.ece_edges, p.n_bins, p.positive, p.seed), arms.seeds_of(runs)
    draws = over_seeds.draws(runs, rules, p.n_bootstrap)
    versus = ["base"] + [arms.FULL] * (arms.FULL in seeds)
    pairs = [(arm, other) for other in versus for arm in seeds if arm != other]
    values, differences = over_seeds.table(draws), over_seeds.differences(draws, seeds, pairs)
    values = pd.concat([values, arms.read_baselines(p.run, outputs)], ignore_index=True)
    if p.leave_out:
        by_words = over_seeds.draws(arms.by_words(runs, p.leave_out), rules, p.n_bootstrap)
        values = pd.concat([values, over_seeds.table(by_words)], ignore_index=True)
        anew = over_seeds.differences(by_words, seeds, pairs)
        differences = pd.concat([differences, anew], ignore_index=True)
    judged, checks = verdicts.judge(draws, seeds)
    stressed = arms.read_stress(p.run, p.runs, outputs)
    curves = pd.DataFrame(columns=stress_curves.CURVE_COLUMNS)
    if stressed is not None:
        curves = stress_curves.curves(stressed, p.n_bootstrap, p.seed)
    return int(next(iter(runs.values()))["image"].nunique()), {
        "claims": judged, "claim_checks": checks, "claim_values": values, "claim_differences": differences,
        "claim_curves": curves, "claim_arms": verdicts.judge_arms(draws, seeds),
    }


STAGE = Stage("11_claims", Claims, compute, reads=reads, looks_at=looks_at, follows="all",
              files=page_files("claims.j2"), makes=(
    "claims.parquet", "claim_checks.parquet", "claim_values.parquet", "claim_differences.parquet",
    "claim_curves.parquet", "claim_arms.parquet", "claims.html"
))  # fmt: skip
