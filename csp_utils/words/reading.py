"""Read replies of models: a verbalized confidence, or a plain yes or no.

The readers return None if a reply does not state its answer plainly. Such a parse failure is counted
(``parse_failure_rate``) and never becomes a number.
"""

import re
import unicodedata
from typing import NamedTuple

_UNITS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
          "seventeen eighteen nineteen").split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_UNIT = "|".join(sorted(_UNITS, key=len, reverse=True))

_WORDS = re.compile(rf"\b(?:(?:one|a)[ -]hundred|hundred|({'|'.join(_TENS)})(?:[ -]({_UNIT}))?|({_UNIT}))\b")

_N = r"(?<![\w.,$#])-?\d+(?:\.\d+)?(?!\d|\.\d)"
_PERCENT = r"(?:\s*(?:%+|percent\b|per\s?cent\b|pct\b))"
_TO = r"\s*(?:-|to|and|or)\s*"

_SCALE = re.compile(
    rf"(?:\b(?:from|between|in the range(?: of)?|(?:on|using) (?:a|the) (?:scale|range)(?: of| from)?|range:?)\s+)?"
    rf"(?<![\w.])[01]{_PERCENT}?\s*(?:-|to|and)\s*100(?![\w./]){_PERCENT}?"
)

_NUMBER = re.compile(
    rf"(?P<even>(?<!\d)50\s*[/-]\s*50(?!\d))"
    rf"|(?P<low>{_N}){_PERCENT}?{_TO}(?P<high>\d+(?:\.\d+)?){_PERCENT}?"
    rf"|(?P<part>{_N})\s*(?:/|out of)\s*(?P<whole>\d+)(?!\d)"
    rf"|(?P<bound>(?:<|>|≤|≥|\b(?:over|above|below|under|up to|at (?:least|most)|beyond|"
    rf"(?:more|less|greater|higher|lower|fewer|no more|no less) than)\b)\s*=?\s*)?(?P<value>{_N})"
    rf"(?P<plus>\s*\+)?(?P<percent>{_PERCENT})?(?P<plus2>\s*\+)?"
)

_CLAUSE = re.compile(
    r"[.!?;,()\n]+(?=\s|$|[a-z\x00])|\n|\s-\s|\b(?:because|since|but|so|although|though|while|as|given)\b"
)
_TOKEN = re.compile(r"\x00\d+\x00|[a-z]+(?:'[a-z]+)?")

_SURE = frozenset("sure certain confident confidence certainty".split())

_FILLER = _SURE | frozenset(
    "i i'm i'd am my me a an the is it it's its be of in at to by on for with that this about around approximately "
    "approx roughly nearly almost maybe perhaps probably exactly say would give rate rated estimate estimated think "
    "believe guess model model's models language answer answer's answers response answered level levels score rating "
    "degree percentage value final overall total number probability likelihood likely chance correct accurate right "
    "true being analysis analyze therefore thus yes well ok okay sure very quite analyzing based now and".split()
)
_ANSWER = frozenset("answer answer's answers answered response model model's".split())

_NOT = re.compile(r"\b(?:not|cannot|never|hardly|without|unable|neither|nor|no)\b|n't\b")
_DOUBT = re.compile(r"\b(?:uncertain(?:ty)?|unsure|doubt\w*|error)\b")

_WRONG = re.compile(r"\b(?:wrong|incorrect|inaccurate|false|mistaken|untrue)\b"
                    r"|\b(?:not|isn't) (?:correct|right|accurate|true)\b")

_MARKER = re.compile(
    r"\b(?:confidence|certainty|final answer)(?: (?:level|score|rating|percentage))?"
    r"(?: (?:in|about|of) (?:the |this |its )?(?:model's )?answer)?"
    r"(?: is| =| of)?(?: (?:about|around|approximately|roughly))? (?=\x00)"
)


class _Number(NamedTuple):
    """A number in the text: ``value`` in percent (None for a range, a bound, or a value outside 0..100), and
    ``marked``: whether a percent sign or a fraction bar marks it as a share."""

    value: int | None
    marked: bool


def _digits(match: re.Match) -> str:
    """Replace a number in words (0 to 100) by its digits."""
    tens, unit, alone = match.groups()
    if alone:
        return str(_UNITS.index(alone))
    if tens is None:
        return "100"
    return str(20 + 10 * _TENS.index(tens) + (_UNITS.index(unit) if unit and _UNITS.index(unit) < 10 else 0))


def _percent(value: float) -> int | None:
    """Round to whole percent, halves up; None outside 0..100."""
    return int(value + 0.5) if 0 <= value <= 100 else None


