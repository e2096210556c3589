"""The reader of confidences: real replies of real models, twenty ways to say a number, and everything that is none."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp_utils.words.confidence import REFUSALS, Reading, read_confidence
from csp_utils.words.confidence_patterns import PATTERNS
from csp_utils.words.text import digits, plain

REPLIES = [json.loads(line) for line in
           (Path(__file__).parents[1] / "data/replies/replies.jsonl").read_text(encoding="utf-8").splitlines()]
CONFIDENCES = [row for row in REPLIES if row["kind"] == "confidence"]
NAMES = {pattern.name for pattern in PATTERNS}


def is_right(value: int | None, person: int | None) -> bool:
    """Whether a reading is a person's, within one percent."""
    return value == person or (value is not None and person is not None and abs(value - person) <= 1)


# --------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("pattern", PATTERNS, ids=[pattern.name for pattern in PATTERNS])
def test_every_pattern_reads_its_examples(pattern):
    assert pattern.examples
    assert [(text, read_confidence(text)) for text, _ in pattern.examples] == [
        (text, Reading(value, pattern.name)) for text, value in pattern.examples]


def test_every_reading_has_a_reason():
    assert not NAMES & set(REFUSALS) and len(NAMES) == len(PATTERNS)
    for row in REPLIES:
        read = read_confidence(row["reply"], row["judged"])
        assert read.reason in (NAMES if read.value is not None else REFUSALS)


# -------------------------------------------------------------------------------------------------- real replies


def test_no_real_reply_is_read_as_a_number_that_it_does_not_say():
    wrong = {row["id"]: (read, row["person"]) for row in CONFIDENCES
             for read in [read_confidence(row["reply"], row["judged"])]
             if read.value is not None and not is_right(read.value, row["person"])}
    assert not wrong
    right = sum(is_right(read_confidence(row["reply"], row["judged"]).value, row["person"]) for row in CONFIDENCES)
    assert right / len(CONFIDENCES) >= 0.95


@pytest.mark.parametrize("field", ["cut8", "anywhere"])
def test_no_cut_reply_is_read_as_another_number(field):
    """After eight tokens, as replies were once cut; and after any character before the end."""
    wrong = []
    for row in CONFIDENCES:
        text, ends = row["reply"], range(1, len(row["reply"]), 1 if len(row["reply"]) < 600 else 17)
        for cut in ([row["cut8"]] if row["cut8"] else []) if field == "cut8" else [text[:end] for end in ends]:
            read = read_confidence(cut, row["judged"], ended=False)
            if read.value is not None and not is_right(read.value, row["person"]):
                wrong.append((row["id"], cut[-80:], read))
    assert not wrong


def test_a_refusal_does_not_depend_on_the_answer():
    """Formerly, all replies with 'Answer': False were refused, and nearly none with True."""
    for form in ("{{'Answer': {answer}, 'Confidence': 0.8}}", '{{"Answer": "{answer}", "Confidence": "0.8"}}',
                 "Answer: {answer}\nConfidence: 80%", "{answer}, 80%", "The answer is {answer}. I am 80% sure."):
        for yes, no in (("Yes", "No"), ("True", "False")):
            judged = (yes, no) if yes == "Yes" else (None, None)
            if yes == "True" and form.startswith("{answer}"):
                continue  # only Yes and No begin a reply
            replies = zip((form.format(answer=answer) for answer in (yes, no)), judged, strict=True)
            said = [read_confidence(reply, about).value for reply, about in replies]
            assert said == [80, 80], form


# ----------------------------------------------------------------------------------------------- which answer is judged

