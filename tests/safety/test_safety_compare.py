"""Differences between arms, cost curves, thresholds and halves."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safety_sets import many, official_folder
from scipy.stats import binomtest

from csp_utils.base.errors import UserError
from csp_utils.measures import over_seeds
from csp_utils.measures.bootstrap import estimate
from csp_utils.safety import rates
from csp_utils.safety.compare import COMPARED, differences, mcnemar, over_trainings
from csp_utils.safety.costs import (
    ALWAYS,
    NEVER,
    cost_curves,
    declined_by_threshold,
    fit_threshold,
    probability_cost,
    threshold_curve,
)
from csp_utils.safety.halves import cross_fitted, group_halves, leaks
from csp_utils.safety.sets.items import Items
from csp_utils.safety.sets.vscbench import read_vscbench

PAIRS = [("none", "system")]
both_sides = st.lists(st.sampled_from("RWAI"), min_size=4, max_size=12).map("".join)


def arms(none, system, **key):
    return pd.concat([many(*none, **key), many(*system, strategy="system", **key)])


# --------------------------------------------------------------------------------------------------------- differences


def test_a_difference_is_that_of_the_same_resamples_and_its_p_value_holms():
    rows = pd.concat([arms(("RRAA", "RRAA"), ("AAAA", "RRRA")), many("RRRR", "RRRR", strategy="shy")])
    found = differences(rows, [("none", "system"), ("none", "shy")], 200, 3).set_index(["second", "measure"])
    one = found.loc[("system", "sra")]
    assert one["diff"] == pytest.approx((1 + 0.75) / 2 - (0.5 + 0.5) / 2)
    first, second = (rates.measure(rows[rows["strategy"] == name], rates.resampled_groups(rows["group"], 200, 3))["sra"]
                     for name in ("none", "system"))  # fmt: skip
    expected = estimate(first._replace(low=second.low - first.low, high=second.high - first.high))
    assert one[["diff", "ci_low", "ci_high", "p"]].tolist() == pytest.approx(list(expected))
    # Holm over the two pairs, for each measure apart: the smaller is doubled, the larger at least that.
    for measure in COMPARED:
        own = found.xs(measure, level="measure")
        if own["p"].notna().all():
            low, high = sorted(own["p"])
            assert sorted(own["p_holm"]) == pytest.approx(sorted([min(1, 2 * low), max(min(1, 2 * low), high)]))
    assert set(found["n_tests"]) == {2}


def test_only_replies_with_a_verdict_of_both_count():
    found = differences(arms(("RA-A", "RRRR"), ("AAA-", "RRR-")), PAIRS, 0, 0).set_index("measure")
    assert set(found["n"]) == {5} and set(found["left_out"]) == {3}
    assert found.loc["sra_safe", "diff"] == 0.5 and found.loc["sra_unsafe", "diff"] == 0
    nothing = differences(arms(("--", "--"), ("AA", "RR")), PAIRS, 10, 0)
    assert nothing["diff"].isna().all() and set(nothing["n"]) == {0} and nothing["p_holm"].isna().all()


@given(both_sides, both_sides)
@settings(max_examples=20, deadline=None)
def test_an_arm_does_not_differ_from_itself_and_the_other_way_round_is_the_negative(safe, unsafe):
    same = differences(arms((safe, unsafe), (safe, unsafe)), PAIRS, 30, 0)
    assert np.allclose(same["diff"].dropna(), 0) and (same["p"].dropna() == 1).all()
    flipped = (safe[::-1], unsafe[::-1])
    there = differences(arms((safe, unsafe), flipped), PAIRS, 30, 0)
    back = differences(arms((safe, unsafe), flipped), [PAIRS[0][::-1]], 30, 0)
    assert np.allclose(there["diff"], -back["diff"], equal_nan=True)
    assert np.allclose(there["ci_low"], -back["ci_high"], equal_nan=True)


def test_what_is_compared_must_be_the_only_difference():
    rows = pd.concat([many("A", "R"), many("A", "R", judge="other", strategy="system")])
    with pytest.raises(UserError, match=r"differ in judge, too \(rules, other\); take one of them"):
        differences(rows, PAIRS, 0, 0)
    with pytest.raises(UserError, match="no strategy 'system' to compare; there are 'none'"):
        differences(many("A", "R"), PAIRS, 0, 0)


def test_mcnemar_counts_the_replies_that_one_arm_alone_has_right():
    found = mcnemar(arms(("AAARR", "RAAAA"), ("RAAAA", "RRRRR")), PAIRS).set_index("label")
    assert found.loc["safe", ["only_first_right", "only_second_right", "n"]].tolist() == [1, 2, 5]
    assert found.loc["unsafe", ["only_first_right", "only_second_right"]].tolist() == [0, 4]
    assert found.loc["unsafe", "p"] == binomtest(0, 4).pvalue == 0.125
    assert mcnemar(arms(("AA", "RR"), ("AA", "RR")), PAIRS)["p"].tolist() == [1, 1]


def test_trained_arms_go_into_the_intervals_over_seeds():
    runs = {("base", 0): many("R" * 6, "R" * 6)} | {
        ("sft", seed): many("A" * (3 + seed) + "R" * (3 - seed), "R" * 6, strategy="sft") for seed in (0, 1, 2)}
    draws, left_out = over_trainings(runs, 100, 0)
    assert left_out == 0 and len(draws["sft", "all", "sra"].low) == 3
    found = over_seeds.difference(draws, "sft", "base", "all", "sra_safe")
    assert found.value == pytest.approx(np.mean([3, 4, 5]) / 6) and found.n_seeds == 3 and found.ci_low is not None
    assert (found.seed_low, found.seed_high) == pytest.approx((3 / 6, 5 / 6))
    assert draws["base", "image", "sra"].low[0, 0] == 0.5
    with pytest.raises(UserError, match="no reply on which all runs have a verdict"):
        over_trainings({("base", 0): many("A", "R"), ("sft", 1): many("-", "-")}, 10, 0)


# ---------------------------------------------------------------------------------------------------------- cost curves


def test_the_cost_of_a_strategy_is_a_straight_line_between_its_two_errors():
    table = cost_curves(arms(("RAAA", "RRAA"), ("RRAA", "RRRR")), 50, 0, points=5)
    lines = table.pivot(index="x", columns="strategy", values="cost")
    assert lines["none"].tolist() == pytest.approx([0.25, 0.3125, 0.375, 0.4375, 0.5])
    assert lines["system"].tolist() == pytest.approx([0.5, 0.375, 0.25, 0.125, 0])
    assert lines[ALWAYS].tolist() == [1, 0.75, 0.5, 0.25, 0] and lines[NEVER].tolist() == [0, 0.25, 0.5, 0.75, 1]
    best = table[table["best"]].groupby("x")["strategy"].apply(set).tolist()
    assert best == [{NEVER}, {NEVER}, {"system"}, {"system"}, {"system", ALWAYS}]
    own = table[table["strategy"] == "none"]
    assert (own["ci_low"] <= own["cost"]).all() and (own["cost"] <= own["ci_high"]).all()
    with pytest.raises(UserError, match="none has no verdict on unsafe items"):
        cost_curves(many("AA", "--"), 0, 0)


def test_the_place_of_a_price_on_the_axis():
    assert probability_cost(1) == 0.5 and probability_cost(3) == 0.75
    assert probability_cost(9, unsafe_share=0.1) == pytest.approx(0.5)
    for wrong in ((0, 0.5), (1, 0), (1, 1)):
        with pytest.raises(UserError, match="A price ratio is above 0"):
            probability_cost(*wrong)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=20), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_no_other_threshold_costs_less_than_the_fitted_one(items, x):
    score, unsafe = np.array([one for one, _ in items]) / 5, np.array([label for _, label in items])
    if unsafe.all() or not unsafe.any():
        with pytest.raises(UserError, match="fitted on safe and unsafe items"):
            fit_threshold(score, unsafe, x)
        return

    def cost(threshold):
        no = score > threshold
        return x * (~no[unsafe]).mean() + (1 - x) * no[~unsafe].mean()

    fitted = cost(fit_threshold(score, unsafe, x))
    assert all(fitted <= cost(other) + 1e-9 for other in (-1, *np.arange(-1, 11) / 10 + 0.05, 2))


def test_a_threshold_is_never_scored_on_the_half_on_which_it_was_fitted():
    rows = many("A" * 4, "A" * 4)
    half = pd.Series({name: int(name[-1]) % 2 for name in rows["item_id"]})
    # Half 0 has its safe items below 0.35 and its unsafe ones above; half 1 below and above 0.75.
    low, high = {"safe": 0.3, "unsafe": 0.4}, {"safe": 0.7, "unsafe": 0.8}
    rows["p_declined"] = [(high if half[item] else low)[label]
                          for item, label in zip(rows["item_id"], rows["label"], strict=True)]
    no = declined_by_threshold(rows, half, 0.5)
    assert (no[rows["item_id"].map(half) == 1] == 1).all()  # fitted on half 0, everything of half 1 is above
    assert (no[rows["item_id"].map(half) == 0] == 0).all()
    rows.loc[rows.index[0], "p_declined"] = np.nan
    assert pd.isna(declined_by_threshold(rows, half, 0.5).iloc[0])


def test_the_threshold_curve_goes_from_declining_all_to_declining_none():
    rows = many("AA", "AA").assign(p_declined=[0.1, 0.5, 0.5, 0.9])
    found = threshold_curve(rows)
    assert found["missed"].tolist() == [0, 0, 0.5, 1] and found["needless"].tolist() == [1, 0.5, 0, 0]


# --------------------------------------------------------------------------------------------------------------- halves


def test_halves_are_made_of_whole_groups_by_the_seed_and_never_by_order(tmp_path):
    items = read_vscbench(official_folder(tmp_path))
    half = group_halves(items, 5)
    groups = items.table["item_id"].map(half).groupby(items.table["group"])
    assert (groups.nunique() == 1).all() and sorted(groups.first().value_counts()) == [5, 5]
    shuffled = Items(items.table.sample(frac=1, random_state=0), items.dropped)
    assert group_halves(shuffled, 5).sort_index().equals(half.sort_index())
    assert any(not group_halves(items, seed).equals(half) for seed in range(3))
    found = leaks(items, half).set_index("what")
    assert found.loc["groups", "n"] == found.loc["pairs", "n"] == 0
    # The ten rows of the text side share one sentence for figstep, and it stands in both halves.
    assert found.loc["texts", "n"] == 1 and found.loc["pictures", "n"] == 0
    one = Items(items.table.head(6), items.dropped)
    with pytest.raises(UserError, match="has a single group"):
        group_halves(one, 0)


def test_what_is_applied_to_a_half_was_fitted_on_the_other():
    rows = many("AAAA", "RRRR")
    half = pd.Series({name: int(name[-1]) % 2 for name in rows["item_id"]})
    seen = cross_fitted(rows, half, lambda own: set(own["item_id"]),
                        lambda fitted, own: own["item_id"].map(lambda name: name in fitted))  # fmt: skip
    assert not seen.any() and seen.index.equals(rows.index)
    with pytest.raises(UserError, match="safe3 is in neither half"):
        cross_fitted(rows, half.drop("safe3"), len, lambda *_: None)
    with pytest.raises(UserError, match="One half of the set has no rows"):
        cross_fitted(rows, half * 0, len, lambda _, own: own["label"])
