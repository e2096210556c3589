"""The tables of what a model replied: responses.parquet and elicitations.parquet.

responses.parquet has what the paper's protocol needs. elicitations.parquet repeats its confidences and adds all other
prompts and methods in one form, a row for each reply, draw or distribution, so that they can be compared.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from csp_utils.models.vlm.reply import CANDIDATES
from csp_utils.words.answers import RULES, rule_of, stated
from csp_utils.words.confidence import read_confidence
from csp_utils.words.confidence_prompts import CONFIDENCE_PROMPTS, read_answer_and_confidence

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
    "reason": "object",  # which pattern read raw, or why there is no value; null where nothing is read
    "ended": "boolean",  # whether the model ended raw; False if the token budget cut it
    "value": "float64",  # the confidence in percent, 0..100: read from raw, the distribution's mean, or 100 P(Yes) /
    # (P(Yes) + P(No)) of the first token; null if raw holds no clear one, the mass is too small, or none is asked for
    "mode": "Int64",  # of expected: the likeliest percent
    "spread": "float64",  # of expected: the standard deviation, in percent points
    "mass": "float64",  # of expected: probability of all 101 answers together; of first_token: P(Yes) + P(No); 0..1
    "probabilities": "object",  # of expected: 101 of them, array of float32, sum 1
}
"""Columns of elicitations.parquet and their types."""


SMALL_MASS = "small mass"
"""Reason for which a confidence is null: the texts over which it is normalised are too improbable together."""


@dataclass(frozen=True)
class Rules:
    """How replies and probabilities become confidences and answers."""

    model_name: str
    """The model's name in the tables."""
    min_mass: float = 0.0
    """Least probability of the texts over which a confidence is normalised; below it, the confidence is null."""
    answer_rule: str = "benchmark"
    """Rule for plain answers, as :func:`csp_utils.words.answers.rule_of` takes it."""

    def share(self, part: float, mass: float) -> float | None:
        """Return ``part / mass``, or None if the mass is 0 or below the least one."""
        return part / mass if mass > 0 and mass >= self.min_mass else None


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


def responses_table(replies: pd.DataFrame, questions: pd.DataFrame, variant: str, rules: Rules) -> pd.DataFrame:
    """Make the rows of responses.parquet for one variant.

    Args:
        replies: as :func:`csp_utils.asking.elicitation.elicit` returns them.
        questions: the table of :mod:`csp_utils.data.benchmarks` with the column path.

    Returns:
        the columns of :mod:`csp_utils.measures.metrics`; and reason (which pattern read raw, or why it was not read),
        ended (whether the model ended raw), mass (P(Yes) + P(No) as the first token of the plain answer, 0..1),
        internal_reason (:data:`SMALL_MASS` where internal is null for it), plain_raw and plain_ended (the reply to the
        question itself).
    """
    replies = replies[replies["name"].isin(["third_person", "plain"])]
    of = {(row.path, row.question, row.kind): row for row in replies.itertuples()}
    rows = []
    for q in questions.itertuples():
        plain = of[q.path, q.question, "plain"]
        mass = plain.p_yes + plain.p_no
        answer = RULES[rule_of(q.split, rules.answer_rule)](plain.raw, q.question)
        for candidate, p in zip(CANDIDATES, (plain.p_yes, plain.p_no), strict=True):
            reply = of[q.path, q.question, candidate]
            read = read_confidence(reply.raw, candidate, reply.ended)
            rows.append(_question(q, rules, variant) | {
                "label": int(q.label == candidate.lower()), "candidate": candidate, "raw": reply.raw,
                "verbalized": read.value, "internal": rules.share(p, mass), "plain_answer": answer,
                "reason": read.reason, "ended": bool(reply.ended), "mass": mass,
                "internal_reason": None if rules.share(p, mass) is not None else SMALL_MASS, "plain_raw": plain.raw,
                "plain_ended": bool(plain.ended)})  # fmt: skip
    return pd.DataFrame(rows).astype({"label": "int64", "verbalized": "Int64", "internal": "float64"})


