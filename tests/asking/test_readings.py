"""How replies were read, as tables: refusals by right and wrong candidates, rules for plain answers, masses."""

import pandas as pd
import pytest
from known_answers import table

from csp_utils.asking import readings

ROWS = [(90, None, "yes", 0, 0.9, "Yes"), (80, 20, "yes", 1, 0.8, None), (None, 30, "no", 2, 0.7, "No")]


def responses() -> pd.DataFrame:
    """Three questions; two replies were not read, one about a right candidate ... and both are about wrong ones."""
    found = table(ROWS)
    found["reason"] = ["label" if read else "other answer" for read in found["verbalized"].notna()]
    return found.assign(ended=True, mass=0.9, plain_ended=True,
                        plain_raw=[{"Yes": "Yes.", "No": "There is no dog."}.get(one, "I cannot tell")
                                   for one in found["plain_answer"]])  # fmt: skip


def test_refusals_are_counted_for_right_and_wrong_candidates_apart():
    counts = readings.readings(responses())
    assert counts["n"].sum() == 6 and list(counts.columns) == readings.READING_COLUMNS
    share = readings.unread_share(counts).iloc[0]
    assert share["right"] == 0 and share["wrong"] == pytest.approx(2 / 3) and share["cut"] == 0


def test_replies_of_others_have_no_recorded_reason():
    counts = readings.readings(table(ROWS))
    assert set(counts["reason"]) == {"not recorded"} and counts["n"].sum() == 6
    assert readings.answer_rules(table(ROWS)).empty and readings.masses(table(ROWS)).empty
    assert readings.unread_examples(table(ROWS)).empty


def test_each_rule_is_scored_and_compared_with_the_one_in_use():
    rules = readings.answer_rules(responses()).set_index("rule")
    assert rules["n"].tolist() == [3, 3, 3]
    assert rules["accuracy"].to_dict() == pytest.approx({"pope": 1, "amber": 0, "stated": 1 / 3})
    assert rules["unanswered"].to_dict() == pytest.approx({"pope": 0, "amber": 1, "stated": 2 / 3})
    assert rules["differs"].to_dict() == pytest.approx({"pope": 1 / 3, "amber": 2 / 3, "stated": 1 / 3})


def test_the_median_mass_and_the_share_below_the_least_one():
    found = readings.masses(responses().assign(mass=[0.2, 0.2, 0.4, 0.4, 0.9, 0.9], internal=[None, None, 1, 1, 1, 1]))
    assert found.iloc[0][["median", "too_small"]].tolist() == pytest.approx([0.4, 1 / 3])
    elicited = pd.DataFrame({"model": "tiny", "variant": "base", "prompt": "third_person", "method": ["expected"] * 3,
                             "mass": [0.01, 0.5, 0.9], "value": [None, 50, 90]})  # fmt: skip
    found = readings.masses(responses(), elicited).set_index("of")
    assert found.loc["third_person, expected", ["median", "too_small"]].tolist() == pytest.approx([0.5, 1 / 3])
