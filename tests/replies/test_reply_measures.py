"""measure(): its numbers by hand and against other libraries, its intervals, and a sentence for everything wrong."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import relplot
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from csp_utils import measure
from csp_utils.base.errors import UserError
from csp_utils.measures.counts import Protocol
from csp_utils.replies.measure import MEASURES, NO_GROUPS, Measured

FEW = {"n_bootstrap": 40}


def drawn(n: int, seed: int = 0, whole: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences 0.02..0.98, whether they are right (10 points less often), and groups of four rows."""
    rng = np.random.default_rng(seed)
    p = np.clip(rng.normal(0.75, 0.15, n), 0.02, 0.98)
    p = np.round(p, 2) if whole else p
    return p, rng.random(n) < p - 0.1, np.arange(n) // 4


def row(found: Measured, name: str) -> pd.Series:
    return found.measures.set_index("metric").loc[name]


# ------------------------------------------------------------------------------------------------------ numbers by hand


def test_numbers_by_hand() -> None:
    """Five answers: 90 % right, 90 % wrong, 60 % right, 60 % wrong, 20 % wrong."""
    found = measure([0.9, 0.9, 0.6, 0.6, 0.2], [1, 0, 1, 0, 0], **FEW)
    assert found["acc"] == pytest.approx(2 / 5)
    assert found["brier"] == pytest.approx((0.01 + 0.81 + 0.16 + 0.36 + 0.04) / 5)
    # bins (80, 90], (50, 60], (10, 20]: gaps 2 * 0.9 - 1, 2 * 0.6 - 1, 0.2 - 0
    assert found["ece"] == pytest.approx((0.8 + 0.2 + 0.2) / 5)
    assert found["signed_error"] == pytest.approx(3.2 / 5 - 2 / 5)
    # right 90 beats 60 and 20, ties with 90; right 60 beats 20, ties with 60, loses to 90
    assert found["auc"] == pytest.approx((2 + 0.5 + 1 + 0.5) / 6)
    assert found["mce"] == pytest.approx(0.4)
    bins = found.reliability.set_index("bin")
    assert bins["n"].to_dict() == {0: 0, 1: 1, 2: 0, 3: 0, 4: 0, 5: 2, 6: 0, 7: 0, 8: 2, 9: 0}
    assert bins.loc[8, "accuracy"] == 0.5 and bins.loc[8, "confidence"] == pytest.approx(0.9)
    # the surest 40 % are the two at 90: one is wrong; of all five, three are
    risk = found.risk_coverage.set_index(found.risk_coverage["coverage"].round(2))["risk"]
    assert risk[0.4] == pytest.approx(0.5) and risk[1.0] == pytest.approx(0.6)
    assert list(found.measures["metric"]) == list(MEASURES)


def test_percents_probabilities_lists_arrays_and_series_are_the_same() -> None:
    p, y, groups = drawn(60)
    first = measure(p, y, groups, **FEW)
    for other in (
        measure([round(100 * value) for value in p], y.astype(int).tolist(), groups.tolist(), **FEW),
        measure(pd.Series(p), pd.Series(np.where(y, "right", "wrong")), [f"image {g:02d}" for g in groups], **FEW),
        measure(p, y.astype(float), groups, "probability", **FEW),
        measure(pd.Series(np.round(100 * p)).astype("Int64"), pd.Series(y, dtype="boolean"), groups, "percent", **FEW),
    ):
        np.testing.assert_allclose(first.measures["value"], other.measures["value"])
        np.testing.assert_allclose(first.reliability["accuracy"], other.reliability["accuracy"])


def test_the_edge_of_a_bin_goes_where_the_protocol_says() -> None:
    bins = [measure([0.3, 0.3], [1, 0], protocol=Protocol(ece_edges=edge), **FEW).reliability
            for edge in ("right", "left")]  # fmt: skip
    assert [int(np.flatnonzero(own["n"])[0]) for own in bins] == [2, 3]


# ------------------------------------------------------------------------------------------------------ other libraries