def elicitations_table(replies: pd.DataFrame, questions: pd.DataFrame, variant: str, rules: Rules,
                       ways: tuple[Collection[str], Collection[str]]) -> pd.DataFrame:  # fmt: skip
    """Make the rows of elicitations.parquet for one variant.

    A question of several splits has its rows in each. A prompt that has the model answer itself gives one greedy row a
    question (and one a draw), whose candidate is that answer. Under ``expected`` it gives one row a candidate: the
    distribution of the confidence given that answer, and as mass the probability of a reply of this form.

    Args:
        replies, questions: as for :func:`responses_table`.
        ways: the prompts and the methods that the table holds.

    Returns:
        the columns of :data:`DTYPES`.
    """
    prompts, methods = ways
    of: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in replies[replies["name"].isin([*prompts, "plain", "blurred"])].itertuples():
        found = of.setdefault((row.path, row.question), [])
        if row.name == "blurred":
            draw = sum(one["method"] == "blurred" for one in found)
            found.append(_plain_row(row.raw, row.ended, "blurred", draw) | {"candidate": stated(row.raw, row.question)})
        elif row.name == "plain":  # the greedy plain answer is in responses.parquet
            found += [_plain_row(raw, ended, "sampled", draw) | {"candidate": stated(raw, row.question)}
                      for draw, (raw, ended) in enumerate(zip(row.samples, row.samples_ended, strict=True))]
        else:
            found += _confidence_rows(row, methods, rules)
    rows = []
    for q in questions.itertuples():
        for one in of.get((q.path, q.question), []):
            candidate = one["candidate"]
            label = None if candidate is None else int(q.label == candidate.lower())
            rows.append(_question(q, rules, variant) | {"label": label} | one)
    return pd.DataFrame(rows, columns=list(DTYPES)).astype(DTYPES)


def _question(q: Any, rules: Rules, variant: str) -> dict[str, str]:
    """Return the columns that name a question, the same in both tables."""
    return {"model": rules.model_name, "variant": variant, "split": q.split, "question_id": q.question_id,
            "image": q.image, "question": q.question}  # fmt: skip


def _plain_row(raw: str, ended: bool, method: str, draw: int) -> dict[str, Any]:
    """Make the row of a sampled answer to the plain question, or of one about a blurred image."""
    return {"prompt": "plain", "method": method, "draw": draw, "raw": raw, "ended": bool(ended)}


def _confidence_rows(row: Any, methods: Collection[str], rules: Rules) -> Iterator[dict[str, Any]]:
    """Make the rows of one confidence prompt about one question."""
    about, reads = {"prompt": row.name}, CONFIDENCE_PROMPTS[row.name].reads
    if reads == "yes_no":
        mass = row.p_yes + row.p_no
        share = rules.share(row.p_yes, mass)
        yield about | {"candidate": row.kind, "method": "first_token", "mass": mass} | (
            {"reason": SMALL_MASS} if share is None else {"value": 100 * share})
        return

    def reply_row(raw: str, ended: bool) -> dict[str, Any]:
        if reads == "both":
            candidate, read = read_answer_and_confidence(raw, ended)
        else:
            candidate, read = row.kind, read_confidence(raw, row.kind, ended)
        return about | {"candidate": candidate, "raw": raw, "ended": bool(ended), "reason": read.reason,
                        "value": read.value}  # fmt: skip

    if "greedy" in methods:
        yield reply_row(row.raw, row.ended) | {"method": "greedy"}
    for draw, (raw, ended) in enumerate(zip(row.samples, row.samples_ended, strict=True)):
        yield reply_row(raw, ended) | {"method": "sampled", "draw": draw}
    for i, candidate in enumerate(CANDIDATES if reads == "both" else (row.kind,)):
        levels = np.asarray(row.levels[101 * i : 101 * (i + 1)], dtype=np.float64)
        if len(levels):
            mass = float(levels.sum())
            expected = distribution(levels) if rules.share(mass, mass) is not None else None
            found = {"reason": SMALL_MASS} if expected is None else {
                "value": expected.mean, "mode": expected.mode, "spread": expected.spread,
                "probabilities": expected.probabilities.astype(np.float32)}  # fmt: skip
            yield about | {"candidate": candidate, "method": "expected", "mass": mass} | found
