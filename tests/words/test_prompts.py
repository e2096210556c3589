"""The prompts are the paper's, letter by letter."""

import subprocess
import sys

import pytest

from csp_utils.words import prompts

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


def test_import_is_light():
    code = ("import sys, csp_utils.words.prompts\n"
            "assert not {'torch', 'transformers', 'pandas', 'numpy'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)
