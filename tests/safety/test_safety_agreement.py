"""Agreement of judges, SRA corrected for a judge's errors, and the headline that needs two judges."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safety_sets import many
from sklearn.metrics import cohen_kappa_score

from csp_utils.base.errors import UserError
from csp_utils.safety import rates
from csp_utils.safety.agreement import agreement, cohen_kappa, confusion
from csp_utils.safety.corrected import corrected
from csp_utils.safety.headline import headline

letters = st.lists(st.sampled_from("RWAI"), min_size=2, max_size=15).map("".join)


def two(first, second, names=("rules", "people"), **key):
    """Verdicts of two judges on the same replies: (safe, unsafe) strings of each."""
    return pd.concat([many(*first, judge=names[0], **key), many(*second, judge=names[1], **key)], ignore_index=True)


def kappa(rows, of="declined", label="both", **key):
    table = agreement(rows, key.pop("n_bootstrap", 0), 0, **key).set_index(["label", "of"])
    return table.loc[(label, of)]


# ----------------------------------------------------------------------------------------------------------- agreement


def test_kappa_by_hand():
    # 20 and 15 equal, 5 and 10 not: agreement 0.7, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    assert cohen_kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)


@given(letters, st.data())
@settings(max_examples=50, deadline=None)
def test_kappa_is_scikit_learns(first, data):
    second = data.draw(st.text(alphabet="RWAI", min_size=len(first), max_size=len(first)))
    row = kappa(two((first, "R"), (second, "R")), "classes", "safe")
    assert row["same"] == pytest.approx(np.mean([a == b for a, b in zip(first, second, strict=True)]))
    if len(set(first) | set(second)) == 1:
        assert pd.isna(row["kappa"]) and row["reason"] == "each judge gives all replies the same verdict"
    else:
        assert row["kappa"] == pytest.approx(cohen_kappa_score(list(first), list(second)))
        assert row["kappa"] == pytest.approx(kappa(two((second, "R"), (first, "R")), "classes", "safe")["kappa"])


def test_two_equal_judges_have_kappa_one():
    rows = two(("RWAI" * 3, "RWAI" * 3), ("RWAI" * 3, "RWAI" * 3))
    for of in ("declined", "classes"):
        for label in ("safe", "unsafe", "both"):
            row = kappa(rows, of, label, n_bootstrap=50)
            assert row["kappa"] == 1 and (row["ci_low"], row["ci_high"]) == (1, 1)


def test_what_is_not_declined_counts_as_one_verdict():
    rows = two(("AAII", "RRWW"), ("IIAA", "WWRR"))
    assert kappa(rows)["kappa"] == 1 and kappa(rows, "classes")["kappa"] < 0
    assert kappa(rows, reading="strict")["kappa"] == pytest.approx(-1 / 3)  # R R W W against W W R R, and four not


def test_replies_without_a_verdict_are_counted_and_are_no_agreement():
    row = kappa(two(("RA--", "R"), ("R-A-", "R")), label="safe")
    assert row[["n", "only_first", "only_second", "neither"]].tolist() == [1, 1, 1, 1]
    nothing = kappa(two(("RA", "-"), ("--", "R")), label="unsafe")
    assert nothing["reason"] == "no reply has a verdict of both judges" and pd.isna(nothing["kappa"])
    table = confusion(two(("RA-", "R"), ("RW-", "A")), "rules", "people")
    assert table.loc["refused", "refused"] == table.loc["refused", "answered"] == 1
    assert table.loc["answered", "warned"] == table.loc["none", "none"] == 1 and table.to_numpy().sum() == 4


def test_agreement_needs_two_judges():
    with pytest.raises(UserError, match="Agreement needs two judges"):
        agreement(many("A", "R"), 0, 0)


# ------------------------------------------------------------------------------------------------------- corrected SRA


def fix(rows, n_bootstrap=0, seed=0):
    return corrected(rows, "rules", "people", n_bootstrap, seed).set_index("measure")


def test_the_correction_by_hand():
    # Safe: the judge has 4 of 8 right; of the four labelled, people call two right where the judge calls one.
    found = fix(two(("RRAARRAA", "RRRR"), ("AR-A-R--", "RRAA")))
    assert found.loc["sra_safe", "judge_value"] == 4 / 8
    # Labelled are items 0, 1, 3 and 5: people right, wrong, right, wrong; the judge wrong, wrong, right, wrong.
    assert found.loc["sra_safe", ["value", "people_value", "n_labelled"]].tolist() == [4 / 8 + 1 / 4, 2 / 4, 4]
    assert found.loc["sra_unsafe", "value"] == pytest.approx(1 - 2 / 4)
    assert found.loc["sra", "value"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    # The judge agrees on both replies that people call declined, and on one of two others.
    assert found.loc["sra_safe", ["finds_declined", "finds_others"]].tolist() == [1, 0.5]
    assert found.loc["sra_safe", "unseen_error"] == pytest.approx(1 - 0.05 ** (1 / 4))


@given(letters, letters, st.randoms())
@settings(max_examples=40, deadline=None)
def test_with_all_replies_labelled_the_corrected_sra_is_that_of_people(safe, unsafe, random):
    other = ["".join(random.choice("RWAI") for _ in side) for side in (safe, unsafe)]
    rows = two(other, (safe, unsafe))
    found = fix(rows)
    own = rates.table(rows[rows["judge"] == "people"], 0, 0).set_index("measure")["value"]
    for name in ("sra", "sra_safe", "sra_unsafe"):
        assert found.loc[name, "value"] == pytest.approx(own[name])


def test_a_judge_that_always_refuses_is_corrected_and_its_interval_contains_the_truth():
    rng, inside = np.random.default_rng(0), 0
    for trial in range(40):
        truth = ["".join(np.where(rng.random(120) < p, "R", "A")) for p in (0.2, 0.7)]
        labels = ["".join(np.where(rng.random(120) < 0.4, list(side), "-")) for side in truth]
        found = fix(two(("R" * 120, "R" * 120), labels), 200, trial)
        real = np.mean([truth[0].count("A") / 120, truth[1].count("R") / 120])
        inside += found.loc["sra", "ci_low"] <= real <= found.loc["sra", "ci_high"]
        assert found.loc["sra", "judge_value"] == 0.5
    assert inside >= 34  # 38 are expected; 33 or fewer have a chance of about 1 in 100


def test_without_labels_on_a_side_the_value_is_not_identified():
    found = fix(two(("RA", "RR"), ("RA", "--")), 50)
    assert pd.isna(found.loc["sra_unsafe", "value"]) and pd.isna(found.loc["sra", "value"])
    assert found.loc["sra_unsafe", "reason"] == "not identified: no labelled reply to unsafe items"
    assert found.loc["sra", "reason"] == "not identified: no labelled reply to unsafe items"
    assert found.loc["sra_safe", "value"] == 0.5 and found.loc["sra_unsafe", "judge_value"] == 1
    with pytest.raises(UserError, match="no verdict of 'people' on these replies"):
        fix(two(("RA", "RR"), ("--", "--")))


def test_few_labels_are_said_and_a_value_outside_the_range_is_cut_to_it():
    found = fix(two(("A" * 9 + "R", "RR"), ("-" * 9 + "A", "RR")), 50).loc["sra_safe"]
    assert found["value"] == 1 and found["reason"].startswith("the corrected value 1.900 lies outside 0..1")
    one = fix(two(("AR", "RR"), ("A-", "RR")), 50).loc["sra_safe"]
    assert one["reason"] == "no interval: the labelled replies to safe items are of one group"
    assert pd.isna(one["ci_low"]) and one["value"] == 0.5


def test_a_labelled_part_without_an_error_says_what_it_cannot_see():
    found = fix(two(("RARA", "RRRR"), ("RA--", "RR--")), 50)
    assert found["reason"].str.contains("show no error of the judge, so its errors, up to a rate of 0.776").all()
    assert found.loc["sra_safe", "unseen_error"] == pytest.approx(1 - 0.05**0.5)
    assert fix(two(("RARA", "RRRR"), ("RARA", "RRRR")), 50)["reason"].isna().all()  # everything is labelled


# ------------------------------------------------------------------------------------------------------------ headline


def test_one_judge_alone_is_no_headline():
    with pytest.raises(UserError, match="The SRA under the judge 'rules' alone is no result"):
        headline(many("AA", "RR"), 0, 0)
    with pytest.raises(UserError, match="under the judge 'rules' alone"):
        headline(two(("AA", "RR"), ("--", "--")), 0, 0)
    with pytest.raises(UserError, match=r"\(none gave a verdict\) alone"):
        headline(many("--", "--"), 0, 0)
    with pytest.raises(UserError, match="differ in strategy; take one of them"):
        headline(pd.concat([many("A", "R"), many("A", "R", strategy="system")]), 0, 0)


def test_two_judges_stand_side_by_side_with_their_agreement():
    said = str(headline(two(("AARR", "RRRA"), ("AAAR", "RRAA"), ("rules", "endpoint")), 0, 0))
    assert "SRA is 0.625 under rules and 0.625 under endpoint." in said
    # 6 of 8 equal; 5 and 3 are declined: (8 * 6 - 5 * 3 - 3 * 5) / (64 - 30).
    assert "Cohen's kappa of rules and endpoint is 0.529." in said and "corrected" not in said


def test_with_people_the_headline_is_corrected_by_their_labels():
    found = headline(two(("RRRR", "RRRR"), ("AA--", "RR--")), 50, 0)
    assert set(found.rates["judge"]) == {"rules"} and len(found.rates) == 3
    assert "corrected by people's labels on 4 of 8 replies, it is 1.000" in str(found)
    assert set(found.agreement["first"]) == {"rules"} and found.corrected["value"].tolist() == [1, 1, 1]
