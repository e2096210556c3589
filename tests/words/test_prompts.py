"""The prompts are the paper's, letter by letter; the readers take what is plainly said and nothing else."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp_utils.words import prompts, reading

A1 = (
    "Extract the single most important keyword (a noun or object) from each of the following question-answer pairs. "
    "Provide only one keyword.\n\n"
    "Example 1: Question: What kind of potato chips are on the plate? Answer: There are some light yellow thin "
    "slice-shaped potato chips in this plate, which look very crispy. Keyword: potato chips\n\n"
    "Example 2: Question: What color is the car parked outside the house? Answer: The car parked outside is a bright "
    "red sedan. Keyword: car\n\n"
    "Example 3: Question: What kind of fruits are in the basket? Answer: The basket contains fresh green apples and "
    "ripe yellow bananas. Keyword: fruits\n\n"
    "Now, using the following question and answer, extract one most important keyword. Just output the keyword "
    "directly.\n\n"
    "Question: Is there a star? Answer: Yes Keyword:"
)
A2 = (
    "A Language model was asked: Is there a star?, Model's answer was Yes Analyze its answer. "
    "How certain are you about model's answer from 1%-100%?"
)

READ = {
    # a number alone
    "90": 90, "90%": 90, " 90 % ": 90, "90.": 90, "90%.": 90, "0": 0, "0%": 0, "1": 1, "1%": 1, "100": 100,
    "100%": 100,
    "95％": 95, "**95%**": 95, "`80%`": 80, "\"75%\"": 75, "[70%]": 70, "(60%)": 60, "~70%": 70, "≈70%": 70,
    "95percent": 95,
    "85 percent": 85, "85 per cent": 85, "85 pct": 85, "87.5%": 88, "12.4%": 12, "99.9%": 100, "92.0": 92,
    # probabilities and fractions
    "0.9": 90, "0.95": 95, "0.05": 5, "1.0": 100, "0.0": 0, "10/10": 100, "9/10": 90, "9 / 10": 90, "7 out of 10": 70,
    "90 out of 100": 90, "90/100": 90, "nine out of ten": 90, "4/5": 80, "50/50": 50, "50-50": 50,
    # words
    "ninety": 90, "ninety percent": 90, "ninety-five percent": 95, "Twenty five percent": 25,
    "one hundred percent": 100,
    "a hundred percent": 100, "zero percent": 0, "seventeen percent": 17, "fifty-fifty": 50,
    # with a few words around
    "about 85 percent": 85, "approximately 60%": 60, "I'd say 70.": 70, "I would say 85%": 85, "maybe 40%": 40,
    "I'm 95% sure": 95, "I’m 95% sure.": 95, "I am 95% certain.": 95, "95% confident": 95, "95% certainty": 95,
    "Confidence: 80": 80, "Confidence: 80%": 80, "confidence level: 80%": 80, "Confidence = 0.8": 80,
    "Certainty: 80%": 80,
    "Confidence score: 8/10": 80, "My confidence is 90%.": 90, "My certainty is eighty-five percent.": 85,
    "The answer is 90% correct.": 90, "The model's answer is 100% accurate.": 100, "Yes, 100%": 100, "No, 90%": 90,
    "{\"confidence\": 90}": 90, "Confidence: High (90%)": 90, "I am certain about the answer: 99%": 99,
    "My confidence in the model's answer is about 90%.": 90, "I am 90% certain about model's answer.": 90,
    # in longer text
    "I am 95% sure that there is a dog in the image.": 95, "90% - the dog is clearly visible.": 90,
    "I would say 85% because the dog is clearly visible.": 85, "There are 2 dogs; I am 95% sure.": 95,
    "90\n\nThe image shows 2 dogs.": 90, "The dog is visible. Confidence: 90%": 90, "95% (19 out of 20)": 95,
    "I cannot be 100% certain, but I would say 80%.": 80, "Based on the image, I am 75% certain.": 75,
    "Confidence: 5%. The model's answer is wrong.": 5, "Confidence: 85%. It could be 60%.": 85,
    "The dog is 50% visible. I am 90% sure.": 90, "I'm not sure, maybe 50%.": 50,
    # the scale repeated, then the answer
    "From 1%-100%, I am 90% certain.": 90, "On a scale of 1 to 100, I would say 70.": 70, "1%-100%: 80%": 80,
    "How certain are you about model's answer from 1%-100%? 90%": 90,
}  # fmt: skip

NOT_READ = [
    # nothing said
    "", " ", "%", "Yes", "No.", "I don't know.", "very certain", "I am absolutely sure.", "high", "Certain", "???",
    "I'm sorry, but I cannot answer that.", "As an AI language model, I can't provide a percentage.",
    "I cannot give a number from 1 to 100.", "I am unable to say.", "not sure", "I'm not 100% sure.",
    "I can't be 90% sure",
    "I am never 100% certain.", "There is no way to be 100% sure.",
    # the question repeated
    "from 1%-100%", "1%-100%", "1% to 100%", "How certain are you about model's answer from 1%-100%?",
    "between 1 and 100", "0-100",
    # ranges and bounds: the prompt asks for one number
    "70-80%", "70%-80%", "between 70 and 80", "between 70% and 80%", "70 to 80 percent", "80% or 90%", "95%-100%",
    "over 90%", "at least 90%", "more than 90%", "less than 10%", ">90%", "≥ 90%", "90%+", "90+", "up to 60%",
    # out of range
    "101", "150%", "-5", "-5%", "1000", "11/10", "200 percent", "999999999999999999999999%",
    # another scale, without a fraction
    "8 on a scale of 1 to 10", "Rating from 1-10: 8",
    # several numbers
    "90%\n80%", "90% 80%", "I am 90% sure, or 60% sure.", "Confidence: 90%. Confidence: 70%.", "80, 90", "150% or 90%",
    # numbers of other things
    "There are 3 apples.", "3 apples", "The answer is 2.", "Answer: 4", "The model's answer was 3",
    "1. The dog is visible.",
    "The pizza is 50% eaten.", "50% of the dog is visible, I am sure.", "I am certain, there are 3 dogs.",
    "It is 3:45 pm.",
    "The sign says 20% off.", "In 2024 it was true.", "1.5.2", "The jersey number is 23.",
    # of being wrong
    "I am 95% sure the answer is wrong.", "90% incorrect", "The model's answer is incorrect. I am 95% certain.",
    "20% uncertainty", "I am 30% unsure.", "Confidence that the answer is wrong: 90%",
]  # fmt: skip


def test_prompts_are_the_papers():
    assert prompts.keyword_prompt("Is there a star?", "Yes") == A1
    assert prompts.confidence_question("Is there a star?", "Yes") == A2
    assert prompts.confidence_answer(70) == "70%"
    assert prompts.plain_question("Is there a star?") == "Is there a star?"
    assert prompts.plain_question("Is there a star?", hint=True) == "Is there a star? Please answer yes or no."


def test_prompts_take_any_text_as_it_is():
    text = "Say {answer} or {0}: 100% \\n?"
    assert f"Question: {text} Answer: {text} Keyword:" in prompts.keyword_prompt(text, text)
    assert f"was asked: {text}, Model's answer was {text} Analyze" in prompts.confidence_question(text, text)


@pytest.mark.parametrize("c", [-1, 101, 0.5, True])
def test_confidence_answer_refuses_what_is_no_percentage(c):
    with pytest.raises(ValueError):
        prompts.confidence_answer(c)


@pytest.mark.parametrize(("text", "percent"), READ.items())
def test_confidence_is_read(text, percent):
    assert reading.parse_confidence(text) == percent


@pytest.mark.parametrize("text", NOT_READ)
def test_no_confidence_is_made_up(text):
    assert reading.parse_confidence(text) is None


@given(st.integers(0, 100), st.sampled_from(["{}%", "{}", "I'm {}% sure.", "Confidence: {}%", "{} percent", "{}/100"]))
def test_every_level_is_read(c, form):
    assert reading.parse_confidence(form.format(c)) == c


@given(st.text())
def test_any_text_gives_a_percentage_or_none(text):
    value = reading.parse_confidence(text)
    assert value is None or (isinstance(value, int) and 0 <= value <= 100)
    assert reading.parse_yes_no(text) in ("Yes", "No", None)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Yes", "Yes"), ("no", "No"), ("Yes.", "Yes"), ("**No**", "No"), (" yes, there is a dog.", "Yes"), ("NO!", "No"),
     ("No, there is no dog.", "No"), ("Yes, there is no dog.", "Yes"), ("Yeah", "Yes"), ("Nope.", "No"),
     ("The answer is no.", "No"), ("Answer: yes", "Yes"), ("The answer to the question is: yes", "Yes"),
     ("Yes or no", None), ("yes/no", None), ("Yes and no.", None), ("", None), ("Nobody is there.", None),
     ("No idea", None), ("There is a dog.", None), ("Not sure", None), ("Yesterday", None), ("Maybe", None),
     ("The answer is yes. The answer is no.", None)],
)  # fmt: skip
def test_yes_and_no(text, answer):
    assert reading.parse_yes_no(text) == answer


def test_import_is_light():
    code = ("import sys, csp_utils.words.prompts\n"
            "assert not {'torch', 'transformers', 'pandas', 'numpy'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)
