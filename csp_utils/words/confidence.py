"""Read a verbalized confidence from a reply (paper, section 4.1: the reply to prompt A.2).

A number counts if one of :data:`csp_utils.words.confidence_patterns.PATTERNS` matches it. It is refused if what stands
around it says so: a range, a negation, the end of a cut reply, or a statement about another answer. Every reading has
its reason: the name of the pattern that read it, or one of :data:`REFUSALS`.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from csp_utils.words.confidence_patterns import PATTERNS, RIGHT, SURE, N
from csp_utils.words.stance import against, first_rejection, rejects
from csp_utils.words.text import plain

REFUSALS = {
    "none": "states no confidence as a number",
    "cut": "ends at the token budget before the number, or the sentence around it, is complete",
    "range": "gives a range or a bound instead of a number",
    "several": "gives several numbers",
    "other answer": "is about another answer than the one it should judge, or calls that one wrong",
    "hedged": "denies the number, as in “not 100% sure”",
    "out of range": "gives a number outside 0 to 100, or on a scale of its own",
    "no text": "is not a text",
}
"""Reasons for which a reply is not read -> what such a reply does."""

WHOLES = (1, 2, 3, 4, 5, 10, 20, 50, 100)
"""Denominators of a confidence such as 9/10; "4/12" counts something."""


class Reading(NamedTuple):
    """What was read from a reply: the confidence in whole percent, 0..100, or None; and the reason."""

    value: int | None
    reason: str
    """Name of one of the patterns if there is a value, else one of :data:`REFUSALS`."""


_SCALE = re.compile(
    r"(?:\b(?:on|using|from|between|in|with|out of)?\s*(?:a|the)?\s*(?:scale|range)?\s*(?:of|from|between)?:?\s*)?"
    r"(?<![\w.-])[01]\s?%?\s?(?:-|to|and)\s?(?P<top>100?|1|5)(?:\.0)?\s?%?(?![\w./%])(?:\s*scale)?"
)
_BOUND = re.compile(r"(?:[<>≤≥]=?|\b(?:over|above|below|under|up to|at least|at most|nearly|almost|beyond|exceeds|"
                    r"exceeding|(?:more|less|greater|higher|lower|fewer|better) than|no (?:more|less) than))\s*$")
_RANGE_BEFORE = re.compile(r"\d\s?(?:%|percent)?\s?(?:-|to|and|or|through)\s?$|\bbetween\s*$")
_RANGE_AFTER = re.compile(r"\s?(?:-|\bto\b|\band\b|\bor\b|\bthrough\b)\s?(?:~\s?)?\d|\s?\+|"
                          r"\s?or (?:more|higher|above|less|lower)")
_HEDGED = re.compile(r"\b(?:not|never|cannot|hardly|neither|nor|no way)\b"
                     r"(?:\s+(?!so\b|but\b|and\b|thus\b)[\w']+){0,4}\s*$")
_DOUBTED = re.compile(r"\s*(?:uncertain(?:ty)?|unsure|doubt\w*|error|margin)\b")
_OPPOSITE = re.compile(r"\s*(?:in)?(?:wrong|incorrect|inaccurate|false|mistaken|untrue)\b")
_CERTAIN_THAT = re.compile(rf"^\s*(?:{SURE}|chance|probability|likelihood|possibility|likely|clear|obvious)?"
                           r"\s*\)?\s*(?:that\b)?")
_REASONS = re.compile(r"[,;]|\b(?:because|since|as|so|but|given|although|though|while)\b")
_NAMED = re.compile(r"\b(?:answer|response)\b[^.\n]{0,40}?\b(?:is|be|was)\s+(yes|no)\b")
_NOT = re.compile(r"\b(?:not|no|never|nothing|nobody|none)\b")
_NOT_WRONG = re.compile(r"\b(?:not|never)\s+(?:wrong|incorrect|false|mistaken)\b")
_ABOUT_ANSWER = re.compile(r"\b(?:answer|model|response|statement|assessment)\b"
                           rf"|\b(?:it|this|that|i)\b.{{0,30}}\b(?:{RIGHT}|so)\b")
_ANY_NUMBER = re.compile(N)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")


class _Found(NamedTuple):
    """A number that a pattern matched, where it begins, and why it is refused ("" if it is not)."""

    name: str
    value: int | None
    start: int
    refusal: str


def read_confidence(reply: str, response: str | None = None, ended: bool = True) -> Reading:
    """Read the confidence that a reply states in ``response``, the answer it was asked to judge.

    Args:
        reply: the model's reply.
        response: the judged answer, for example "Yes"; None if the reply judges an answer that it gives itself.
        ended: whether the model ended the reply; False if the token budget did. Of a reply that did not end, a number
            is read only if the sentence around it is complete.

    Returns:
        the confidence in whole percent, halves up, and the reason: which pattern read it, or why nothing was read.
    """
    if not isinstance(reply, str):
        return Reading(None, "no text")
    text, top = _prepared(reply)
    ranks: dict[int, list[_Found]] = {}
    for rank, found in _candidates(text, response, ended, top):
        ranks.setdefault(rank, []).append(found)
    refused: list[str] = []
    for _, candidates in sorted(ranks.items()):
        good = [one for one in candidates if not one.refusal]
        refused += [one.refusal for one in candidates if one.refusal]
        if not good:
            continue
        if len({one.value for one in good}) > 1:
            return Reading(None, "several")
        if any(one.refusal == "hedged" and one.value == good[0].value for one in candidates):
            return Reading(None, "hedged")
        if _is_against(text, reply, response, good[0]):
            return Reading(None, "other answer")
        return Reading(good[0].value, good[0].name)
    return Reading(None, refused[0] if refused else _why_none(text) if ended else "cut")


def _why_none(text: str) -> str:
    """Return why no pattern matched: what stands around the first number that is refused, or "none"."""
    numbers = islice(_ANY_NUMBER.finditer(text), 20)
    return next(filter(None, (_around(text, *match.span()) for match in numbers)), "none")


def _prepared(reply: str) -> tuple[str, int]:
    """Return the plain text without the prompt's scale, and the top of the scale that it names (100 by default)."""
    top = [100]

    def drop(match: re.Match) -> str:
        top.append(int(match["top"]))
        return "\n" if match[0].startswith("\n") else " "

    text = re.sub(r"[^\S\n]+", " ", _SCALE.sub(drop, plain(reply))).strip(" ")
    return text, top[-1] if top[-1] != 1 else 100