@pytest.mark.parametrize("seed", range(4))
def test_other_libraries_find_the_same_in_the_same_csv(tmp_path: Any, seed: int) -> None:
    p, y, _ = drawn(800, seed)
    pd.DataFrame({"confidence": p, "correct": y.astype(int)}).to_csv(tmp_path / "a.csv", index=False)
    table = pd.read_csv(tmp_path / "a.csv")
    p, y = table["confidence"].to_numpy(), table["correct"].to_numpy()
    found = measure(table["confidence"], table["correct"], **FEW)
    assert found["brier"] == pytest.approx(sk.brier_score_loss(y, p), abs=1e-12)
    assert found["auc"] == pytest.approx(sk.roc_auc_score(y, p), abs=1e-12)
    assert found["auprc_right"] == pytest.approx(sk.average_precision_score(y, p), abs=1e-12)
    assert found["auprc_wrong"] == pytest.approx(sk.average_precision_score(1 - y, 1 - p), abs=1e-12)
    assert found["acc"] == y.mean()
    assert found["log_score"] == pytest.approx(sk.log_loss(y, p), abs=1e-12)  # no confidence needs to be clipped
    assert found["smece"] == pytest.approx(relplot.smECE(p, y.astype(float)), abs=1e-3)


@pytest.mark.slow
def test_netcal_finds_the_same_ece_and_mce() -> None:
    from netcal.metrics.confidence import ECE, MCE

    rng = np.random.default_rng(0)
    p = rng.integers(1, 100, 500)
    p = p[p % 10 != 0] / 100  # on an edge netcal's floating-point bins decide otherwise
    y = (rng.random(len(p)) < p**2).astype(int)
    found = measure(p, y, **FEW)
    assert found["ece"] == pytest.approx(ECE(10).measure(p, y), abs=1e-9)
    assert found["mce"] == pytest.approx(MCE(10).measure(p, y), abs=1e-9)


def test_fractions_of_a_percent_keep_their_order_and_the_rounding_is_said() -> None:
    p, y, _ = drawn(500, whole=False)
    found = measure(p, y, **FEW)
    assert found["auc"] == pytest.approx(sk.roc_auc_score(y, p), abs=1e-12)
    (note,) = [one for one in found.notes if "nearest whole percent" in one]
    moved = found["brier"] - sk.brier_score_loss(y, p)
    assert 0 < abs(moved) < 1e-3 and f"{abs(moved):.6f}" in note
    assert note.startswith(f"{int((np.abs(100 * p - np.round(100 * p)) > 1e-9).sum())} of 500 confidences")


# ------------------------------------------------------------------------------------------------------------ intervals


def test_without_groups_the_note_says_so_and_with_groups_it_does_not() -> None:
    p, y, groups = drawn(200)
    assert NO_GROUPS in measure(p, y, **FEW).notes
    found = measure(p, y, groups, **FEW)
    assert NO_GROUPS not in found.notes and found.counts.set_index("what")["n"]["groups"] == 50


def test_equal_rows_of_a_group_add_nothing_to_what_is_known() -> None:
    """Each row repeated nine times in its group: the interval is as wide as before; without groups a third of it."""
    p, y, _ = drawn(120)
    one = row(measure(p, y, np.arange(120), n_bootstrap=400), "brier")
    nine = np.repeat(np.arange(120), 9)
    grouped = row(measure(p[nine], y[nine], nine, n_bootstrap=400), "brier")
    assert (grouped["ci_low"], grouped["ci_high"]) == pytest.approx((one["ci_low"], one["ci_high"]))
    single = row(measure(p[nine], y[nine], n_bootstrap=400), "brier")
    ratio = (single["ci_high"] - single["ci_low"]) / (one["ci_high"] - one["ci_low"])
    assert 0.25 < ratio < 0.45


