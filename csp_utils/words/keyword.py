"""Read the keyword from a language model's reply to prompt A.1, or say why there is none."""

import re
from typing import NamedTuple

KEYWORD_REASONS = {
    "no_keyword": "the reply is empty, or says that there is none",
    "keyword_cut": "the token budget cut the reply",
    "keyword_refused": "the model refuses",
    "keyword_sentence": "the reply is a sentence and no keyword",
    "keyword_thinking": "the model thinks aloud instead of replying",
}
"""Drop reasons of a row without a keyword -> what they mean."""

MOST_WORDS = 5
"""A keyword with more words is a sentence: "light yellow thin potato chips" has five."""

_LEAD = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok|yes)[!,.]\s*)?(?:here(?:'s| is)\s+)?"
    r"(?:the (?:answer to the question|answer|keyword)(?: is)?\s*:?\s*)?"
    r"(?:(?:the )?(?:single )?(?:most important )?(?:key ?words?|answer|response)(?: (?:is|for [^:]{1,40}))?"
    r"\s*[:=-]\s*)?"
    r"(?:(?:the )?(?:most important )?key ?words?(?: is)?\s*[:=-]?\s*)?"
)
_ARTICLE = re.compile(r"^(?:a|an|the)\s+")
# Whole replies by which models say that there is no keyword.
_NOTHING = frozenset("none null nothing unknown n/a na nan no keyword no object not applicable".split() + [
    "no keyword", "no object", "no noun", "not applicable", "keyword", "noun", "object", "answer",
])  # fmt: skip
_REFUSAL = re.compile(r"\b(?:i'm sorry|i am sorry|sorry, (?:but )?i|i cannot|i can't|i'm unable|i am unable|"
                      r"as an ai)\b")
_SENTENCE = re.compile(r"\b(?:is|are|was|were|has|have|can|does|do|shows?|contains?|depicts?|answer to|question)\b")


class Keyword(NamedTuple):
    """What was read from one reply: the keyword, or None and why."""

    keyword: str | None
    raw: str | None
    """The reply, up to its first line break; None if the model was not asked."""
    drop_reason: str | None
    """None if there is a keyword."""


def read_keyword(raw: str, ended: bool = True) -> Keyword:
    """Read the keyword from a reply: its first line in lower case, without quotes, punctuation, label and article.

    Args:
        ended: whether the model ended the reply, or its first line; False if the token budget did.
    """
    lines = [line for line in re.split(r"\r?\n", raw.strip()) if line.strip()]
    if not lines:
        return Keyword(None, raw, "no_keyword" if ended else "keyword_cut")
    text = " ".join(re.sub(r"[*_`\"\u201c\u201d]", " ", lines[0].lower().replace("\u2019", "'")).split())
    if text.startswith(("<think", "think>")):
        return Keyword(None, raw, "keyword_thinking")
    if _REFUSAL.search(text):
        return Keyword(None, raw, "keyword_refused")
    edge = " .,;:!?'()[]{}<>-"
    previous = None
    while previous != text:  # '"The keyword: the dog."'
        previous = text
        text = _ARTICLE.sub("", _LEAD.sub("", text.strip(edge)))
    if not re.search(r"[^\W\d_]", text) or text in _NOTHING:
        return Keyword(None, raw, "no_keyword" if ended else "keyword_cut")
    if not ended:
        return Keyword(None, raw, "keyword_cut")
    words = text.split()
    if len(words) > MOST_WORDS or (len(words) > 1 and _SENTENCE.search(text)):
        return Keyword(None, raw, "keyword_sentence")
    return Keyword(text, raw, None)


def is_foreign(keyword: str, question: str, answer: str) -> bool:
    """Return True if no word of the keyword, but for its ending, is in the question or the answer."""
    text = f"{question} {answer}".lower()
    stems = [word[: max(3, len(word) - 2)] for word in re.findall(r"\w+", keyword)]
    return not any(stem in text for stem in stems)