ABOUT = [  # reply, judged answer, confidence in it
    ("I am 100% certain that there is no dog in the image.", "Yes", None),
    ("I am 100% certain that there is no dog in the image.", "No", 100),
    ("I am 95% sure that there is a dog in the image.", "Yes", 95),
    ("I am 95% sure that there is a dog in the image.", "No", None),
    ("No, I am 100% certain.", "Yes", None), ("No, 90%", "Yes", None), ("No, 90%", "No", 90), ("Yes, 90%", "No", None),
    ("I disagree with the model's answer. I am 95% certain.", "Yes", None),
    ("The correct answer is No. I am 90% certain.", "Yes", None),
    ("I am 95% certain that the answer should be No.", "Yes", None),
    ("I am 95% certain that the answer should be No.", "No", 95),
    ("I am 95% certain that the model made a mistake.", "Yes", None),
    ("I am 90% certain that the model is hallucinating.", "Yes", None),
    ("I am 100% certain that the answer does not match the image.", "Yes", None),
    ("I am 90% sure the model's answer is misleading.", "Yes", None),
    ("I'm 100% certain that the cake is not in the image", "Yes", None),
    ("I am 99% sure that the person is wearing a hat.", "No", None),
    ("100% sure it's a dog", "No", None), ("I'm 95% sure no dog is visible.", "Yes", None),
    ("No, there is no dog in the image. I am 95% confident.", "Yes", None),
    ("Confidence level: 95%. There is clearly no dog in the picture.", "Yes", None),
    ("My answer: No. Confidence: 90", "Yes", None), ('{"answer": "No", "confidence": 0.9}', "Yes", None),
    # a low number with its reason is a confidence in the judged answer
    ("5%. The model's answer is incorrect.", "Yes", 5), ("0% - the model's answer is wrong.", "Yes", 0),
    ("I am 10% certain about the model's answer, since it appears to be incorrect.", "Yes", 10),
    ("There is no dog. 3%", "Yes", 3), ("5% because the answer is incorrect", "Yes", 5),
    ("I am 95% certain of this, and there is a 5% chance that it is wrong.", "Yes", 95),
    ("I have no reason to doubt the answer: 95%", "Yes", 95),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "response", "value"), ABOUT)
def test_a_number_belongs_to_the_judged_answer_or_is_refused(reply, response, value):
    read = read_confidence(reply, response)
    assert read.value == value and (value is not None or read.reason == "other answer")


# ------------------------------------------------------------------------------------------- forms, and what is none

