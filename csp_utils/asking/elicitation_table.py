"""Make elicitations.parquet, which has a row for every reply, draw and distribution that tells a confidence.

responses.parquet holds the replies of the paper's protocol. This table holds them as well, and those of all other
prompts and methods, in one form, so that they can be compared.
"""

from collections.abc import Collection, Iterator
from typing import Any

import pandas as pd

from csp_utils.asking.expected import distribution
from csp_utils.models.vlm.reply import CANDIDATES
from csp_utils.words.confidence_prompts import CONFIDENCE_PROMPTS, parse_answer_and_confidence
from csp_utils.words.reading import parse_confidence, parse_yes_no

DTYPES = {
    "model": "object",
    "variant": "object",
    "split": "object",
    "question_id": "object",
    "image": "object",
    "question": "object",
    "candidate": "object",  # Yes or No; null: the model's own answer could not be read (answer_then_confidence, plain)
    "label": "Int64",  # 1 if the candidate is right, else 0; null without one
    "prompt": "object",  # a name of CONFIDENCE_PROMPTS; plain: the question itself; its reply is the candidate
    "method": "object",  # greedy, sampled, expected; first_token for p_true; blurred: the plain question, blurred image
    "draw": "Int64",  # 0.. of a sampled reply or of a blurred image, else null
    "raw": "object",  # the reply; null for expected and first_token, which read none
    "value": "float64",  # the confidence in percent, 0..100: read from raw, the distribution's mean, or 100 P(Yes) /
    # (P(Yes) + P(No)) of the first token; null if none can be read, the mass is 0, or the prompt asks for none
    "mode": "Int64",  # of expected: the likeliest percent
    "spread": "float64",  # of expected: the standard deviation, in percent points
    "mass": "float64",  # of expected: probability of all 101 answers together; of first_token: P(Yes) + P(No); 0..1
    "probabilities": "object",  # of expected: 101 of them, list of float64, sum 1
}
"""Columns and their types."""


def elicitations_table(asked: pd.DataFrame, questions: pd.DataFrame, model: str, variant: str,
                       prompts: Collection[str], methods: Collection[str]) -> pd.DataFrame:
    """Return the rows of one variant.

    A question of several splits has its rows in each split. A prompt that makes the model answer itself gives one
    greedy row a question, and one row a draw; the candidate of these rows is the model's answer. Under ``expected`` the
    prompt gives one row a candidate: the distribution of the confidence given that answer. The mass of this row is the
    probability of the answer in the form that the prompt asks for.

    Args:
        asked: as :func:`csp_utils.asking.elicitation.elicit` returns it.
        questions: the table of :mod:`csp_utils.data.benchmarks` with the column path.
        prompts, methods: names of those that go into the table.

    Returns:
        the columns of :data:`DTYPES`.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in asked[asked["name"].isin([*prompts, "plain", "blurred"])].itertuples():
        rows_of = found.setdefault((row.path, row.question), [])
        if row.name == "blurred":
            draw = sum(one["method"] == "blurred" for one in rows_of)
            rows_of.append(_answer(row.raw, "blurred", draw))
        elif row.name == "plain":
            rows_of += [_answer(raw, "sampled", draw) for draw, raw in enumerate(row.samples)]
        else:
            rows_of += _rows(row, methods)
    rows = []
    for q in questions.itertuples():
        shared = {"model": model, "variant": variant, "split": q.split, "question_id": q.question_id,
                  "image": q.image, "question": q.question}
        for one in found.get((q.path, q.question), []):
            candidate = one["candidate"]
            label = None if candidate is None else int(q.label == candidate.lower())
            rows.append(shared | {"label": label} | one)
    return pd.DataFrame(rows, columns=list(DTYPES)).astype(DTYPES)


def _answer(raw: str, method: str, draw: int) -> dict[str, Any]:
    """Return a row of an answer to the plain question; the greedy one about the sharp image is in responses.parquet."""
    return {"prompt": "plain", "candidate": parse_yes_no(raw), "method": method, "draw": draw, "raw": raw}


def _rows(row: Any, methods: Collection[str]) -> Iterator[dict[str, Any]]:
    """Return the rows of one prompt about one question."""
    about = {"prompt": row.name}
    reads = CONFIDENCE_PROMPTS[row.name].reads
    if reads == "yes_no":
        mass = row.p_yes + row.p_no
        value = 100 * row.p_yes / mass if mass > 0 else None
        yield about | {"candidate": row.kind, "method": "first_token", "value": value, "mass": mass}
        return

    def said(raw: str) -> dict[str, Any]:
        candidate, value = (
            parse_answer_and_confidence(raw) if reads == "both" else (row.kind, parse_confidence(raw))
        )
        return about | {"candidate": candidate, "raw": raw, "value": value}

    if "greedy" in methods:
        yield said(row.raw) | {"method": "greedy"}
    for draw, raw in enumerate(row.samples):
        yield said(raw) | {"method": "sampled", "draw": draw}
    for i, candidate in enumerate(CANDIDATES if reads == "both" else (row.kind,)):
        levels = list(row.levels)[101 * i : 101 * (i + 1)]
        if levels:
            expected = distribution(levels)
            yield about | {"candidate": candidate, "method": "expected", "mass": sum(levels)} | (
                {} if expected is None else {"value": expected.mean, "mode": expected.mode, "spread": expected.spread,
                                             "probabilities": expected.probabilities.tolist()})
