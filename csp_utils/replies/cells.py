"""Read single cells of a file of replies: a confidence, an answer, a text, whether a reply was cut."""

import math
import re
from typing import Any, NamedTuple

from csp_utils.base.errors import UserError, short
from csp_utils.replies.checks import MISSING_WORDS, is_none
from csp_utils.words.answers import stated
from csp_utils.words.confidence import Reading, read_confidence
from csp_utils.words.confidence_prompts import read_answer_and_confidence

FAILED = re.compile(r"^Failed to obtain answer\b")
"""What VLMEvalKit stores in place of a reply that it did not get."""
CUT = frozenset({"false", "0", "length", "max_tokens", "max_length"})
"""What the column ``ended`` holds of a reply that the token budget cut: false, or a server's finish reason."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s?%")


class Found(NamedTuple):
    """A confidence that was read from a row; both numbers are NaN if there is a reason."""

    number: float = math.nan
    """As the file writes it, in the file's scale."""
    percent: float = math.nan
    """In percent, as the text itself says."""
    reason: str | None = None
    """Why no confidence was read: a key of :data:`csp_utils.replies.read.REASONS`."""
    answer: str | None = None
    """The Yes or No that the reply states, where it was asked for."""


def text_of(value: Any) -> str | None:
    """Return a cell as text without spaces around it; None for an empty or a missing one."""
    if isinstance(value, str):
        return value.strip() or None
    return None if is_none(value) else str(value)


def reply_of(value: Any, where: str) -> str | None:
    """Return the text of a reply, which lmms-eval stores inside of one or two lists; None if there is none.

    Raises UserError if there are several replies, or a reply is no text.
    """
    while isinstance(value, list | tuple) or hasattr(value, "tolist"):
        value = value.tolist() if hasattr(value, "tolist") else value
        if not isinstance(value, list | tuple):
            break
        if len(value) != 1:
            raise UserError(f"{where} holds {len(value)} replies; give one reply a row (a task that is scored by the "
                            "likelihoods of its options has no reply to read).")  # fmt: skip
        value = value[0]
    if isinstance(value, str):
        return value
    if is_none(value):
        return None
    raise UserError(f"{where} holds {short(value)} as its reply, which is no text; name the column of texts as reply.")


def ended(value: Any) -> bool:
    """Tell whether a reply ended by itself; True where the file does not say."""
    return str(value).strip().lower() not in CUT


def confidence_of(value: Any, answer: str | None, has_ended: bool) -> Found:
    """Read the cell of a column of confidences: a number, or a text that states one about ``answer``."""
    if not isinstance(value, str):
        return Found(reason="empty") if is_none(value) else Found(number=value)
    text = value.strip()
    if text.lower() in MISSING_WORDS:
        return Found(reason="empty")
    if _NUMBER.fullmatch(text):
        return Found(number=float(text))
    if percent := _PERCENT.fullmatch(text):
        said = float(percent[1])
        return Found(percent=said) if said <= 100 else Found(reason="out of range")
    return _found(read_confidence(text, answer, has_ended), answer)


def words_of(value: Any) -> str | None:
    """Return the text of a cell of confidences if it is words and not just a number; None otherwise."""
    text = value.strip() if isinstance(value, str) else ""
    return None if not text or _NUMBER.fullmatch(text) or _PERCENT.fullmatch(text) else text


def confidence_in(reply: str | None, with_answer: bool, has_ended: bool) -> Found:
    """Read a whole reply: its confidence and, if asked for, the Yes or No that it is about."""
    if problem := problem_of(reply):
        return Found(reason=problem)
    assert reply is not None
    if not with_answer:
        return _found(read_confidence(reply, None, has_ended), None)
    answer, reading = read_answer_and_confidence(reply, has_ended)
    return Found(reason="no answer") if answer is None else _found(reading, answer)


def answer_in(text: str | None) -> str | None:
    """Return the Yes or No that a text states, None if it states neither or both."""
    return None if text is None or FAILED.match(text) else stated(text)


def problem_of(reply: str | None) -> str | None:
    """Return why a reply is none: "empty", or "failed" for a stored error message; None for a reply."""
    if reply is None or not reply.strip():
        return "empty"
    return "failed" if FAILED.match(reply) else None


def _found(reading: Reading, answer: str | None) -> Found:
    return Found(percent=math.nan if reading.value is None else float(reading.value), answer=answer,
                 reason=reading.reason if reading.value is None else None)  # fmt: skip