READ = {
    # a number alone
    "90": 90, "90%": 90, " 90 % ": 90, "90.": 90, "90%.": 90, "0": 0, "0%": 0, "1": 1, "1%": 1, "100": 100,
    "100%": 100, "95％": 95, "**95%**": 95, "`80%`": 80, "\"75%\"": 75, "[70%]": 70, "(60%)": 60, "~70%": 70,
    "≈70%": 70, "95percent": 95, "85 percent": 85, "85 per cent": 85, "85 pct": 85, "87.5%": 88, "12.4%": 12,
    "99.9%": 100, "92.0": 92, "<answer>90%</answer>": 90, r"\boxed{90\%}": 90, "$90\\%$": 90, "95%</s>": 95,
    "95%<|im_end|>": 95, "Assistant: 95%": 95, "<think>\n20% of it is sky.\n</think>\n\n90%": 90,
    # decimals, decimal commas and fractions
    "0.9": 90, "0.95": 95, "0.05": 5, "1.0": 100, "0.0": 0, ".95": 95, "0,95": 95, "0,9": 90, "1,0": 100,
    "95,5%": 96, "99,9 %": 100, "Confidence: 0,85": 85, "9,5/10": 95, "10/10": 100, "9/10": 90, "9 / 10": 90,
    "7 out of 10": 70, "90 out of 100": 90, "90/100": 90, "nine out of ten": 90, "4/5": 80, "50/50": 50, "50-50": 50,
    "9⁄10": 90, "Confidence score: 0.9/1.0": 90, "Confidence: 8 (out of 10)": 80,
    # words
    "ninety": 90, "ninety percent": 90, "ninety-five percent": 95, "Twenty five percent": 25,
    "one hundred percent": 100, "a hundred percent": 100, "zero percent": 0, "seventeen percent": 17, "fifty-fifty": 50,
    # with a few words around
    "about 85 percent": 85, "approximately 60%": 60, "I'd say 70.": 70, "I would say 85%": 85, "maybe 40%": 40,
    "I'm 95% sure": 95, "I’m 95% sure.": 95, "I am 95% certain.": 95, "95% confident": 95, "95% certainty": 95,
    "Confidence: 80": 80, "Confidence: 80%": 80, "confidence level: 80%": 80, "Confidence = 0.8": 80,
    "Certainty: 80%": 80, "Confidence score: 8/10": 80, "My confidence is 90%.": 90,
    "My certainty is eighty-five percent.": 85, "The answer is 90% correct.": 90, "Yes, 100%": 100, "No, 90%": 90,
    "{\"confidence\": 90}": 90, "Confidence: High (90%)": 90, "I am certain about the answer: 99%": 99,
    "My confidence in the model's answer is about 90%.": 90, "I am 90% certain about model's answer.": 90,
    "I am 75% positive.": 75, "I'd put it at 75%.": 75, "Undoubtedly 100%": 100, "95% [high confidence]": 95,
    "Ich bin mir zu 95 % sicher.": 95, "我有95%的把握。": 95, "Very certain (9/10).": 90, "90% sure. (1/1)": 90,
    # in longer text
    "90% - the dog is clearly visible.": 90, "I would say 85% because the dog is clearly visible.": 85,
    "There are 2 dogs; I am 95% sure.": 95, "90\n\nThe image shows 2 dogs.": 90, "95% (19 out of 20)": 95,
    "The dog is visible. Confidence: 90%": 90, "I cannot be 100% certain, but I would say 80%.": 80,
    "Based on the image, I am 75% certain.": 75, "Confidence: 5%. The model's answer is wrong.": 5,
    "Confidence: 85%. It could be 60%.": 85, "The dog is 50% visible. I am 90% sure.": 90,
    "I'm not sure, maybe 50%.": 50, "Around 80-85%, so I'd say 83%.": 83, "It is 100% clear that there is a dog.": 100,
    "Without seeing more detail I would say 60%.": 60, "I am 95% certain about this one.": 95,
    "There is a 90% chance that the answer is correct.": 90, "There's an 80% probability that it is right.": 80,
    # the scale repeated, then the answer
    "From 1%-100%, I am 90% certain.": 90, "On a scale of 1 to 100, I would say 70.": 70, "1%-100%: 80%": 80,
    "How certain are you about model's answer from 1%-100%? 90%": 90, "85 (on a 1-100 scale)": 85,
    "On a scale from 1 to 100, I would rate my certainty as 85.": 85, "Confidence (0-1): 0.9": 90,
}  # fmt: skip

NOT_READ = {
    "none": [
        "", " ", "%", "Yes", "No.", "I don't know.", "very certain", "I am absolutely sure.", "high", "Certain", "???",
        "I'm sorry, but I cannot answer that.", "As an AI language model, I can't provide a percentage.",
        "I cannot give a number from 1 to 100.", "I am unable to say.", "not sure", "from 1%-100%", "1% to 100%",
        "How certain are you about model's answer from 1%-100%?", "between 1 and 100", "0-100",
        # numbers of other things
        "There are 3 apples.", "3 apples", "The answer is 2.", "Answer: 4", "The model's answer was 3",
        "1. The dog is visible.", "1. Certain", "1) Certain", "1. Yes, certain", "2. I am certain", "①",
        "The pizza is 50% eaten.", "50% of the dog is visible, I am sure.", "I am certain, there are 3 dogs.",
        "It is 3:45 pm.", "The sign says 20% off.", "In 2024 it was true.", "1.5.2", "The jersey number is 23.",
        "A 95% confidence interval", "Certainty 20% visible", "I am sure about two", "The label reads 100% juice",
    ],
    "range": [
        "70-80%", "70%-80%", "between 70 and 80", "between 70% and 80%", "70 to 80 percent", "80% or 90%", "95%-100%",
        "over 90%", "at least 90%", "more than 90%", "less than 10%", ">90%", "≥ 90%", "90%+", "up to 60%",
        "nearly 100%", "My confidence is between 80% and 90%.", "Confidence: >95%", "I'm more than 95% certain.",
    ],
    "out of range": ["101", "150%", "1000", "11/10", "200 percent", "-5%", "40/60", "8 on a scale of 1 to 10",
                     "Rating from 1-10: 8", "I'm 110% sure!"],
    "several": ["90%\n80%", "I am 90% sure, or 60% sure.", "Confidence: 90%. Confidence: 70%."],
    "hedged": ["I'm not 100% sure.", "I can't be 90% sure", "I am never 100% certain.", "20% uncertainty",
               "There is no way to be 100% sure.", "The answer is not 100%, but rather 100%."],
    "other answer": ["I am 95% sure the answer is wrong.", "90% incorrect", "The model is 100% wrong.",
                     "The model's answer is incorrect. I am 95% certain."],
}  # fmt: skip


