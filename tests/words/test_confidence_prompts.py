"""The ways to ask for a confidence: their words, their sources, and how a reply is read."""

import pytest

from csp_utils.stages.evaluate import Eval
from csp_utils.words.confidence_prompts import (
    CONFIDENCE_PROMPTS,
    LEVELS,
    confidence_prompt,
    level_strings,
    read_answer_and_confidence,
)
from csp_utils.words.prompts import confidence_question

A2 = (
    "A Language model was asked: Is there a star?, Model's answer was No Analyze its answer. "
    "How certain are you about model's answer from 1%-100%?"
)
GOLDENS = {
    "third_person": A2,
    "first_person": "You were asked: Is there a star?, Your answer was No Analyze your answer. "
    "How certain are you about your answer from 1%-100%?",
    "few_shot": "A Language model was asked: Is there a dog in the image?, Model's answer was Yes Analyze its answer. "
    "How certain are you about model's answer from 1%-100%? 92%\n\n"
    "A Language model was asked: Is the car behind the tree blue?, Model's answer was No Analyze its answer. "
    "How certain are you about model's answer from 1%-100%? 64%\n\n"
    "A Language model was asked: Is there a cup on the table?, Model's answer was Yes Analyze its answer. "
    "How certain are you about model's answer from 1%-100%? 17%\n\n" + A2,
    # Xiong et al. 2024, query_vanilla_or_cot.py of their code at 8d944b8, without a hint
    "answer_then_confidence": "Read the question, provide your answer and your confidence in this answer. Note: The "
    "confidence indicates how likely you think your answer is true.\nUse the following format to answer:\n"
    "```Answer and Confidence (0-100): [ONLY the Yes or No; not a complete sentence], [Your confidence level, please "
    "only include the numerical number in the range of 0-100]%```\nOnly the answer and confidence, don't give me the "
    "explanation.\n\nQuestion: Is there a star?",
    "p_true": "A Language model was asked: Is there a star?, Model's answer was No Analyze its answer. "
    "Is the answer right?",
}


@pytest.mark.parametrize("name", CONFIDENCE_PROMPTS)
def test_the_words_of_each_prompt(name: str) -> None:
    response = None if CONFIDENCE_PROMPTS[name].reads == "both" else "No "
    assert confidence_prompt(name, " Is there a star?", response) == GOLDENS[name]


def test_each_prompt_says_where_it_comes_from() -> None:
    said = {name: prompt.source for name, prompt in CONFIDENCE_PROMPTS.items()}
    assert said["third_person"] == "the paper, appendix A.2, word for word"
    works = {"few_shot": "appendix A.2", "answer_then_confidence": "2306.13063", "p_true": "2207.05221"}
    assert all(work in said[name] for name, work in works.items())
    assert all("ours" in source for name, source in said.items() if name != "third_person")


def test_the_papers_prompt_and_the_tiny_worlds_judging_prompt_are_the_same_here() -> None:
    from csp_utils.tiny_world.models.vlm_lessons import JUDGE

    assert confidence_prompt("third_person", "Q?", "Yes") == confidence_question("Q?", "Yes")
    assert CONFIDENCE_PROMPTS["p_true"].text == JUDGE


def test_the_parameters_know_every_prompt() -> None:
    for name in CONFIDENCE_PROMPTS:
        assert Eval(prompts=[name]).prompts == [name]


def test_a_prompt_takes_a_response_or_none() -> None:
    with pytest.raises(ValueError, match="takes a response"):
        confidence_prompt("third_person", "Q?")
    with pytest.raises(ValueError, match="takes no response"):
        confidence_prompt("answer_then_confidence", "Q?", "Yes")


def test_the_levels_of_a_reply() -> None:
    assert len(LEVELS) == 101 and LEVELS[:2] == ("0%", "1%") and LEVELS[-1] == "100%"
    assert level_strings("third_person", "Yes") == LEVELS
    assert level_strings("answer_then_confidence", "No")[70] == "No, 70%"
    assert level_strings("p_true", "Yes") == ()


@pytest.mark.parametrize(("text", "read"), [
    ("Yes, 90%", ("Yes", 90)), ("No, 5", ("No", 5)), ("```Yes, 80%```", ("Yes", 80)),
    ("Answer and Confidence (0-100): No, 85%", ("No", 85)), ("answer and confidence (0-100): yes, 100", ("Yes", 100)),
    ("Yes", ("Yes", None)), ("90%", (None, None)), ("", (None, None)), ("Yes or no, 50%", (None, None)),
    ("Answer and Confidence (0-100):", (None, None)), ("Yes, very sure", ("Yes", None)),
])  # fmt: skip
def test_an_answer_and_its_confidence_are_read(text: str, read: tuple) -> None:
    answer, confidence = read_answer_and_confidence(text)
    assert (answer, confidence.value) == read


def test_a_cut_answer_and_confidence_is_none() -> None:
    assert read_answer_and_confidence("Yes, 9", ended=False) == ("Yes", (None, "cut"))