@pytest.mark.slow
def test_the_interval_of_the_accuracy_contains_the_truth_as_often_as_it_says() -> None:
    hits, n = 0, 200
    for seed in range(n):
        rng = np.random.default_rng(seed)
        group = np.repeat(rng.beta(3, 1, 60), 3)  # three answers of an image are right equally often
        y = rng.random(180) < group
        own = row(measure(np.full(180, 0.8), y, np.arange(180) // 3, n_bootstrap=200), "acc")
        hits += own["ci_low"] <= 0.75 <= own["ci_high"]
    assert 0.90 <= hits / n <= 0.99


def test_one_group_has_no_interval_and_says_why() -> None:
    found = measure([0.9, 0.6, 0.7], [1, 0, 1], ["a"] * 3, **FEW)
    assert found.measures[["ci_low", "ci_high"]].isna().all(axis=None)
    assert "one group" in row(found, "acc")["reason"] and any("only 1 group" in note for note in found.notes)


def test_a_share_of_one_has_the_exact_binomial_bound_and_not_a_point() -> None:
    """Twenty right answers out of twenty: the rule of three says at least 83.2 % (0.025 ** (1 / 20))."""
    found = measure([0.9] * 20, [1] * 20, **FEW)
    own = row(found, "acc")
    assert (own["ci_low"], own["ci_high"]) == (pytest.approx(0.025 ** (1 / 20)), 1.0)
    filled = found.reliability.set_index("bin").loc[8]
    assert filled["ci_low"] == pytest.approx(0.025 ** (1 / 20)) and filled["ci_high"] == 1.0
    halves = measure([0.9] * 20, [1] * 20, np.arange(20) // 2, **FEW)  # ten groups know less than twenty
    assert row(halves, "acc")["ci_low"] == pytest.approx(0.025 ** (1 / 10))


def test_few_sure_answers_do_not_look_sure_because_all_of_them_are_right() -> None:
    """Of twenty rows the surest 10 % are two. If both are right, the error is 0, and at most 1 - 0.025 ** 0.5."""
    found = measure([0.9, 0.9] + [0.5] * 18, [1, 1] + [1, 0] * 9, **FEW).risk_coverage
    first = found[np.isclose(found["coverage"], 0.1)].iloc[0]
    assert first["risk"] == 0 and first["ci_high"] >= 1 - 0.025**0.5 - 1e-9
    lone = found[np.isclose(found["coverage"], 0.05)].iloc[0]
    assert lone["ci_high"] == pytest.approx(0.975)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100), st.booleans(), st.integers(0, 5)), min_size=2, max_size=40),
       st.randoms(use_true_random=False))  # fmt: skip
def test_the_order_of_the_rows_does_not_matter(rows: list[tuple[int, bool, int]], random: Any) -> None:
    mixed = rows.copy()
    random.shuffle(mixed)
    for with_groups in (True, False):
        one, other = (measure([p for p, _, _ in own], [y for _, y, _ in own],
                              [g for _, _, g in own] if with_groups else None, "percent", **FEW)
                      for own in (rows, mixed))  # fmt: skip
        pd.testing.assert_frame_equal(one.measures, other.measures)
        pd.testing.assert_frame_equal(one.risk_coverage, other.risk_coverage)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=2, max_size=60))
def test_invariants_of_the_tables(rows: list[tuple[int, bool]]) -> None:
    found = measure([p for p, _ in rows], [y for _, y in rows], scale="percent", **FEW)
    bins = found.reliability
    assert bins["n"].sum() == len(rows)
    gap = (bins["n"] * (bins["confidence"] - bins["accuracy"])).abs().sum() / len(rows)
    assert found["ece"] == pytest.approx(gap) == pytest.approx(found["overconfidence"] + found["underconfidence"])
    assert found["signed_error"] == pytest.approx(found["overconfidence"] - found["underconfidence"])
    assert found.risk_coverage["risk"].iloc[-1] == pytest.approx(1 - found["acc"])
    known = found.measures.dropna(subset=["ci_low", "ci_high"])
    assert (known["ci_low"] <= known["ci_high"]).all()
    assert found.measures.loc[found.measures["value"].isna() | found.measures["ci_low"].isna(), "reason"].notna().all()


# ------------------------------------------------------------------------------------------------- missing, counted


def test_missing_values_are_counted_and_their_accuracy_is_said() -> None:
    """Four rows without a confidence, one of them right; one row of unknown correctness."""
    p = [0.9, 0.8, None, float("nan"), pd.NA, None, 0.7]
    y = [1, 0, 1, 0, 0, False, None]
    found = measure(p, y, **FEW)
    counts = found.counts.set_index("what")["n"]
    assert counts.to_dict() == {"rows": 7, "rows without a confidence": 4, "rows with both": 2,
                                "rows of unknown correctness, left out of everything": 1}  # fmt: skip
    assert found["parse_failure_rate"] == pytest.approx(4 / 6) and found["acc"] == pytest.approx(2 / 6)
    assert found["brier"] == pytest.approx((0.01 + 0.64) / 2)
    assert row(found, "acc")["n"] == 6 and row(found, "brier")["n"] == 2
    (note,) = [one for one in found.notes if "no confidence" in one]
    assert note.startswith("4 of 6 rows") and "25 %" in note and "50 %" in note


