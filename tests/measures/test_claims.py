"""Arms over seeds: paired by images and seeds, and as wide as both make them."""

import numpy as np
import pandas as pd
import pytest
from test_metrics import table

from csp_utils.base.errors import UserError
from csp_utils.measures import arms as claims
from csp_utils.measures.metrics import Protocol, compute


def said(share: float, seed: int, variant: str = "csp", n: int = 120) -> pd.DataFrame:
    """A model that says 90 / 10 rightly for a ``share`` of the questions, and the same for both of the others."""
    truth = np.random.default_rng(99).random(n) < 0.5
    knows = np.random.default_rng(seed).random(n) < share
    return table([(*((90, 10) if t else (10, 90)), "yes" if t else "no", i // 6, 0.5, "Yes") if k else
                  (95, 95, "yes" if t else "no", i // 6, 0.5, "Yes")
                  for i, (t, k) in enumerate(zip(truth, knows, strict=True))], variant)  # fmt: skip


def runs(shares: dict[str, list[float]]) -> dict[tuple[str, int], pd.DataFrame]:
    found = {("", 0): said(0, 0, "base")}
    for branch, values in shares.items():
        for seed, share in enumerate(values):
            found[branch, seed] = said(share, 10 * seed + len(branch))
    return found


def test_an_arm_of_one_seed_is_the_evaluation_itself() -> None:
    one = said(0.7, 3)
    of = claims.draws({("x", 0): one}, Protocol(), 40)
    ours = claims.table(of).set_index("metric")
    known = compute(one, Protocol(), 40)[0].set_index("metric").loc[list(claims.METRICS)]
    pd.testing.assert_frame_equal(ours[["value", "ci_low", "ci_high"]], known[["value", "ci_low", "ci_high"]],
                                  check_dtype=False)  # fmt: skip
    assert (ours["n_seeds"] == 1).all() and ours["seed_sd"].isna().all()


def test_differences_are_means_over_seeds_and_paired() -> None:
    of = claims.draws(runs({"csp": [0.8, 0.7, 0.75], "twin": [0.8, 0.7, 0.75]}), Protocol(), 300)
    values = of["csp", "pope_random", "acc"][:, 0]
    gain = claims.difference(of, "csp", "base", "pope_random", "acc")
    assert gain.value == pytest.approx(values.mean()) and gain.n_seeds == 3  # the base is always wrong
    assert (gain.seed_low, gain.seed_high) == (pytest.approx(values.min()), pytest.approx(values.max()))
    assert 0 < gain.ci_low < gain.value < gain.ci_high < 1 and gain.p < 0.01
    same = claims.difference(of | {("twin", *key[1:]): v for key, v in of.items() if key[0] == "csp"}, "twin", "csp",
                             "pope_random", "acc")  # fmt: skip
    assert same.value == same.ci_low == same.ci_high == 0 and same.p == 1  # seeds and images are the same on both sides


def test_the_interval_grows_with_the_spread_of_the_seeds() -> None:
    def width(shares: list[float]) -> float:
        of = claims.draws(runs({"csp": shares}), Protocol(), 400)
        found = claims.table(of).set_index(["arm", "metric"]).loc[("csp", "acc")]
        return found["ci_high"] - found["ci_low"]

    assert width([0.2, 0.5, 0.8]) > 2 * width([0.5, 0.5, 0.5])


def test_an_undefined_metric_stays_undefined() -> None:
    of = claims.draws(runs({"csp": [0.8, 0.7]}), Protocol(), 30)
    found = claims.difference(of, "csp", "base", "pope_random", "spearman")  # the base always says the same
    assert found.value is None and found.p is None and found.seed_low is None
    assert claims.table(of).set_index(["arm", "metric"])["value"].isna()["base", "spearman"]


def test_the_order_of_runs_does_not_matter() -> None:
    of = runs({"csp": [0.8, 0.7], "other": [0.5, 0.6]})
    one, two = (claims.table(claims.draws(dict(items), Protocol(), 50)) for items in (of.items(), [*of.items()][::-1]))
    order = ["arm", "metric"]
    pd.testing.assert_frame_equal(one.sort_values(order, ignore_index=True), two.sort_values(order, ignore_index=True))


def test_other_questions_or_other_seeds_are_refused() -> None:
    with pytest.raises(UserError, match="Branch csp, seed 1 was asked other questions of pope_random"):
        claims.draws({("csp", 0): said(0.5, 0), ("csp", 1): said(0.5, 1, n=60)}, Protocol(), 5)
    half = pd.concat([said(0.5, 1), said(0.5, 1).assign(split="pope_popular")])
    with pytest.raises(UserError, match=r"csp has the seeds \[0\] for pope_popular and \[0, 1\] for another split"):
        claims.draws({("csp", 0): half, ("csp", 1): said(0.5, 2)}, Protocol(), 5)
    of = claims.draws(runs({"two": [0.5, 0.6], "three": [0.5, 0.6, 0.7]}), Protocol(), 5)
    with pytest.raises(UserError, match="two has 2 seeds and another arm 3"):
        claims.difference(of, "three", "two", "pope_random", "acc")


def test_an_arm_is_compared_over_the_seeds_that_both_have() -> None:
    of = runs({"csp": [0.9, 0.8, 0.1], "few": [0.7, 0.6]})
    drawn, seeds = claims.draws(of, Protocol(), 20), claims.seeds_of(of)
    assert seeds == {"csp": [0, 1, 2], "few": [0, 1]}
    found = claims.differences(drawn, seeds, [("few", "csp"), ("csp", "base")]).set_index(["arm", "metric"])
    each = drawn["few", "pope_random", "acc"][:, 0] - drawn["csp", "pope_random", "acc"][:2, 0]
    assert found["value"]["few", "acc"] == pytest.approx(each.mean()) and found["n_seeds"]["few", "acc"] == 2
    assert found["n_seeds"]["csp", "acc"] == 3
    with pytest.raises(UserError, match="a and b have no training seed in common"):
        claims.common(drawn, {"a": [1], "b": [2]}, ["a", "b"])


def test_a_value_that_stands_for_an_undefined_one_is_taken_in_every_resample() -> None:
    of = {("csp", "s", "spearman"): np.array([[0.4, 0.5, np.nan]]), ("base", "s", "spearman"): np.full((1, 3), np.nan)}
    found = claims.combine(of, {"csp": 1, "base": -1}, "s", "spearman", undefined=0.0)
    assert found.value == 0.4 and found.ci_low == pytest.approx(0.0125) and found.ci_high == pytest.approx(0.4875)
    assert claims.combine(of, {"csp": 1, "base": -1}, "s", "spearman").value is None


def test_questions_are_split_anew_by_the_words_they_speak_of() -> None:
    rows = pd.concat([said(0.5, 1).assign(split=split) for split in ("pope_random", "pope_popular", "amber_relation")])
    rows["question"] = np.where(rows["question_id"].str[-1].isin(list("02468")), "Is there an ox?", "Are there Boxes?")
    found = claims.by_words({("csp", 1): rows}, ["ox"])["csp", 1]
    assert set(found["split"]) == {f"{b}, {w}" for b in ("pope", "amber") for w in ("left out", "others")}
    assert (found["split"].str.endswith("left out") == (found["question"] == "Is there an ox?")).all()
    pairs = rows[rows["split"] == "pope_random"].drop_duplicates(["image", "question", "candidate"])
    assert found["split"].str.startswith("pope").sum() == len(pairs)  # asked twice, counted once


def test_runs_are_read_by_their_names(tmp_path) -> None:
    from csp_utils.base.files import write_parquet
    from csp_utils.base.run import RunPaths

    write_parquet(pd.concat([said(0, 0, "base"), said(0.5, 1)]), RunPaths("m", tmp_path)["responses.parquet"])
    write_parquet(said(0.7, 2), RunPaths("m.csp.3", tmp_path)["responses.parquet"])
    found = claims.read_responses("m", 0, ["m.csp.3"], str(tmp_path))
    assert list(found) == [("", 0), ("csp", 0), ("csp", 3)] and set(found["", 0]["variant"]) == {"base"}
    with pytest.raises(UserError, match="Both m and m.csp.0 trained branch csp with seed 0"):
        claims.read_responses("m", 0, ["m.csp.0"], str(tmp_path))
    for name in ("other.csp.1", "m.csp", "m.csp.x"):
        with pytest.raises(UserError, match=f"{name} is no run of m"):
            claims.branch_of(name, "m")
    assert claims.read_stress("m", ["m.csp.3"], str(tmp_path)) is None
