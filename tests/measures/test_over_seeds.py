"""Arms over seeds: paired by images and seeds, and as wide as both make them."""

import numpy as np
import pandas as pd
import pytest
from known_answers import partly_right

from csp_utils.base.errors import UserError
from csp_utils.measures import arms, over_seeds
from csp_utils.measures.bootstrap import resamples
from csp_utils.measures.metrics import Protocol, compute


def runs(shares: dict[str, list[float]]) -> dict[tuple[str, int], pd.DataFrame]:
    found = {("", 0): partly_right(0, 0, "base")}
    for branch, values in shares.items():
        for seed, share in enumerate(values):
            found[branch, seed] = partly_right(share, 10 * seed + len(branch))
    return found


def seeds_of_images(of: over_seeds.Draws, arm: str) -> np.ndarray:
    return of[arm, "pope_random", "acc"].low[:, 0]


def test_the_base_is_the_evaluation_itself() -> None:
    one = partly_right(0.7, 3, "base")
    of = over_seeds.draws({("", 0): one}, Protocol(), 40)
    ours = over_seeds.table(of).set_index("metric")
    known = compute(one, Protocol(), 40)[0].set_index("metric").loc[list(over_seeds.METRICS)]
    pd.testing.assert_frame_equal(ours[["value", "ci_low", "ci_high"]], known[["value", "ci_low", "ci_high"]],
                                  check_dtype=False)  # fmt: skip
    assert (ours["n_seeds"] == 1).all() and ours["seed_sd"].isna().all()
    assert ours["reason"].isna().equals(ours["value"].notna())


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_seeds_have_values_but_no_interval_and_no_p(n: int) -> None:
    of = over_seeds.draws(runs({"csp": [0.8, 0.7, 0.75][:n]}), Protocol(), 40)
    found = over_seeds.difference(of, "csp", "base", "pope_random", "acc")
    assert found.value == pytest.approx(seeds_of_images(of, "csp").mean())
    assert (found.ci_low, found.ci_high, found.p) == (None, None, None)
    assert found.reason == f"an interval over trainings needs 3 seeds, here {n}"
    if n == 2:
        assert (found.seed_low, found.seed_high) == tuple(sorted(seeds_of_images(of, "csp")))
    table = over_seeds.table(of).set_index(["arm", "metric"])
    assert pd.isna(table["ci_low"]["csp", "acc"]) and "needs 3 seeds" in table["reason"]["csp", "acc"]
    assert table["ci_low"].notna()["base", "acc"] and table["ci_low"].dtype == float


def without_gain(n_seeds: int, seed_sd: float, rng: np.random.Generator) -> over_seeds.Draws:
    """Draw base and csp, equally good, on 80 images and 200 resamples of them, with noise of each training."""
    n = 80
    image = rng.normal(0, 0.25, n)  # how hard an image is for every model
    models = np.vstack([image + rng.normal(0, 0.25, n),
                        *(image + rng.normal(0, 0.25, n) + rng.normal(0, seed_sd) for _ in range(n_seeds))])
    weights = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), 200)]) / n
    values = models @ weights.T
    return {(arm, "s", "acc"): resamples("acc", own, n) for arm, own in (("base", values[:1]), ("csp", values[1:]))}


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize("seed_sd", [0.0, 0.02, 0.2, 1.0])
def test_intervals_over_seeds_contain_a_gain_of_0(n_seeds: int, seed_sd: float) -> None:
    """Image noise alone; seed noise half of, five times and thirty times the image noise."""
    rng = np.random.default_rng(n_seeds)
    found = [over_seeds.difference(without_gain(n_seeds, seed_sd, rng), "csp", "base", "s", "acc")
             for _ in range(1000)]  # fmt: skip
    held = np.mean([one.ci_low <= 0 <= one.ci_high for one in found])
    print(f"{n_seeds} seeds, seed noise {seed_sd}: {100 * held:.1f} % of intervals contain the truth")
    assert 0.93 <= held <= 0.98  # 1000 repeats: a standard error is 0.7 %
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(1 - held, abs=1e-9)


