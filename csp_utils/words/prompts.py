"""Every prompt of the paper, word for word, and the readers of what models answer.

The prompts are those of the paper's appendix A. The readers return None for whatever is not plainly an answer: a
failure is counted (``parse_failure_rate``), it never becomes a number.
"""


KEYWORD_PROMPT = """\
Extract the single most important keyword (a noun or object) from each of the following question-answer pairs. \
Provide only one keyword.

Example 1: Question: What kind of potato chips are on the plate? Answer: There are some light yellow thin slice-shaped \
potato chips in this plate, which look very crispy. Keyword: potato chips

Example 2: Question: What color is the car parked outside the house? Answer: The car parked outside is a bright red \
sedan. Keyword: car

Example 3: Question: What kind of fruits are in the basket? Answer: The basket contains fresh green apples and ripe \
yellow bananas. Keyword: fruits

Now, using the following question and answer, extract one most important keyword. Just output the keyword directly.

Question: {question} Answer: {answer} Keyword:"""
"""Prompt A.1 (key object); fields: question, answer. The paper's text shows where paragraphs end and no other line
breaks."""

CONFIDENCE_PROMPT = (
    "A Language model was asked: {query}, Model's answer was {response} Analyze its answer. "
    "How certain are you about model's answer from 1%-100%?"
)
"""Prompt A.2 (verbalised confidence, third person); fields: query, response."""

YES_NO_HINT = "Please answer yes or no."
"""What many evaluations append to POPE's and AMBER's questions. The paper does not, and neither do we by default."""


def keyword_prompt(question: str, answer: str) -> str:
    """Prompt A.1 for one question and its answer (outer white space of both removed)."""
    return KEYWORD_PROMPT.format(question=question.strip(), answer=answer.strip())


def confidence_question(query: str, response: str) -> str:
    """Prompt A.2 for a query and the response to be judged: q_c of the paper, section 3.2."""
    return CONFIDENCE_PROMPT.format(query=query.strip(), response=response.strip())


def confidence_answer(c: int) -> str:
    """The response r_c of the paper, section 3.2: ``c`` in whole percent (0 to 100) as "c%"."""
    if isinstance(c, bool) or int(c) != c or not 0 <= c <= 100:
        raise ValueError(f"a confidence is a whole number from 0 to 100, not {c!r}")
    return f"{int(c)}%"


def plain_question(question: str, hint: bool = False) -> str:
    """The question itself, as POPE and AMBER put it; ``hint`` appends :data:`YES_NO_HINT`."""
    return f"{question.strip()} {YES_NO_HINT}" if hint else question.strip()


# ---------------------------------------------------------------------------------------------------------------------
# Reading a verbalised confidence