def _read(match: re.Match) -> _Number:
    """Convert a match of :data:`_NUMBER`."""
    group = match.groupdict()
    if group["even"]:
        return _Number(50, True)
    if group["low"]:
        return _Number(None, "%" in match[0] or "cent" in match[0])
    if group["part"]:
        part, whole = float(group["part"]), int(group["whole"])
        return _Number(_percent(100 * part / whole) if 2 <= whole <= 100 else None, True)
    value, marked = float(group["value"]), bool(group["percent"])
    if group["bound"] or group["plus"] or group["plus2"]:
        return _Number(None, marked)
    if not marked and "." in group["value"] and value <= 1:
        value *= 100  # a probability: "0.9"; "1" without a point is one percent
    return _Number(_percent(value), marked)


def _is_confidence(tokens: list[str], at: int) -> bool:
    """Return True if only filler words separate the number at token ``at`` from a word such as "sure"."""
    for step, words in ((1, _SURE), (-1, {"confidence", "certainty"})):
        i = at + step
        while 0 <= i < len(tokens) and tokens[i] in _FILLER:
            if tokens[i] in words:
                return True
            i += step
    return False


def parse_confidence(text: str) -> int | None:
    """Read a verbalized confidence in whole percent (0 to 100); None if the reply states none plainly.

    Accepted: "90", "90%", "0.9", "ninety percent", "9/10", "9 out of 10", "fifty-fifty", "I'm 95% sure",
    "Confidence: 80". Halves are rounded up. A number without a percent sign counts only in a reply of few other words.

    Not accepted: no number ("very certain"); refusals; ranges ("70-80%": the prompt asks for one number, and we should
    have to choose a midpoint) and bounds ("over 90%"); numbers out of range; several different numbers, unless exactly
    one is announced ("Confidence: 90%"); the scale of the prompt repeated ("from 1%-100%"); percentages of other things
    ("50% visible"); negated numbers ("not 100% sure"); and confidences in the opposite ("90% sure it is wrong").
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = text.replace("\u2019", "'").translate({ord(dash): "-" for dash in "\u2010\u2011\u2012\u2013\u2014\u2212"})
    text = re.sub(r"[*_`\"“”{}\[\]~≈:|]", " ", text)
    text = _SCALE.sub(" ", _WORDS.sub(_digits, text))
    numbers: list[_Number] = []

    def keep(match: re.Match) -> str:
        numbers.append(_read(match))
        return f" \x00{len(numbers) - 1}\x00 "

    text = re.sub(r"[ \t]+", " ", _NUMBER.sub(keep, text)).strip()
    first_line, whole = text.split("\n")[0], _TOKEN.findall(text)
    brief = all(t in _FILLER or t[0] == "\x00" for t in whole)
    about_sureness = not _ANSWER & set(whole) or bool(_SURE & set(whole))  # "The answer is 2" states no confidence
    found: list[int | None] = []
    for clause in _CLAUSE.split(text):
        tokens = _TOKEN.findall(clause)
        filler_only = all(t in _FILLER or t[0] == "\x00" for t in tokens)
        for at, token in enumerate(tokens):
            if token[0] != "\x00":
                continue
            number = numbers[int(token[1:-1])]
            if _NOT.search(clause[: clause.index(token)]) or _DOUBT.search(clause):
                continue  # negated or doubted: not the confidence
            alone = first_line.strip(" .") == token
            bare = (brief and about_sureness) or alone or (filler_only and _SURE & set(tokens))
            if bare or (number.marked and (filler_only or _is_confidence(tokens, at))):
                found.append(number.value)
    announced = {numbers[int(re.match(r"\x00(\d+)", text[m.end() :])[1])].value for m in _MARKER.finditer(text)}
    # If the reply calls the answer wrong, a number may be the confidence in that. Only an announced one counts.
    for values in ([] if _WRONG.search(text) else [set(found)]) + [announced & set(found)]:
        if len(values) == 1:
            return values.pop()
    return None


_YES = re.compile(r"(?:yes|yeah|yep)\b")
_NO = re.compile(r"(?:no|nope)\b(?! (?:idea|answer|way to|one can|information|comment))")
_STATED = re.compile(r"\banswer(?: to (?:the|this|your) question)?(?: is|:| would be)[ :]*(?:[\"'*(]*)(yes|no)\b")
_EITHER = re.compile(r"(?:yes|no)\W{0,3}(?:and|or|/)?\W{0,3}(?:yes|no)\b")


def parse_yes_no(text: str) -> str | None:
    """Read a plain answer: "Yes" or "No" if the reply begins with it or contains "the answer is yes".

    Returns None otherwise, and for a reply with both ("yes or no").
    """
    text = unicodedata.normalize("NFKC", text).lower().strip(" \t\r\n\"'*_`([{<>.:-")
    text = re.sub(r"^answer\s*:?\W*", "", text)
    if (both := _EITHER.match(text)) and len(set(re.findall(r"yes|no", both[0]))) == 2:
        return None
    if _YES.match(text):
        return "Yes"
    if _NO.match(text):
        return "No"
    stated = set(_STATED.findall(text))
    return stated.pop().capitalize() if len(stated) == 1 else None