def test_differences_are_means_over_seeds_and_paired() -> None:
    of = over_seeds.draws(runs({"csp": [0.8, 0.7, 0.75], "twin": [0.8, 0.7, 0.75]}), Protocol(), 300)
    values = seeds_of_images(of, "csp")
    gain = over_seeds.difference(of, "csp", "base", "pope_random", "acc")
    assert gain.value == pytest.approx(values.mean()) and gain.n_seeds == 3  # the base is always wrong
    assert (gain.seed_low, gain.seed_high) == (pytest.approx(values.min()), pytest.approx(values.max()))
    assert 0 < gain.ci_low < gain.value < gain.ci_high < 1.1 and gain.p < 0.01 and gain.reason is None
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
    of = over_seeds.draws(runs({"csp": [0.8, 0.7, 0.75]}), Protocol(), 30)
    found = over_seeds.combine(of, {"csp": 1, "base": -1}, "pope_random", "auc")
    assert found.value is not None
    found = over_seeds.combine(of, {"csp": 1, "base": -1}, "pope_random", "spearman")  # the base always says the same
    assert found.value is None and found.p is None and found.seed_low is None and "undefined" in found.reason
    assert over_seeds.table(of).set_index(["arm", "metric"])["value"].isna()["base", "spearman"]


def test_the_order_of_runs_does_not_matter() -> None:
    of = runs({"csp": [0.8, 0.7], "other": [0.5, 0.6]})
    one, two = (over_seeds.table(over_seeds.draws(dict(items), Protocol(), 50))
                for items in (of.items(), [*of.items()][::-1]))  # fmt: skip
    order = ["arm", "metric"]
    pd.testing.assert_frame_equal(one.sort_values(order, ignore_index=True), two.sort_values(order, ignore_index=True))


def test_other_questions_or_other_seeds_are_refused() -> None:
    with pytest.raises(UserError, match="Branch csp, seed 1 was asked different questions of pope_random"):
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
    each = seeds_of_images(draws, "few") - seeds_of_images(draws, "csp")[:2]
    assert found["value"]["few", "acc"] == pytest.approx(each.mean()) and found["n_seeds"]["few", "acc"] == 2
    assert found["n_seeds"]["csp", "acc"] == 3
    with pytest.raises(UserError, match="a and b have no training seed in common"):
        over_seeds.with_shared_seeds(draws, {"a": [1], "b": [2]}, ["a", "b"])


def test_a_constant_confidence_counts_as_a_correlation_of_0_in_comparisons() -> None:
    rows = np.array([[0.4, 0.5, np.nan, 0.3], [0.5, 0.4, 0.5, 0.2], [0.6, 0.6, 0.5, 0.7]])
    of = {("csp", "s", "spearman"): resamples("spearman", rows, 50),
          ("base", "s", "spearman"): resamples("spearman", np.full((1, 4), np.nan), 50)}  # fmt: skip
    found = over_seeds.difference(of, "csp", "base", "s", "spearman")
    assert found.value == pytest.approx(0.5) and found.ci_low < 0.5 < found.ci_high
    assert over_seeds.combine(of, {"csp": 1, "base": -1}, "s", "spearman").value is None


@pytest.mark.parametrize(("column", "change"), [
    ("image", lambda t: "other-" + t["image"]), ("question", lambda t: t["question"] + "!"),
    ("label", lambda t: 1 - t["label"]),
])  # fmt: skip
def test_other_data_under_the_same_ids_are_refused(column: str, change) -> None:
    one, two = partly_right(0.5, 0), partly_right(0.5, 1)
    other = two.assign(**{column: change(two)})
    assert (one["question_id"] == other["question_id"]).all()
    with pytest.raises(UserError, match="was asked different questions of pope_random"):
        over_seeds.draws({("csp", 0): one, ("csp", 1): other}, Protocol(), 5)
    with pytest.raises(UserError, match="Variant csp of tiny was asked different questions of pope_random"):
        compute(pd.concat([one.assign(variant="base"), other]), Protocol(), 5)
    renamed = two.assign(question_id="x" + two["question_id"])  # ids are only names
    assert over_seeds.draws({("csp", 0): one, ("csp", 1): renamed}, Protocol(), 5)


def test_a_table_that_breaks_the_contract_is_refused() -> None:
    with pytest.raises(UserError, match="not a whole percent"):
        over_seeds.draws({("csp", 0): partly_right(0.5, 0).assign(verbalized=101)}, Protocol(), 5)