def test_one_class_has_no_auc_and_says_so() -> None:
    found = measure([0.9, 0.8, 0.7], [1, 1, 1], **FEW)
    assert found["auc"] is None and found["ece"] == pytest.approx(0.2)
    assert "all answers" in row(found, "auc")["reason"]
    assert any(note.startswith("All answers with a confidence are right") for note in found.notes)
    assert "undefined" in str(found)


# ---------------------------------------------------------------------------------------------------------- refusals


WRONG: list[tuple[str, Callable[[], Any], str]] = [
    ("mixed scales", lambda: measure([0.9, 85, 70], [1, 0, 1]),
     "confidence is 0.9 in row 1 and 85 in row 2, so 0..1 and percent are mixed"),
    ("above 100", lambda: measure([90, 185], [1, 0]), "confidence is 185 in row 2; a confidence lies in 0..1, or in"),
    ("below 0", lambda: measure([0.5, -0.1], [1, 0]), "confidence is -0.1 in row 2"),
    ("infinite", lambda: measure([0.5, float("inf")], [1, 0]), "confidence is inf in row 2"),
    ("another scale", lambda: measure([0.5, 50], [1, 0], scale="probability"), "the scale is probability"),
    ("no such scale", lambda: measure([0.5], [1], scale="percents"), "did you mean 'percent'"),
    ("texts", lambda: measure(["I am 90% sure"], [1]), "confidence is the text 'I am 90% sure' in row 1"),
    ("swapped", lambda: measure([True, False], [0.9, 0.8]), "are confidence and correct swapped"),
    ("yes and no", lambda: measure([0.5, 0.6], ["yes", "no"]), "correct is the text 'yes' in row 1"),
    ("labels", lambda: measure([0.5, 0.6], [1, "cat"]), "correct is the text 'cat' in row 2"),
    ("grades", lambda: measure([0.5, 0.6], [1, 0.5]), "correct is 0.5 in row 2; it has to be 1"),
    ("a list", lambda: measure([0.5, 0.6], [1, [1, 0]]), "correct is [1, 0] in row 2"),
    ("lengths", lambda: measure([0.5, 0.6], [1]), "confidence has 2 rows and correct has 1"),
    ("length of groups", lambda: measure([0.5, 0.6], [1, 0], ["a"]), "confidence has 2 rows and groups has 1"),
    ("no rows", lambda: measure([], []), "confidence has no rows"),
    ("nothing known", lambda: measure([0.5, None], [None, 1]), "No row has both a confidence and whether"),
    ("a row without group", lambda: measure([0.5, 0.6], [1, 0], ["a", None]), "groups holds nothing in row 2"),
    ("a number", lambda: measure(0.5, [1]), "confidence is 0.5; give a list"),
    ("two dimensions", lambda: measure(np.ones((2, 2)), [1, 0]), "confidence has the shape (2, 2)"),
    ("indexes", lambda: measure(pd.Series([0.5, 0.6]), pd.Series([1, 0], index=[1, 0])), "with different indexes"),
    ("memory", lambda: measure(np.tile([0.5, 0.6], 300_000), np.tile([1, 0], 300_000)), "set n_bootstrap to 833 or"),
    ("resamples", lambda: measure([0.5], [1], n_bootstrap=10), "n_bootstrap is 10"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "sentence"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
def test_bad_input_ends_in_one_sentence(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_percents_below_one_can_be_meant() -> None:
    assert measure([0.5, 85], [0, 1], scale="percent", **FEW)["brier"] == pytest.approx((0.01**2 + 0.15**2) / 2)
    assert any("exactly 1 count as 1 %" in note for note in measure([1, 85], [0, 1], **FEW).notes)


def test_the_package_is_light_until_measure_is_asked_for() -> None:
    code = ("import sys, csp_utils; assert 'pandas' not in sys.modules and 'numpy' not in sys.modules\n"
            "from csp_utils import measure; assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
