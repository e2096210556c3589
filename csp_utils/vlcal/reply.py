"""Take a reply apart: description, reasoning, boxed answer and confidences, and what is wrong with its form.

Nothing is guessed. A part is read only if its two tags occur once each and in order. Every reply has a kind, "well
formed" or the first of :data:`KINDS` that applies, so that the kinds of all replies add up to their number.
"""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import pandas as pd

from csp_utils.base.errors import short
from csp_utils.vlcal.formats import BOX, DESCRIPTION, OVERALL, REASONED, REASONING, TOP, VISUAL, Format, tags
from csp_utils.vlcal.rewards import overall_confidence

WELL_FORMED = "well formed"

KINDS = {
    "no text": "is not a text, or holds nothing but white space",
    "cut": "ends at the token budget before all parts are complete",
    "missing tag": "lacks a tag of the format",
    "no boxed answer": "has no \\boxed{...}, or one that does not end",
    "duplicate": "has a tag twice, or two boxes where one answer belongs",
    "order": "has all parts, but not in the order of the format",
    "empty part": "has nothing in the description, the reasoning or the box",
    "not a number": "states a confidence that is not a number alone, such as “high” or “8/10”",
    "out of range": f"states a confidence below 0 or above {TOP}",
}
"""Kinds of malformed replies -> what such a reply does. A reply is counted under the first one that applies."""

_BRACES = re.compile(r"\\boxed\s*\{|\\[{}\\]|[{}]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")


class Reading(NamedTuple):
    """What was read from a reply. A part that cannot be read is None."""

    kind: str
    """:data:`WELL_FORMED`, or one of :data:`KINDS`."""
    problem: str
    """Which tag, or what text, the kind is about; "" if well formed."""
    description: str | None
    """What the model says that it sees."""
    reasoning: str | None
    answer: str | None
    """Content of the box after the reasoning; of several, of the last one."""
    visual: float | None
    """Confidence in the description, 0..1."""
    reasoned: float | None
    """Confidence in the reasoning, 0..1."""
    overall: float | None
    """Confidence in the answer, 0..1: the harmonic mean of both, or the one that the format holistic asks for."""

    @property
    def well_formed(self) -> bool:
        """True if the reply has the whole format."""
        return self.kind == WELL_FORMED


def read_reply(reply: str, form: Format, ended: bool = True) -> Reading:
    """Read a reply in a format, in time linear in its length.

    Args:
        reply: the text, tags included.
        form: the format that the prompt asked for.
        ended: whether the model ended the reply; False if the token budget did.

    Returns:
        everything that can be read, whatever else is wrong with the reply.
    """
    if not isinstance(reply, str) or not reply.strip():
        return Reading("no text", "", *[None] * 6)
    parts = {name: _part(reply, name) for name in form.parts}
    boxes = _boxes(reply)
    placed = _in_place(reply, form, boxes)
    answer = (placed or boxes or [_Box(0, 0, "")])[-1].content or None
    stated = {name: _confidence(parts[name]) for name in form.confidences}
    kind, problem = _first_problem(reply, form, boxes, placed)
    if kind in ("missing tag", "no boxed answer") and not ended:
        kind = "cut"
    kind, problem = (kind, problem) if kind else _content_problem(parts, answer, stated)
    visual, reasoned = (stated[name].value if name in stated else None for name in (VISUAL, REASONED))
    both = None if visual is None or reasoned is None else float(overall_confidence(visual, reasoned))
    return Reading(kind or WELL_FORMED, problem, _stripped(parts[DESCRIPTION]), _stripped(parts[REASONING]), answer,
                   visual, reasoned, stated[OVERALL].value if OVERALL in stated else both)  # fmt: skip


