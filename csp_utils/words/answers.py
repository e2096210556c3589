"""Read a plain answer, Yes or No, from a reply to a yes/no question, by named rules.

Two rules are those of the benchmarks' own scoring code, which decide without reading: for POPE whatever is not a "no"
is a yes, for AMBER whatever is not the word alone is neither. The third, "stated", reads what the reply states.
"""

import re
from collections.abc import Callable
from typing import Literal

from csp_utils.words.stance import own_answer
from csp_utils.words.text import plain

Answer = Literal["Yes", "No"] | None

_OBJECT = re.compile(r"^(?:is|are) there (?:an?|any|some|the)?\s*(.{1,60}?) (?:in|on|at|visible|present|shown)\b.*\?",
                     re.IGNORECASE)
_BOTH = re.compile(r"\W{0,40}(yes|no)\W{0,3}(?:and|or|/)?\W{0,3}(yes|no)\b")
_CONCLUDED = re.compile(
    r"(?:\b(?:so|therefore|thus|hence|in conclusion|overall|in short)\b"
    r"|(?:^|\n|[:>.!?])\s*(?:final )?(?:answer\s*(?:is|:)?)?)[,:\s]*(yes|no)\b"
    r"(?!\s+(?:idea|doubt|one|way|need|matter|other|more|longer|information|reason|sign|evidence))"
)
_DENIES = r"\b(?:no|not (?:a|an|any|the)|without (?:a|an|any)?)\s+(?:\w+\s+){0,2}"
_DENIED_VERB = r"\b(?:not|cannot) (?:\w+\s+){0,2}?(?:have|contain|show|include|see|depict|feature)\b"
_SHOWS = (r"\b(?:there(?:'s| is| are)|i (?:can )?see|(?:image|picture|photo|scene) (?:\w+ ){0,2}?"
          r"(?:shows?|contains?|includes?|has|depicts?|features?))\b")


def pope_rule(reply: str, question: str | None = None) -> Answer:
    """Answer as POPE's evaluate.py: No if the first sentence has the word No, no or not, else Yes.

    The words are those between single spaces of the text before the first full stop, without commas.
    """
    words = reply.split(".")[0].replace(",", "").split(" ")
    return "No" if {"No", "not", "no"} & set(words) else "Yes"


def amber_rule(reply: str, question: str | None = None) -> Answer:
    """Answer as AMBER's inference.py: the reply itself if it is exactly "Yes" or "No", else neither."""
    return reply if reply in ("Yes", "No") else None  # type: ignore[return-value]


def stated(reply: str, question: str | None = None) -> Answer:
    """Read the answer that the reply states; None if it states none, or both.

    Accepted: a reply that begins with yes or no, "the answer is no", "so, yes"; and to a question whether there is an
    object, "there is no dog in the image" or "the image shows a dog" about that object.

    Args:
        question: the question; without it, statements about the image are not read.
    """
    text = plain(reply)
    if (both := _BOTH.match(text)) and both[1] != both[2]:
        return None
    asked = _OBJECT.match(question.strip()) if question else None
    denied, shown = _about(text, asked[1].lower()) if asked else (False, False)
    own = own_answer(text, "")
    if own is None and (concluded := {match[1] for match in _CONCLUDED.finditer(text)}):
        own = concluded.pop() if len(concluded) == 1 else "both"
    if own in ("yes", "no"):
        others = {match[1] for match in _CONCLUDED.finditer(text)} - {own}
        if others or own == "yes" and denied and not shown:
            return None  # "Yes, there is a chair, but it is not a couch" about a couch
        return "Yes" if own == "yes" else "No"
    return None if own or denied == shown else "No" if denied else "Yes"


def _about(text: str, name: str) -> tuple[bool, bool]:
    """Return whether the (plain) text denies an object, and whether it names it as visible."""
    singular = re.escape(name[:-1] if name.endswith("s") and not name.endswith("ss") else name)
    named = {"person": r"(?:person|people|persons|man|woman|men|women)"}.get(name, rf"{singular}(?:s|es)?") + r"\b"
    denied = shown = False
    for clause in re.split(r"[.!?;\n]|, but\b|\bhowever\b", text[:20_000]):
        first = re.search(rf"\b{named}", clause)
        denies = re.search(rf"{_DENIES}{named}", clause)
        if denies and first and first.end() < denies.start():
            continue  # "the cake in the image is not a cake" says nothing
        if denies or re.search(rf"{_DENIED_VERB}[^,]{{0,60}}?\b{named}", clause):
            denied = True
        elif re.search(rf"{_SHOWS}[^,]{{0,60}}?\b{named}", clause):
            shown = True
    return denied, shown


RULES: dict[str, Callable[[str, str | None], Answer]] = {"pope": pope_rule, "amber": amber_rule, "stated": stated}
"""Every rule by its name in the parameters and tables."""


def rule_of(split: str, chosen: str) -> str:
    """Return the rule for a split: the chosen one, or under "benchmark" that of the split's own benchmark.

    A split of neither POPE nor AMBER has no rule of its own; its answers are read as stated.
    """
    own = split.partition("_")[0]
    return chosen if chosen != "benchmark" else own if own in RULES else "stated"