def _candidates(text: str, response: str | None, ended: bool, top: int) -> Iterator[tuple[int, _Found]]:
    """Yield every number that a pattern matches, with the pattern's rank."""
    rejected = first_rejection(text, own=response is None)
    for pattern in PATTERNS:
        for match in pattern.regex.finditer(text):
            start, end = match.start("n"), max(match.end("n"), match.end("unit"))
            value = _percent(match["n"], match["unit"] or "", top)
            refusal = _around(text, start, end)
            if pattern.rank > 2 and rejected is not None and rejected < start:
                refusal = refusal or "other answer"
            refusal = refusal or _about_other(text, match, response, pattern.rank)
            if not refusal and not ended and _is_cut(text, start, end, pattern.rank):
                refusal = "cut"
            refusal = refusal or ("out of range" if value is None else "")
            yield pattern.rank, _Found(pattern.name, value, start, refusal)


def _percent(number: str, unit: str, top: int) -> int | None:
    """Convert a matched number to whole percent, halves up; None outside 0..100."""
    value, whole = float(number), re.search(r"\d+", unit)
    if whole:
        value = 100 * value / int(whole[0]) if int(whole[0]) in WHOLES else -1
    elif not unit and "." in number and value <= 1:
        value *= 100  # a probability: "0.9"; "1" without a point is one percent
    elif not unit and top != 100:
        return None  # "8 on a scale of 1 to 10": the number is not in percent, and models mix up their scales
    return int(value + 0.5) if 0 <= value <= 100 else None


def _around(text: str, start: int, end: int) -> str:
    """Return why a number that stands at ``start`` to ``end`` is refused whatever the pattern; "" if it is not."""
    before, after = text[max(0, start - 60) : start], text[end : end + 40]
    if _BOUND.search(before) or _RANGE_BEFORE.search(before) or _RANGE_AFTER.match(after):
        return "range"
    clause = re.split(r"[.!?;:,()\n]\s", before)[-1]
    if _HEDGED.search(clause) or _DOUBTED.match(after):
        return "hedged"
    return "other answer" if _OPPOSITE.match(after) else ""


def _about_other(text: str, match: re.Match, response: str | None, rank: int) -> str:
    """Return "other answer" if the words before or after a number say so, else ""."""
    rest = _rest_of_sentence(text, max(match.end("n"), match.end("unit")))[0]
    if rank == 3 and _claim_is_against(rest, response):
        return "other answer"
    named_yes = re.search(r"\byes\b", match[0][: match.start("n") - match.start()])  # "Probability of yes: 58"
    return "other answer" if named_yes and (response or "").lower() == "no" else ""


def _is_cut(text: str, start: int, end: int, rank: int) -> bool:
    """Return True if the sentence around a number may go on after the cut, or if a later one may change the number."""
    return not _rest_of_sentence(text, end)[1] or (rank > 2 and _SENTENCE_END.search(text, 0, start) is not None)


def _rest_of_sentence(text: str, end: int) -> tuple[str, bool]:
    """Return the rest of the sentence after ``end``, and whether the sentence ends before the text does."""
    found = _SENTENCE_END.search(text, end, end + 300)
    return text[end : found.start() if found else end + 300], found is not None and found.end() < len(text)


def _claim_is_against(rest: str, response: str | None) -> bool:
    """Return True if the words after "N%", such as "certain that there is no dog", are against ``response``.

    Reasons ("because ...", ", as ...") are no part of the claim.
    """
    claim = _REASONS.split(_CERTAIN_THAT.sub("", rest, count=1), maxsplit=1)[0]
    if rejects(claim) or response is None:
        return rejects(claim)
    if named := _NAMED.search(claim):
        return named[1] != response.lower()
    if response.lower() not in ("yes", "no") or re.match(r"\s*(?:(?:about|of|in|with|on|for)\b|\W*$)", claim):
        return False
    denied = bool(_NOT.search(_NOT_WRONG.sub("", claim)))
    if _ABOUT_ANSWER.search(claim):
        return denied
    return response.lower() != ("no" if denied else "yes")


def _is_against(text: str, reply: str, response: str | None, found: _Found) -> bool:
    """Return True if the whole reply is about another answer than ``response``.

    A low number that is followed by the reason ("5%. The answer is incorrect.") is a confidence in ``response``.
    """
    why = None if response is None else against(text, reply, response)
    if why != "words":
        return why == "answer"
    return found.value is None or found.value >= 50 or rejects(text[: found.start])