def count_kinds(readings: Iterable[Reading]) -> pd.DataFrame:
    """Count replies by kind: a table of kind, what (the kind does), n and share (0..1), well formed first.

    Every kind has a row, also with 0 replies, and each reply counts once.
    """
    kinds = {WELL_FORMED: "has all parts of the format in order"} | KINDS
    numbers = pd.Series([reading.kind for reading in readings], dtype=str).value_counts()
    rows = [(kind, what, int(numbers.get(kind, 0))) for kind, what in kinds.items()]
    table = pd.DataFrame(rows, columns=["kind", "what", "n"])
    return table.assign(share=table["n"] / max(1, table["n"].sum()))


def _part(reply: str, name: str) -> str | None:
    """Return the text between the tags of a part; None unless both occur once, in order."""
    opening, closing = tags(name)
    if reply.count(opening) != 1 or reply.count(closing) != 1:
        return None
    start, end = reply.index(opening) + len(opening), reply.index(closing)
    return reply[start:end] if start <= end else None


class _Box(NamedTuple):
    """A LaTeX box: where it begins and ends in the reply, and its content without outer white space."""

    start: int
    end: int
    content: str


class _Stated(NamedTuple):
    """A stated confidence: 0..1, or None and the kind of what is wrong with it."""

    value: float | None
    kind: str
    text: str


def _boxes(reply: str) -> list[_Box]:
    """List the boxes that end, without those inside another one. Braces that LaTeX prints (``\\{``) do not count."""
    found: list[_Box] = []
    opened: list[re.Match] = []
    for match in _BRACES.finditer(reply):
        if match[0] == "{" or match[0].startswith("\\boxed"):
            opened.append(match)
        elif match[0] == "}" and opened and (begun := opened.pop())[0] != "{":
            while found and found[-1].start > begun.start():
                found.pop()  # it lies inside this one
            found.append(_Box(begun.start(), match.end(), reply[begun.end() : match.start()].strip()))
    return found


def _in_place(reply: str, form: Format, boxes: list[_Box]) -> list[_Box]:
    """List the boxes between the tags that stand before and after the box in the format."""
    at = form.marks.index(BOX)
    start = reply.find(form.marks[at - 1])
    end = reply.find(form.marks[at + 1]) if at + 1 < len(form.marks) else len(reply)
    return [box for box in boxes if -1 < start < box.start and (box.end <= end or end == -1)]


def _first_problem(reply: str, form: Format, boxes: list[_Box], placed: list[_Box]) -> tuple[str, str]:
    """Return the first kind of what is wrong with the tags and boxes, and its tag; ("", "") for nothing."""
    numbers = {mark: reply.count(mark) for mark in form.marks if mark != BOX}
    if lacking := [mark for mark, number in numbers.items() if not number]:
        return "missing tag", lacking[0]
    if not boxes:
        return "no boxed answer", BOX
    if twice := [mark for mark, number in numbers.items() if number > 1]:
        return "duplicate", twice[0]
    if len(placed) > 1:
        return "duplicate", BOX
    places = {mark: reply.find(mark) for mark in numbers}
    for mark, following in pairwise(places):
        if places[mark] > places[following]:
            return "order", mark
    return ("", "") if placed else ("order", BOX)


def _content_problem(parts: dict[str, str | None], answer: str | None, stated: dict[str, _Stated]) -> tuple[str, str]:
    """Return the first kind of what is wrong within the parts, and its tag or text; ("", "") for nothing."""
    for name in (DESCRIPTION, REASONING):
        if not (parts[name] or "").strip():
            return "empty part", tags(name)[0]
    if not answer:
        return "empty part", BOX
    wrong = [one for one in stated.values() if one.value is None]
    return (wrong[0].kind, wrong[0].text) if wrong else ("", "")


def _confidence(text: str | None) -> _Stated:
    """Read a confidence from the text of its part: a number alone, from 0 to 10, divided by 10."""
    text = (text or "").strip()
    if not _NUMBER.fullmatch(text):
        return _Stated(None, "not a number", short(text, 40))
    value = float(text)  # thousands of digits give infinity, which is out of range
    return _Stated(value / TOP, "", "") if 0 <= value <= TOP else _Stated(None, "out of range", short(text, 40))


def _stripped(part: str | None) -> str | None:
    return (part or "").strip() or None
