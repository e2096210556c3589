"""Variants over training seeds: every metric, and how combinations of them differ.

An *arm* is a way to train: "base"; "<branch>" after its SimPO, and "<branch>/sft" after its SFT alone
(:mod:`csp_utils.pipeline.branches`). Each arm but the base has a table of responses for every training seed. Two things vary:
the test images and the training seed. A resample draws both, images within the questions and seeds among those that
were trained, the same for all arms of a combination: an interval says what other images and another training would do.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_parquet
from csp_utils.base.run import RunPaths
from csp_utils.measures.bootstrap import interval, p_value, resampled_images
from csp_utils.measures.counts import Cell, Protocol
from csp_utils.noise.training_rows import speaks_of

METRICS = ("acc", "f1", "auc", "brier", "ece", "tie_rate", "spearman", "kendall", "plain_acc")
RANK = ("spearman", "kendall")
"""Undefined where a model always says the same number."""
FULL = "csp"
"""The branch of the whole method; a run without branches has this one alone."""
Responses = dict[tuple[str, int], pd.DataFrame]
"""(branch, seed) -> responses (:mod:`csp_utils.measures.metrics`); branch "" for the main run."""
Draws = dict[tuple[str, str, str], np.ndarray]
"""(arm, split, metric) -> (seeds, 1 + B) values: column 0 on the images themselves, the others on resampled ones."""


def arm_of(branch: str, variant: str) -> str:
    """The arm of a variant (base, sft, csp) of a branch ("" for the main run)."""
    return variant if variant == "base" else branch if variant == "csp" else f"{branch}/{variant}"


def branch_of(run: str, main: str) -> tuple[str, int]:
    """Branch and seed of a run ``<main>.<branch>.<seed>``. Raises UserError for another name."""
    branch, _, seed = run.removeprefix(f"{main}.").rpartition(".")
    if not run.startswith(f"{main}.") or not branch or not seed.isdigit():
        raise UserError(f"{run} is no run of {main}: its name would be {main}.<branch>.<seed>; correct `runs`.")
    return branch, int(seed)


def read_responses(main: str, seed: int, runs: Sequence[str], outputs: str = "outputs") -> Responses:
    """The responses of the main run and of its branches.

    What the main run itself trained, with ``seed``, is a seed of the branch :data:`FULL`.
    """
    own = read_parquet(RunPaths(main, outputs)["responses.parquet"])
    found = {("", 0): own[own["variant"] == "base"], (FULL, seed): own[own["variant"] != "base"]}
    found = {key: rows for key, rows in found.items() if not rows.empty}
    for run in runs:
        key = branch_of(run, main)
        if key in found:
            raise UserError(f"Both {main} and {run} trained branch {key[0]} with seed {key[1]}; name one of them.")
        rows = read_parquet(RunPaths(run, outputs)["responses.parquet"])
        found[key] = rows[rows["variant"] != "base"]
    return found


def read_stress(main: str, runs: Sequence[str], outputs: str = "outputs") -> pd.DataFrame | None:
    """The replies of the stress tests (notebook 08), those of all seeds below one another; None if no run has one.

    The column variant holds base, sft and csp of the main run and of branch :data:`FULL`; others as figures call them.
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


def by_words(runs: Responses, words: Sequence[str]) -> Responses:
    """The same responses, split anew: by benchmark, and by whether a question speaks of one of ``words``.

    POPE asks the same question in several splits; here it counts once. The splits are "pope, left out", "pope, others",
    "amber, left out" and "amber, others".
    """

    def anew(responses: pd.DataFrame) -> pd.DataFrame:
        benchmark = responses["split"].str.partition("_")[0]
        about = np.where(speaks_of(responses["question"], words), "left out", "others")
        ids = responses["image"] + "|" + responses["question"]
        rows = responses.assign(split=benchmark + ", " + about, question_id=ids)
        return rows.drop_duplicates(["model", "variant", "split", "question_id", "candidate"])

    return {key: anew(responses) for key, responses in runs.items()}


def draws(runs: Mapping[tuple[str, int], pd.DataFrame], protocol: Protocol, n_bootstrap: int) -> Draws:
    """Every metric of every arm, seed and split, on the same resampled images.

    Raises:
        UserError: two runs were asked different questions, or an arm lacks a seed for a split that another seed has.
    """
    found: dict[tuple[str, str, str], dict[int, np.ndarray]] = {}
    asked: dict[str, list] = {}
    for (branch, seed), responses in runs.items():
        for (variant, split), rows in responses.groupby(["variant", "split"], sort=False):
            cell = Cell(rows, protocol)
            if asked.setdefault(split, cell.question_ids) != cell.question_ids:
                raise UserError(f"Branch {branch}, seed {seed} was asked other questions of {split} than the runs "
                                "before it; evaluate all of them on the same data.")  # fmt: skip
            weights = resampled_images(len(cell.images), n_bootstrap, protocol.seed)
            values = cell.values(cell.resample(weights))
            for metric in METRICS:
                found.setdefault((arm_of(branch, variant), split, metric), {})[seed] = values[metric]
    for key, seeds in found.items():
        others = next(iter(seeds for (arm, _, _), seeds in found.items() if arm == key[0]))
        if set(seeds) != set(others):
            raise UserError(f"{key[0]} has the seeds {sorted(seeds)} for {key[1]} and {sorted(others)} for another "
                            "split; evaluate all of them.")  # fmt: skip
    return {key: np.stack([seeds[seed] for seed in sorted(seeds)]) for key, seeds in found.items()}


