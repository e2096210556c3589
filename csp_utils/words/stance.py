"""Decide whether a reply speaks against the answer that it was asked to judge.

"I am 95% certain that there is no dog" is no confidence in the answer Yes. Only the reply and the answer are known
here, not the image and not the question.
"""

import re
from typing import Literal

_EITHER = r"\W{0,3}(?:and|or|/)\W{0,3}(?:yes|no)\b"
_LEAD = re.compile(rf"\W{{0,40}}(?:(?:answer|assistant)\s*:\s*)?(yes|no|yeah|yep|nope)\b(?!{_EITHER})(?!\s+(?:idea|"
                   r"doubt|answer|way|one|information|comment|question|reason|number|confidence)\b)")
_STATED = re.compile(r"\banswer(?:s|ed)?(?:\s+(?:to|for)\s+(?:the|this|your)\s+question)?"
                     r"(?:\s+(?:is|was|should be|would be|must be|has to be|ought to be|:)){0,3}\s*:?\s*(yes|no)\b"
                     rf"(?!{_EITHER})(?!\s+(?:longer|more|doubt))")
_OWN = re.compile(r"[\"']answer[\"']\s*:\s*([^\n]{1,500}?)\s*(?:,\s*[\"'][\w ]{1,30}[\"']\s*:|,?\s*\n|,?\s*\}|$)",
                  re.IGNORECASE)
_WORDS = r"(?:\s+[\w'-]+)"
_NEGATED = re.compile(r"\b(?:not|never|cannot|hardly|neither|nor|no reason|nothing|unlikely|without)\b"
                      rf"{_WORDS}{{0,3}}\s*$")
_CHANCE = re.compile(rf"(?:%|percent|chance|probability|likelihood|possibility){_WORDS}{{0,6}}\s*$")
_OPEN = re.compile(rf"\b(?:if|whether|or){_WORDS}{{0,4}}\s*$")
_REJECTED = re.compile(
    r"\b(?P<word>wrong|incorrect|inaccurate|false|mistaken|untrue|misleading|erroneous|in error|unsupported|"
    r"hallucinat\w{0,6}|contradict\w{0,4})\b"
    rf"|\b(?:not|never){_WORDS}{{0,2}}?\s+(?:correct|right|accurate|true|supported|valid|match|agree)\b"
    r"|\b(?:disagree|mistake|made an error)\b"
    r"|\bnot (?:believe|think)\b[^.!?\n]{0,200}?\b(?:correct|answer|right|true|indicates?|accurate)\b"
    r"|\bthe (?:correct|right|true|actual) answer (?:is|should be|would be)\b(?!\s*(?:yes|no)\b)"
)
_SHOW = r"(?:contain|show|include|have|depict|appear|feature|display|exist|see)"
_CLEARLY = r"(?:(?:indeed|clearly|definitely|certainly|obviously|plainly|actually|really) )?"
_ABSENT = re.compile(
    rf"\bthere(?:'s| is| are| was| were|\s+(?:appears?|seems?) to be)\s+{_CLEARLY}(?:no|not)\b"
    r"(?! (?:doubt|reason|question|way|need|uncertainty|indication that))"
    rf"|\b(?:do|does|did) not {_SHOW}\b|\b(?:contains|shows|has|see|sees|depicts) no\b(?! reason)|\b(?:is|are) absent\b"
    r"|\b(?:is|are|was|were) not (?:a|an|any|in|on|at|under|visible|present|shown|there|depicted|to be seen)\b"
    r"|\bno (?:[\w-]+ ){1,3}(?:is|are|can be) (?:visible|present|shown|seen|depicted|there|in|on)\b"
)
_THERE = re.compile(
    rf"\bthere(?:'s| is| are) {_CLEARLY}(?:a|an|the|some|one|two|three|several|many|\d{{1,2}})\b"
    r"(?! ?(?:\d|%|percent|chance|probability|possibility|likelihood|doubt|small|slight|high|low|good|strong|little|"
    r"lot))"
    rf"|\b(?:is|are) {_CLEARLY}(?:visible|present|in the (?:image|picture|photo|scene)|shown|depicted)\b"
    r"|\b(?:image|picture|photo|scene) (?:clearly )?(?:contains|shows|depicts|includes) (?!no\b|that\b)"
)
_SAME_WORDS = re.compile(r"[^\w]+")


def _key(text: str) -> str:
    return _SAME_WORDS.sub(" ", text.replace("\\", "").lower()).strip()


def first_rejection(text: str, own: bool = False) -> int | None:
    """Return where the (plain) text first calls an answer wrong, or names another one as the right one.

    Args:
        own: whether the reply judges an answer that it gives itself; then "false" may be that answer.
    """
    for match in _REJECTED.finditer(text):
        before = text[max(0, match.start() - 40) : match.start()]
        not_wrong = match["word"] and _NEGATED.search(before)
        share_of_it = match["word"] and _CHANCE.search(before)  # "a 5% chance that it is wrong": its pattern judges it
        if not (not_wrong or share_of_it or _OPEN.search(before) or (own and match["word"] == "false")):
            return match.start()
    return None


def rejects(text: str) -> bool:
    """Return True if the (plain) text calls an answer wrong, or names another one as the right one."""
    return first_rejection(text) is not None


def about_image(text: str) -> Literal["Yes", "No"] | None:
    """Return what the (plain) text says about the image: "No" for "there is no dog", "Yes" for "there is a dog"."""
    absent, there = bool(_ABSENT.search(text)), bool(_THERE.search(text))
    return None if absent == there else "No" if absent else "Yes"


def own_answer(text: str, reply: str) -> str | None:
    """Return the answer that a reply gives itself, as "Yes, ..." or "Answer: No"; of JSON, the value of "Answer".

    Args:
        text: the plain text of :func:`csp_utils.words.text.plain`.
        reply: the reply as it is.
    """
    if (own := _OWN.search(reply)) and not re.fullmatch(r"\W*(?:true|false)\W*", own[1].lower()):
        return own[1].strip().strip("\"'")
    stated = {match[1] for match in _STATED.finditer(text)}
    if len(stated) == 1:
        return stated.pop()
    lead = _LEAD.match(text)
    return {"yeah": "yes", "yep": "yes", "nope": "no"}.get(lead[1], lead[1]) if lead else None


def against(text: str, reply: str, response: str) -> Literal["answer", "words"] | None:
    """Say how a whole reply speaks against ``response``, the answer that it judges; None if it does not.

    Args:
        text: the plain text of the reply.
        reply: the reply as it is.

    Returns:
        "answer" if the reply gives another answer itself; "words" if it calls the answer wrong, or says the opposite
        about the image.
    """
    wanted, own = _key(response), own_answer(text, reply)
    if own is not None and (_key(own) in ("yes", "no") or wanted not in ("yes", "no")):
        same = _key(own) == wanted or (len(wanted) > 12 and f"{_key(own)} ".startswith(f"{wanted} "))
        opposed = not same or rejects(text)
    else:
        seen = about_image(text) if wanted in ("yes", "no") else None
        opposed = rejects(text) or (seen is not None and seen.lower() != wanted)
    if not opposed:
        return None
    return "answer" if own is not None and own.strip().lower() != response.strip().lower() else "words"
