"""All prompts that ask for a confidence, as data: each with its source and with the form of its reply.

The paper has one: prompt A.2, in the third person. Each of the others changes one thing: who gave the answer, whether
examples precede the question, whether one reply contains the answer and the confidence, or whether the reply is a
number at all.
"""

import re
from dataclasses import dataclass
from typing import Literal

from csp_utils.words.answers import stated
from csp_utils.words.confidence import Reading, read_confidence
from csp_utils.words.prompts import CONFIDENCE_PROMPT, confidence_answer, confidence_question

LEVELS = tuple(confidence_answer(c) for c in range(101))
"""The 101 answers "0%" .. "100%", over which ``methods: expected`` computes a distribution."""

ECHO = "Answer and Confidence (0-100):"
"""Part of the format in answer_then_confidence; a reply may repeat it."""


@dataclass(frozen=True)
class ConfidencePrompt:
    """One prompt that asks for a confidence."""

    text: str
    """The text. Fields: query (the question) and, unless ``reads`` is "both", response (the answer to judge)."""
    source: str
    """Source of the text, and which of its words are ours."""
    reads: Literal["percent", "yes_no", "both"] = "percent"
    """Form of the reply. percent: the confidence in ``response``. yes_no: whether ``response`` is right. both: the
    model's own answer, and its confidence in it."""


_EXAMPLES = (
    ("Is there a dog in the image?", "Yes", 92),
    ("Is the car behind the tree blue?", "No", 64),
    ("Is there a cup on the table?", "Yes", 17),
)

CONFIDENCE_PROMPTS: dict[str, ConfidencePrompt] = {
    "third_person": ConfidencePrompt(CONFIDENCE_PROMPT, "the paper, appendix A.2, word for word"),
    "first_person": ConfidencePrompt(
        "You were asked: {query}, Your answer was {response} Analyze your answer. "
        "How certain are you about your answer from 1%-100%?",
        "ours: prompt A.2 with the person changed and nothing else; section 3.2 of the paper prefers the third person",
    ),
    "few_shot": ConfidencePrompt(
        "".join(f"{confidence_question(q, r)} {confidence_answer(c)}\n\n" for q, r, c in _EXAMPLES) + CONFIDENCE_PROMPT,
        'the paper, appendix A.2: "a few-shot prompt may be used in some models"; it prints none, so these three are '
        "ours (text alone, one high, one middling and one low number)",
    ),
    "answer_then_confidence": ConfidencePrompt(
        "Read the question, provide your answer and your confidence in this answer. Note: The confidence indicates how "
        "likely you think your answer is true.\nUse the following format to answer:\n```" + ECHO + " [ONLY the Yes or "
        "No; not a complete sentence], [Your confidence level, please only include the numerical number in the range "
        "of 0-100]%```\nOnly the answer and confidence, don't give me the explanation.\n\nQuestion: {query}",
        'Xiong et al. 2024 (arXiv 2306.13063), the "vanilla" prompt as their published code writes it; the answer type '
        '"Yes or No" is ours',
        "both",
    ),
    "p_true": ConfidencePrompt(
        "A Language model was asked: {query}, Model's answer was {response} Analyze its answer. "
        "Is the answer right?",
        "P(True) of Kadavath et al. 2022 (arXiv 2207.05221), section 3, with the answers Yes and No in place of their "
        "True and False; the words are prompt A.2's with another last sentence: ours",
        "yes_no",
    ),
}  # fmt: skip
"""All prompts by their names in the parameters and tables."""


def confidence_prompt(name: str, query: str, response: str | None = None) -> str:
    """Fill prompt ``name`` with a query and a response; a prompt that reads "both" takes no response.

    Raises ValueError if a response is missing or one too many.
    """
    prompt = CONFIDENCE_PROMPTS[name]
    if (response is None) != (prompt.reads == "both"):
        raise ValueError(f"prompt {name} takes {'no' if prompt.reads == 'both' else 'a'} response")
    fields = {"query": query.strip()} | ({} if response is None else {"response": response.strip()})
    return prompt.text.format(**fields)


def level_strings(name: str, response: str) -> tuple[str, ...]:
    """List the 101 replies to prompt ``name`` that mean 0 to 100 % for ``response``; () if the reply is no number."""
    reads = CONFIDENCE_PROMPTS[name].reads
    if reads == "yes_no":
        return ()
    return tuple(f"{response}, {level}" for level in LEVELS) if reads == "both" else LEVELS


def read_answer_and_confidence(reply: str, ended: bool = True) -> tuple[str | None, Reading]:
    """Read a reply to answer_then_confidence, for example "Yes, 90%".

    Args:
        ended: as for :func:`csp_utils.words.confidence.read_confidence`.

    Returns:
        the answer ("Yes", "No", or None if the reply states none), and the confidence in it. Without an answer the
        confidence is None, because it refers to nothing.
    """
    text = reply.strip().strip("`").strip()
    if text.lower().startswith(ECHO.lower()):
        text = text[len(ECHO) :]
    answer = stated(text)
    read = read_confidence(re.sub(r"^\W*(?:yes|no)\b[\s,.:;]*", "", text, flags=re.IGNORECASE), answer, ended)
    return answer, read if answer else Reading(None, "none")
