"""Arms over seeds: paired by images and seeds, and as wide as both make them."""

import numpy as np
import pandas as pd
import pytest
from known_answers import partly_right

from csp_utils.base.errors import UserError
from csp_utils.measures import arms, over_seeds
from csp_utils.measures.metrics import Protocol, compute


def runs(shares: dict[str, list[float]]) -> dict[tuple[str, int], pd.DataFrame]:
    found = {("", 0): partly_right(0, 0, "base")}
    for branch, values in shares.items():
        for seed, share in enumerate(values):
            found[branch, seed] = partly_right(share, 10 * seed + len(branch))
    return found


def test_an_arm_of_one_seed_is_the_evaluation_itself() -> None:
    one = partly_right(0.7, 3)
    of = over_seeds.draws({("x", 0): one}, Protocol(), 40)
    ours = over_seeds.table(of).set_index("metric")
    known = compute(one, Protocol(), 40)[0].set_index("metric").loc[list(over_seeds.METRICS)]
    pd.testing.assert_frame_equal(ours[["value", "ci_low", "ci_high"]], known[["value", "ci_low", "ci_high"]],
                                  check_dtype=False)  # fmt: skip
    assert (ours["n_seeds"] == 1).all() and ours["seed_sd"].isna().all()


def test_differences_are_means_over_seeds_and_paired() -> None:
    of = over_seeds.draws(runs({"csp": [0.8, 0.7, 0.75], "twin": [0.8, 0.7, 0.75]}), Protocol(), 300)
    values = of["csp", "pope_random", "acc"][:, 0]
    gain = over_seeds.difference(of, "csp", "base", "pope_random", "acc")
    assert gain.value == pytest.approx(values.mean()) and gain.n_seeds == 3  # the base is always wrong
    assert (gain.seed_low, gain.seed_high) == (pytest.approx(values.min()), pytest.approx(values.max()))
    assert 0 < gain.ci_low < gain.value < gain.ci_high < 1 and gain.p < 0.01
    twins = of | {("twin", *key[1:]): v for key, v in of.items() if key[0] == "csp"}
    same = over_seeds.difference(twins, "twin", "csp", "pope_random", "acc")
    assert same.value == same.ci_low == same.ci_high == 0 and same.p == 1  # seeds and images are the same on both sides


def test_the_interval_grows_with_the_spread_of_the_seeds() -> None:
    def width(shares: list[float]) -> float:
        of = over_seeds.draws(runs({"csp": shares}), Protocol(), 400)
        found = over_seeds.table(of).set_index(["arm", "metric"]).loc[("csp", "acc")]
        return found["ci_high"] - found["ci_low"]

    assert width([0.2, 0.5, 0.8]) > 2 * width([0.5, 0.5, 0.5])


def test_an_undefined_metric_stays_undefined() -> None:
    of = over_seeds.draws(runs({"csp": [0.8, 0.7]}), Protocol(), 30)
    found = over_seeds.difference(of, "csp", "base", "pope_random", "spearman")  # the base always says the same
    assert found.value is None and found.p is None and found.seed_low is None
    assert over_seeds.table(of).set_index(["arm", "metric"])["value"].isna()["base", "spearman"]


def test_the_order_of_runs_does_not_matter() -> None:
    of = runs({"csp": [0.8, 0.7], "other": [0.5, 0.6]})
    one, two = (over_seeds.table(over_seeds.draws(dict(items), Protocol(), 50))
                for items in (of.items(), [*of.items()][::-1]))  # fmt: skip
    order = ["arm", "metric"]
    pd.testing.assert_frame_equal(one.sort_values(order, ignore_index=True), two.sort_values(order, ignore_index=True))


def test_other_questions_or_other_seeds_are_refused() -> None:
    with pytest.raises(UserError, match="Branch csp, seed 1 was asked other questions of pope_random"):
        over_seeds.draws({("csp", 0): partly_right(0.5, 0), ("csp", 1): partly_right(0.5, 1, n=60)}, Protocol(), 5)
    half = pd.concat([partly_right(0.5, 1), partly_right(0.5, 1).assign(split="pope_popular")])
    with pytest.raises(UserError, match=r"csp has the seeds \[0\] for pope_popular and \[0, 1\] for another split"):
        over_seeds.draws({("csp", 0): half, ("csp", 1): partly_right(0.5, 2)}, Protocol(), 5)
    of = over_seeds.draws(runs({"two": [0.5, 0.6], "three": [0.5, 0.6, 0.7]}), Protocol(), 5)
    with pytest.raises(UserError, match="two has 2 seeds and another arm 3"):
        over_seeds.difference(of, "three", "two", "pope_random", "acc")


def test_an_arm_is_compared_over_the_seeds_that_both_have() -> None:
    of = runs({"csp": [0.9, 0.8, 0.1], "few": [0.7, 0.6]})
    draws, seeds = over_seeds.draws(of, Protocol(), 20), arms.seeds_of(of)
    assert seeds == {"csp": [0, 1, 2], "few": [0, 1]}
    found = over_seeds.differences(draws, seeds, [("few", "csp"), ("csp", "base")]).set_index(["arm", "metric"])
    each = draws["few", "pope_random", "acc"][:, 0] - draws["csp", "pope_random", "acc"][:2, 0]
    assert found["value"]["few", "acc"] == pytest.approx(each.mean()) and found["n_seeds"]["few", "acc"] == 2
    assert found["n_seeds"]["csp", "acc"] == 3
    with pytest.raises(UserError, match="a and b have no training seed in common"):
        over_seeds.with_shared_seeds(draws, {"a": [1], "b": [2]}, ["a", "b"])


def test_a_value_that_stands_for_an_undefined_one_is_taken_in_every_resample() -> None:
    of = {("csp", "s", "spearman"): np.array([[0.4, 0.5, np.nan]]), ("base", "s", "spearman"): np.full((1, 3), np.nan)}
    found = over_seeds.combine(of, {"csp": 1, "base": -1}, "s", "spearman", undefined=0.0)
    assert found.value == 0.4 and found.ci_low == pytest.approx(0.0125) and found.ci_high == pytest.approx(0.4875)
    assert over_seeds.combine(of, {"csp": 1, "base": -1}, "s", "spearman").value is None
