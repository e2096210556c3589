"""The tables of what a model replied: responses.parquet and elicitations.parquet.

responses.parquet has what the paper's protocol needs. elicitations.parquet repeats its confidences and adds all other
prompts and methods in one form, a row for each reply, draw or distribution, so that they can be compared.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

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
    "candidate": "object",  # Yes or No; null: an answer of the model itself (answer_then_confidence, plain) is neither
    "label": "Int64",  # 1 if the candidate is right, else 0; null without one
    "prompt": "object",  # a name of CONFIDENCE_PROMPTS; plain: the question itself, whose reply is the candidate
    "method": "object",  # greedy, sampled, expected; first_token for p_true; blurred: the plain question, blurred image
    "draw": "Int64",  # 0.. of a sampled reply or of a blurred image, else null
    "raw": "object",  # the reply; null for expected and first_token, which use probabilities
    "value": "float64",  # the confidence in percent, 0..100: read from raw, the distribution's mean, or 100 P(Yes) /
    # (P(Yes) + P(No)) of the first token; null if raw holds no clear one, the mass is 0, or the prompt asks for none
    "mode": "Int64",  # of expected: the likeliest percent
    "spread": "float64",  # of expected: the standard deviation, in percent points
    "mass": "float64",  # of expected: probability of all 101 answers together; of first_token: P(Yes) + P(No); 0..1
    "probabilities": "object",  # of expected: 101 of them, array of float32, sum 1
}
"""Columns of elicitations.parquet and their types."""


class Distribution(NamedTuple):
    """How often a model would give each of the 101 answers "0%" .. "100%" at temperature 1.

    Greedy decoding shows only the likeliest answer: a model that says "95%" to everything may give it a probability of
    60 % in one case and of 99 % in another.
    """

    probabilities: np.ndarray
    """float64 (101,): of 0 .. 100 percent; they sum to 1."""
    mass: float
    """Probability, 0..1, that a reply is one of the 101 answers. If it is far below 1, the model rarely replies with a
    bare percentage, and this distribution describes only those rare replies."""
    mean: float
    """In percent, 0..100."""
    mode: int
    """The likeliest percent; of equally likely ones the lowest."""
    spread: float
    """Standard deviation in percent points, 0..50."""


def distribution(probabilities: Sequence[float]) -> Distribution | None:
    """Normalize the probabilities of the 101 answers as whole replies; None if all of them are 0."""
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != (101,):
        raise ValueError(f"101 probabilities are needed, not an array of shape {values.shape}")
    mass = float(values.sum())
    if not mass > 0:
        return None
    values, percent = values / mass, np.arange(101)
    mean = float(values @ percent)
    return Distribution(values, mass, mean, int(values.argmax()), float(np.sqrt(values @ (percent - mean) ** 2)))


def responses_table(replies: pd.DataFrame, questions: pd.DataFrame, model: str, variant: str) -> pd.DataFrame:
    """Make the rows of responses.parquet for one variant.

    Args:
        replies: as :func:`csp_utils.asking.elicitation.elicit` returns them.
        questions: the table of :mod:`csp_utils.data.benchmarks` with the column path.

    Returns:
        the columns of :mod:`csp_utils.measures.metrics`.
    """
    replies = replies[replies["name"].isin(["third_person", "plain"])]
    of = {(row.path, row.question, row.kind): row for row in replies.itertuples()}
    rows = []
    for q in questions.itertuples():
        plain = of[q.path, q.question, "plain"]
        total = plain.p_yes + plain.p_no
        for candidate, p in zip(CANDIDATES, (plain.p_yes, plain.p_no), strict=True):
            raw = of[q.path, q.question, candidate].raw
            rows.append(_question(q, model, variant) | {
                "label": int(q.label == candidate.lower()), "candidate": candidate, "raw": raw,
                "verbalized": parse_confidence(raw), "internal": p / total if total > 0 else None,
                "plain_answer": parse_yes_no(plain.raw)})  # fmt: skip
    return pd.DataFrame(rows).astype({"label": "int64", "verbalized": "Int64", "internal": "float64"})


def elicitations_table(replies: pd.DataFrame, questions: pd.DataFrame, model: str, variant: str,
                       prompts: Collection[str], methods: Collection[str]) -> pd.DataFrame:  # fmt: skip
    """Make the rows of elicitations.parquet for one variant.

    A question of several splits has its rows in each. A prompt that has the model answer itself gives one greedy row a
    question (and one a draw), whose candidate is that answer. Under ``expected`` it gives one row a candidate: the
    distribution of the confidence given that answer, and as mass the probability of a reply of this form.

    Args:
        replies, questions: as for :func:`responses_table`.
        prompts, methods: the prompts and methods that the table holds.

    Returns:
        the columns of :data:`DTYPES`.
    """
    of: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in replies[replies["name"].isin([*prompts, "plain", "blurred"])].itertuples():
        found = of.setdefault((row.path, row.question), [])
        if row.name == "blurred":
            found.append(_plain_row(row.raw, "blurred", sum(one["method"] == "blurred" for one in found)))
        elif row.name == "plain":  # the greedy plain answer is in responses.parquet
            found += [_plain_row(raw, "sampled", draw) for draw, raw in enumerate(row.samples)]
        else:
            found += _confidence_rows(row, methods)
    rows = []
    for q in questions.itertuples():
        for one in of.get((q.path, q.question), []):
            candidate = one["candidate"]
            label = None if candidate is None else int(q.label == candidate.lower())
            rows.append(_question(q, model, variant) | {"label": label} | one)
    return pd.DataFrame(rows, columns=list(DTYPES)).astype(DTYPES)


def _question(q: Any, model: str, variant: str) -> dict[str, str]:
    """Return the columns that name a question, the same in both tables."""
    return {"model": model, "variant": variant, "split": q.split, "question_id": q.question_id, "image": q.image,
            "question": q.question}  # fmt: skip


def _plain_row(raw: str, method: str, draw: int) -> dict[str, Any]:
    """Make the row of a sampled answer to the plain question, or of one about a blurred image."""
    return {"prompt": "plain", "candidate": parse_yes_no(raw), "method": method, "draw": draw, "raw": raw}


def _confidence_rows(row: Any, methods: Collection[str]) -> Iterator[dict[str, Any]]:
    """Make the rows of one confidence prompt about one question."""
    about, reads = {"prompt": row.name}, CONFIDENCE_PROMPTS[row.name].reads
    if reads == "yes_no":
        mass = row.p_yes + row.p_no
        value = 100 * row.p_yes / mass if mass > 0 else None
        yield about | {"candidate": row.kind, "method": "first_token", "value": value, "mass": mass}
        return

    def reply_row(raw: str) -> dict[str, Any]:
        both = reads == "both"
        candidate, value = parse_answer_and_confidence(raw) if both else (row.kind, parse_confidence(raw))
        return about | {"candidate": candidate, "raw": raw, "value": value}

    if "greedy" in methods:
        yield reply_row(row.raw) | {"method": "greedy"}
    for draw, raw in enumerate(row.samples):
        yield reply_row(raw) | {"method": "sampled", "draw": draw}
    for i, candidate in enumerate(CANDIDATES if reads == "both" else (row.kind,)):
        levels = np.asarray(row.levels[101 * i : 101 * (i + 1)], dtype=np.float64)
        if len(levels):
            expected = distribution(levels)
            yield about | {"candidate": candidate, "method": "expected", "mass": float(levels.sum())} | (
                {} if expected is None else {"value": expected.mean, "mode": expected.mode, "spread": expected.spread,
                                             "probabilities": expected.probabilities.astype(np.float32)})