def _over_seeds(values: np.ndarray, n_seeds: int, seed: int) -> np.ndarray:
    """(1 + B,) means over seeds: of all of them in column 0, of as many drawn with replacement in each resample.

    An arm of a single seed (the base has no training) is the same whatever is drawn.
    """
    if len(values) == 1:
        return values[0]
    picked = np.random.default_rng([seed, n_seeds]).integers(n_seeds, size=(n_seeds, values.shape[1] - 1))
    mean = values.mean(0)
    mean[1:] = np.take_along_axis(values[:, 1:], picked, axis=0).mean(0)
    return mean


class Combined(NamedTuple):
    """A weighted sum of arms, of one metric on one split."""

    value: float | None
    """Mean over seeds; null if undefined for one of them."""
    ci_low: float | None
    ci_high: float | None
    p: float | None
    seed_low: float | None
    """Least value of a seed; null where no arm has more than one."""
    seed_high: float | None
    n_seeds: int


def combine(of: Draws, weights: Mapping[str, float], split: str, metric: str, seed: int = 0,
            undefined: float | None = None) -> Combined:
    """The weighted sum of arms, paired by resampled images and, where arms have several, by seeds.

    Args:
        weights: arm -> weight; {"csp": 1, "base": -1} is a difference.
        undefined: what stands for a value that is undefined; None leaves the sum undefined.

    Raises:
        UserError: two arms have different numbers of seeds, both more than one.
    """
    values: np.ndarray = np.zeros((1, 1))
    for arm, weight in weights.items():
        own = of[arm, split, metric]
        own = own if undefined is None else np.where(np.isnan(own), undefined, own)
        if 1 < len(own) != len(values) > 1:
            raise UserError(f"{arm} has {len(own)} seeds and another arm {len(values)}; train both with the same ones.")
        values = values + weight * own  # a single row stands beside every seed
    mean, n = _over_seeds(values, len(values), seed), len(values)
    nothing = bool(np.isnan(mean[0]))
    low, high = (None, None) if n == 1 or nothing else (float(values[:, 0].min()), float(values[:, 0].max()))
    return Combined(None if nothing else float(mean[0]), *interval(mean), p_value(mean), low, high, n)


def difference(of: Draws, arm: str, versus: str, split: str, metric: str, seed: int = 0) -> Combined:
    """One arm minus another."""
    return combine(of, {arm: 1, versus: -1}, split, metric, seed)


def common(of: Draws, seeds: Mapping[str, Sequence[int]], arms: Sequence[str]) -> Draws:
    """The draws with each of ``arms`` reduced to the seeds that all of them have; the base has no seed to reduce.

    Args:
        seeds: of :func:`seeds_of`.
    """
    shared = set.intersection(*(set(seeds[arm]) for arm in arms))
    if not shared:
        raise UserError(f"{' and '.join(arms)} have no training seed in common; train them with the same ones.")
    rows = {arm: [seed in shared for seed in seeds[arm]] for arm in arms}
    return {key: values[rows[key[0]]] if key[0] in rows else values for key, values in of.items()}


def seeds_of(runs: Mapping[tuple[str, int], pd.DataFrame]) -> dict[str, list[int]]:
    """The training seeds of every arm but the base, as :func:`draws` orders them."""
    found: dict[str, set[int]] = {}
    for (branch, seed), responses in runs.items():
        for variant in responses["variant"].unique():
            if variant != "base":
                found.setdefault(arm_of(branch, variant), set()).add(seed)
    return {arm: sorted(seeds) for arm, seeds in found.items()}


def differences(of: Draws, seeds: Mapping[str, Sequence[int]], pairs: Sequence[tuple[str, str]],
                seed: int = 0) -> pd.DataFrame:  # fmt: skip
    """:func:`difference` of each (arm, versus) on every split and metric, over the seeds that both have."""
    rows = []
    for arm, versus in pairs:
        both = common(of, seeds, [name for name in (arm, versus) if name in seeds])
        rows += [(arm, versus, split, metric, *difference(both, arm, versus, split, metric, seed))
                 for own, split, metric in of if own == arm]  # fmt: skip
    return pd.DataFrame(rows, columns=["arm", "versus", "split", "metric", *Combined._fields])


def table(of: Draws, seed: int = 0) -> pd.DataFrame:
    """arm, split, metric, value (mean over seeds), ci_low, ci_high (images and seeds), seed_sd, n_seeds."""
    rows = []
    for (arm, split, metric), values in of.items():
        mean = _over_seeds(values, len(values), seed)
        spread = float(values[:, 0].std(ddof=1)) if len(values) > 1 else None
        value = None if np.isnan(mean[0]) else float(mean[0])
        rows.append((arm, split, metric, value, *interval(mean), None if value is None else spread, len(values)))
    columns = ["arm", "split", "metric", "value", "ci_low", "ci_high", "seed_sd", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)