@pytest.mark.parametrize(("text", "percent"), READ.items())
def test_confidence_is_read(text, percent):
    assert read_confidence(text).value == percent


@pytest.mark.parametrize(("reason", "text"), [(reason, text) for reason, texts in NOT_READ.items() for text in texts])
def test_no_confidence_is_made_up(reason, text):
    assert read_confidence(text).value is None


@pytest.mark.parametrize("reason", [reason for reason in NOT_READ if reason != "none"])
def test_a_refusal_says_why(reason):
    said = [read_confidence(text).reason for text in NOT_READ[reason]]
    assert said.count(reason) >= 0.7 * len(said), said


@pytest.mark.parametrize("text", [
    "95", "95%", "My confidence in this answer is 9", "My certainty is 1", '{"Confidence": 0.', '{"Confidence": 0.9',
    "60% to", "I am 95% certain that", "Based on the image, I am",
])
def test_a_reply_that_was_cut_at_its_number_says_so(text):
    assert read_confidence(text, "Yes", ended=False) == Reading(None, "cut")


def test_a_cut_reply_whose_number_was_complete_is_read():
    assert read_confidence("95%. The dog is clearly visible in", "Yes", ended=False).value == 95
    assert read_confidence('{"confidence": 0.9,\n"reason": "the dog', "Yes", ended=False).value == 90


@given(st.integers(0, 100), st.sampled_from(["{}%", "{}", "I'm {}% sure.", "Confidence: {}%", "{} percent", "{}/100"]))
def test_every_level_is_read(c, form):
    assert read_confidence(form.format(c), "Yes").value == c


@given(st.text(), st.sampled_from([None, "Yes", "No", "a dog"]), st.booleans())
def test_any_text_gives_a_percentage_or_a_reason(text, response, ended):
    read = read_confidence(text, response, ended)
    assert (read.value is None) == (read.reason in REFUSALS) and (read.value is None or 0 <= read.value <= 100)


@pytest.mark.parametrize("reply", [b"90%", None, float("nan"), 90])
def test_what_is_no_text_is_a_refusal(reply):
    assert read_confidence(reply, "Yes") == Reading(None, "no text")


@pytest.mark.parametrize("part", [
    "90% ", "confidence ", "the ", "not ", "I am 95% certain that ", "<think>", "\n", "1-", '"answer": "x',
    "there is no ", "\\boxed{", "0,9 ", "9", "I would say ", "A: 0.5\n",
])
def test_time_grows_with_the_length_alone(part):
    """Four times the text takes about four times as long; a regular expression that explodes takes sixteen or more."""

    def seconds(n: int) -> float:
        text = "I am 50% sure. " + (part * (n // len(part) + 1))[:n]
        begin = time.process_time()
        read_confidence(text, "Yes")
        return time.process_time() - begin

    assert seconds(40_000) < 9 * seconds(10_000) + 0.2


@given(st.integers(0, 100))
def test_numbers_in_words(n):
    units = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
             "seventeen eighteen nineteen").split()
    tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()
    words = ("a hundred" if n == 100 else units[n] if n < 20 else
             tens[n // 10 - 2] + (f"-{units[n % 10]}" if n % 10 else ""))
    assert digits(words) == n and plain(f"{words} percent") == f"{n} percent"
