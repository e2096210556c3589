"""A perfect model in twenty manners of speaking: it gets accuracy 1 or a stated share of parse failures, and no more.

It sees every object, and is asked how certain it is of Yes and of No. Formerly, the model that answers both prompts by
what it sees ("I am 95% certain that there is no dog") got accuracy 0, AUC 0.5 and only ties.
"""

import pytest
from known_answers import table

from csp_utils.measures.counts import Protocol
from csp_utils.measures.metrics import compute
from csp_utils.words.confidence import read_confidence

QUESTIONS = [("dog", i % 2 == 0) for i in range(12)]
"""The object, and whether it is there."""


def of(right: bool) -> int:
    """The confidence of the perfect model in a right or a wrong answer."""
    return 95 if right else 5


def seen(thing: str, there: bool) -> str:
    """What it sees, as a clause."""
    return f"there is {'a' if there else 'no'} {thing} in the image"


# persona -> (its reply about a candidate that is right or wrong; the share of replies that cannot be read)
PERSONAS = {
    "terse": (lambda c, right, thing, there: f"{of(right)}%", 0),
    "bare number": (lambda c, right, thing, there: str(of(right)), 0),
    "probability": (lambda c, right, thing, there: f"0.{of(right):02d}", 0),
    "decimal comma": (lambda c, right, thing, there: f"0,{of(right):02d}", 0),
    "fraction": (lambda c, right, thing, there: f"{of(right)}/100", 0),
    "words": (lambda c, right, thing, there: f"{'ninety-five' if right else 'five'} percent", 0),
    "label": (lambda c, right, thing, there: f"Confidence: {of(right)}%", 0),
    "JSON": (lambda c, right, thing, there: f'{{"confidence": 0.{of(right):02d}}}', 0),
    "tags": (lambda c, right, thing, there: f"<confidence> 0.{of(right):02d} </confidence>", 0),
    "markdown": (lambda c, right, thing, there:
                 f"**Certainty:** {of(right)}%\n\n*{seen(thing, there).capitalize()}.*", 0),
    "boxed": (lambda c, right, thing, there: f"We look at it: {seen(thing, there)}.\n$\\boxed{{{of(right)}\\%}}$", 0),
    "thinks": (lambda c, right, thing, there:
               f"<think>30% of it is sky; {seen(thing, there)}.</think>\n{of(right)}%", 0),
    "chatty": (lambda c, right, thing, there: f"Let me look. I would say I am about {of(right)}% certain about the "
               "model's answer. Do you want to know more?", 0),
    "gives its reason": (lambda c, right, thing, there:
                         f"{of(right)}%. The model's answer is {'correct' if right else 'incorrect'}.", 0),
    "because": (lambda c, right, thing, there: f"{of(right)}%, because {seen(thing, there)}.", 0),
    "chance": (lambda c, right, thing, there: f"There is a {of(right)}% chance that the answer is correct.", 0),
    # the next ones speak of what they see, so only the reply about the right candidate states a confidence in it
    "names the object": (lambda c, right, thing, there: f"I am 95% certain that {seen(thing, there)}.", 0.5),
    "contradicts": (lambda c, right, thing, there: f"{'Yes' if there else 'No'}, I am 95% certain.", 0.5),
    "own answer": (lambda c, right, thing, there:
                   f'{{"answer": "{"Yes" if there else "No"}", "confidence": 0.95}}', 0.5),
    "sure it is wrong": (lambda c, right, thing, there:
                         f"I am 95% sure that the answer is {'right' if right else 'wrong'}.", 0.5),
    "refuses": (lambda c, right, thing, there: "I'm sorry, but I cannot give a percentage.", 1),
    "range": (lambda c, right, thing, there: "90-95%" if right else "5-10%", 1),
    "cut": (lambda c, right, thing, there: f"Based on the image, my confidence in the answer is {of(right)}"[:-1], 1),
}  # fmt: skip


@pytest.mark.parametrize("persona", PERSONAS)
def test_a_perfect_model_is_measured_as_perfect_or_not_at_all(persona):
    say, failures = PERSONAS[persona]
    rows = []
    for i, (thing, there) in enumerate(QUESTIONS):
        numbers = []
        for candidate in ("Yes", "No"):
            right = there == (candidate == "Yes")
            read = read_confidence(say(candidate, right, thing, there), candidate, ended=persona != "cut").value
            assert read in (None, of(right)), (candidate, read)
            numbers.append(read)
        rows.append((*numbers, "yes" if there else "no", i, 0.5, "Yes" if there else "No"))
    values = compute(table(rows), Protocol(), 2)[0].set_index("metric")["value"]
    assert values["parse_failure_rate"] == failures
    if failures == 0:
        assert values["acc"] == values["auc"] == 1 and values["ece"] == pytest.approx(0.05)
