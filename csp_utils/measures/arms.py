"""The arms of an ablation: their names, and the responses of all the runs that trained them.

An *arm* is a way to train: "base"; "<branch>" after its SimPO, and "<branch>/sft" after its SFT alone
(:mod:`csp_utils.pipeline.branches`). Each arm but the base has one table of responses for every training seed.
:mod:`csp_utils.measures.over_seeds` computes their metrics.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_parquet
from csp_utils.base.params import made_alike
from csp_utils.base.run import RunPaths
from csp_utils.noise.training_rows import speaks_of

FULL = "csp"
"""The branch of the whole method; a run without branches has only this one."""
BASELINES = ("token_probability", "p_true")
"""Other confidences of the untrained base (:mod:`csp_utils.measures.methods`), beside which every arm is shown: they
cost no training."""
READ_WITH = ("max_new_tokens", "min_mass", "answer_rule")
"""Parameters that decide what is read from a reply."""
Responses = dict[tuple[str, int], pd.DataFrame]
"""(branch, seed) -> responses (:mod:`csp_utils.measures.metrics`); branch "" for the main run."""


def arm_of(branch: str, variant: str) -> str:
    """Name the arm of a variant (base, sft, csp) of a branch ("" for the main run)."""
    return variant if variant == "base" else branch if variant == "csp" else f"{branch}/{variant}"


def branch_of(run: str, main: str) -> tuple[str, int]:
    """Read branch and seed from a run's name ``<main>.<branch>.<seed>``. Raises UserError for another name."""
    branch, _, seed = run.removeprefix(f"{main}.").rpartition(".")
    if not run.startswith(f"{main}.") or not branch or not seed.isdigit():
        raise UserError(f"{run} is no run of {main}: its name would be {main}.<branch>.<seed>; correct `runs`.")
    return branch, int(seed)


def read_responses(main: str, seed: int, runs: Sequence[str], outputs: str = "outputs") -> Responses:
    """Read the responses of the main run and of the runs of its branches.

    Args:
        main: name of the main run; the variants that it trained itself are seed ``seed`` of branch :data:`FULL`.
        runs: names of the branches' runs.
        outputs: folder of all runs.

    Raises:
        UserError: a run's name is wrong, its responses are missing, two runs trained one branch with one seed, or two
            runs read their replies in different ways.
    """
    tables = {main: read_parquet(RunPaths(main, outputs)["responses.parquet"])}
    own = tables[main]
    found = {("", 0): own[own["variant"] == "base"], (FULL, seed): own[own["variant"] != "base"]}
    found = {key: rows for key, rows in found.items() if not rows.empty}
    for run in runs:
        key = branch_of(run, main)
        if key in found:
            raise UserError(f"Both {main} and {run} trained branch {key[0]} with seed {key[1]}; name one of them.")
        rows = tables[run] = read_parquet(RunPaths(run, outputs)["responses.parquet"])
        found[key] = rows[rows["variant"] != "base"]
    made_alike(tables, READ_WITH)
    return found


def read_stress(main: str, runs: Sequence[str], outputs: str = "outputs") -> pd.DataFrame | None:
    """Read the replies of the stress tests (notebook 08) of all runs and seeds; None if no run has any.

    The column variant holds base, sft and csp for the main run and for branch :data:`FULL`, and for other branches the
    arm's name as figures write it.
    """
    found = []
    for run in (main, *runs):
        path = RunPaths(run, outputs)["stress.parquet"]
        if path.is_file():
            rows, branch = read_parquet(path), FULL if run == main else branch_of(run, main)[0]
            names = [variant if branch == FULL else arm_of(branch, variant).replace("_", " ")
                     for variant in rows["variant"]]  # fmt: skip
            found.append(rows.assign(variant=names))
    return pd.concat(found, ignore_index=True) if found else None


def read_baselines(main: str, outputs: str = "outputs") -> pd.DataFrame:
    """Read what :data:`BASELINES` of the untrained base reach, from methods.parquet of the main run, if it is there.

    Returns:
        rows as of :func:`csp_utils.measures.over_seeds.table`, with the arms "base/<method>"; the intervals are over
        test images.
    """
    path, columns = RunPaths(main, outputs)["methods.parquet"], ["split", "metric", "value", "ci_low", "ci_high"]
    if not path.is_file():
        return pd.DataFrame(columns=["arm", *columns])
    rows = read_parquet(path)
    rows = rows[(rows["variant"] == "base") & rows["method"].isin(BASELINES)]
    return rows[[*columns, "reason"]].assign(arm="base/" + rows["method"], n_seeds=1, seed_sd=float("nan"))


def seeds_of(runs: Mapping[tuple[str, int], pd.DataFrame]) -> dict[str, list[int]]:
    """List the training seeds of every arm but the base, in rising order."""
    found: dict[str, set[int]] = {}
    for (branch, seed), responses in runs.items():
        for variant in responses["variant"].unique():
            if variant != "base":
                found.setdefault(arm_of(branch, variant), set()).add(seed)
    return {arm: sorted(seeds) for arm, seeds in found.items()}


def by_words(runs: Responses, words: Sequence[str]) -> Responses:
    """Split the responses anew: by benchmark, and by whether a question contains one of ``words``.

    The new splits are "pope, left out", "pope, others", "amber, left out" and "amber, others". POPE asks the same
    question in several splits; here it counts once.
    """

    def split_anew(responses: pd.DataFrame) -> pd.DataFrame:
        benchmark = responses["split"].str.partition("_")[0]
        about = np.where(speaks_of(responses["question"], words), "left out", "others")
        ids = responses["image"] + "|" + responses["question"]
        rows = responses.assign(split=benchmark + ", " + about, question_id=ids)
        return rows.drop_duplicates(["model", "variant", "split", "question_id", "candidate"])

    return {key: split_anew(responses) for key, responses in runs.items()}
