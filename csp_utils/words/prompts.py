"""The prompts of the paper's appendix A, word for word.

:mod:`csp_utils.words.confidence_prompts` has further ways to ask for a confidence, and
:mod:`csp_utils.words.reading` reads the replies.
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
"""Prompt A.1 (key object); fields: question, answer. Line breaks are where the paper's paragraphs end."""

CONFIDENCE_PROMPT = (
    "A Language model was asked: {query}, Model's answer was {response} Analyze its answer. "
    "How certain are you about model's answer from 1%-100%?"
)
"""Prompt A.2 (verbalized confidence, third person); fields: query, response."""

YES_NO_HINT = "Please answer yes or no."
"""A hint that many evaluations append to POPE's and AMBER's questions. The paper does not; we do not by default."""


def keyword_prompt(question: str, answer: str) -> str:
    """Fill prompt A.1 with a question and its answer, both stripped of outer white space."""
    return KEYWORD_PROMPT.format(question=question.strip(), answer=answer.strip())


def confidence_question(query: str, response: str) -> str:
    """Fill prompt A.2 with a query and the response to be judged: q_c of the paper, section 3.2."""
    return CONFIDENCE_PROMPT.format(query=query.strip(), response=response.strip())


def confidence_answer(c: int) -> str:
    """Write ``c`` (whole percent, 0 to 100) as "c%": the response r_c of the paper, section 3.2."""
    if isinstance(c, bool) or int(c) != c or not 0 <= c <= 100:
        raise ValueError(f"a confidence is a whole number from 0 to 100, not {c!r}")
    return f"{int(c)}%"


def plain_question(question: str, hint: bool = False) -> str:
    """Return the question as POPE and AMBER state it; ``hint`` appends :data:`YES_NO_HINT`."""
    return f"{question.strip()} {YES_NO_HINT}" if hint else question.strip()
