"""Plain answers by three rules: two as the benchmarks' own code scores, one that reads what a reply states."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp_utils.words.answers import RULES, amber_rule, pope_rule, rule_of, stated

DATA = Path(__file__).parents[1] / "data"
REPLIES = [row for row in map(json.loads, (DATA / "replies/replies.jsonl").read_text(encoding="utf-8").splitlines())
           if row["kind"] == "yes_no"]  # fmt: skip
DOG = "Is there a dog in the image?"

FREE_FORM = [  # reply, right answer
    ("Yes", "yes"), ("No", "no"), ("Yes", "no"), ("No", "yes"), ("Yes.", "yes"), ("No.", "no"), ("yes", "yes"),
    ("no", "no"), ("NO", "no"), ("YES", "yes"), ("There is no dog in the image.", "no"),
    ("There is a dog in the image.", "yes"), ("The image does not contain a dog.", "no"),
    ("The image shows a dog.", "no"),
    ("There isn't a dog.", "no"), ("Yes, there is a dog, but not a cat.", "yes"), ("Yes. There is no cat.", "yes"),
    ("No, there is no dog.", "no"), ("FINAL ANSWER: No", "no"), ("In the image, there is a dog.", "yes"),
    ("I cannot tell.", "no"), ("", "yes"), ("Not visible", "no"), ("A dog is\nnot there", "no"),
    ("No,it is absent", "no"), ("Yes", "yes"), ("No", "no"),
]  # fmt: skip
"""A file of answers that begin in many ways; the numbers below are what the official scripts print about it."""


def scores(rule, positive: str) -> tuple[float, float, float]:
    """Accuracy, precision and recall of a rule on :data:`FREE_FORM`."""
    said = [rule(reply) for reply, _ in FREE_FORM]
    truth = [answer.capitalize() for _, answer in FREE_FORM]
    hits = sum(one == positive == other for one, other in zip(said, truth, strict=True))
    return (sum(map(str.__eq__, map(str, said), truth)) / len(truth), hits / said.count(positive),
            hits / truth.count(positive))  # fmt: skip


def test_popes_rule_scores_as_popes_script():
    """Its evaluate.py at 08d957b prints TP 9, FP 8, TN 8, FN 2: accuracy 0.6296, precision 0.5294, recall 0.8182."""
    assert scores(pope_rule, "Yes") == pytest.approx((17 / 27, 9 / 17, 9 / 11))


def test_ambers_rule_scores_as_ambers_script():
    """Its inference.py at 534babf prints accuracy 14.8, precision 66.6 and recall 12.5; the positive class is No."""
    accuracy, precision, recall = scores(amber_rule, "No")
    assert (round(100 * accuracy, 1), round(100 * recall, 1)) == (14.8, 12.5) and precision == pytest.approx(2 / 3)


def test_the_rules_differ_on_free_replies():
    assert all(len({rule(reply, DOG) for rule in RULES.values()}) > 1
               for reply in ("There is no dog in the image.", "NO", "FINAL ANSWER: No", "Yes."))


def test_each_split_has_its_benchmarks_rule():
    assert [rule_of(split, "benchmark") for split in ("pope_random", "amber_relation", "my_own")] == [
        "pope", "amber", "stated"]
    assert rule_of("pope_random", "stated") == "stated"


@pytest.mark.parametrize("field", ["reply", "cut8"])
def test_no_real_reply_is_read_as_the_other_answer(field):
    rows = [row for row in REPLIES if row[field] is not None]
    said = {row["id"]: (stated(row[field], row["question"]), row["person"]) for row in rows}
    assert not {key: pair for key, pair in said.items() if pair[0] is not None and pair[0] != pair[1]}
    if field == "reply":
        assert sum(one == other for one, other in said.values()) / len(said) >= 0.8


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Yes", "Yes"), ("no", "No"), ("Yes.", "Yes"), ("**No**", "No"), (" yes, there is a dog.", "Yes"), ("NO!", "No"),
     ("No, there is no dog.", "No"), ("Yes, there is no dog.", "Yes"), ("Yeah", "Yes"), ("Nope.", "No"),
     ("The answer is no.", "No"), ("Answer: yes", "Yes"), ("The answer to the question is: yes", "Yes"),
     ("So, yes, it is.", "Yes"), ("FINAL ANSWER: No", "No"), ("<answer>no</answer>", "No"),
     ("Yes or no", None), ("yes/no", None), ("Yes and no.", None), ("", None), ("Nobody is there.", None),
     ("No idea", None), ("There is a dog.", None), ("Not sure", None), ("Yesterday", None), ("Maybe", None),
     ("The answer is yes. The answer is no.", None), ("Yes AUDIENCE: No", None),
     ("whether the answer is 'Yes' or 'No'", None)],
)  # fmt: skip
def test_yes_and_no(text, answer):
    assert stated(text) == answer


@pytest.mark.parametrize(("text", "answer"), [
    ("There is no dog in the image.", "No"), ("There is a dog in the image.", "Yes"),
    ("The image does not contain a dog.", "No"), ("The image doesn't show any dogs.", "No"),
    ("The image shows two dogs.", "Yes"), ("In the image, there is a dog.", "Yes"), ("I see a dog.", "Yes"),
    ("There is a cat in the image.", None), ("There is a cat, but there is no dog.", "No"),
    ("The dog in the image is not a dog.", None), ("Yes, there is a cat, but it is not a dog.", None),
])  # fmt: skip
def test_statements_about_the_object_are_answers(text, answer):
    assert stated(text, DOG) == answer
    assert stated(text) in (None, "Yes")  # without the question, only what begins with yes


@given(st.text(), st.one_of(st.none(), st.text(), st.just(DOG)))
def test_any_text_gives_an_answer_or_none(text, question):
    assert stated(text, question) in ("Yes", "No", None)
