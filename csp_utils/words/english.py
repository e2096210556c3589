"""English grammar that questions about nouns need."""

import re

_AN = re.compile(r"[aeiou]|(?:hour|honest|honou?r|heir)", re.IGNORECASE)
_A = re.compile(r"uni(?![dmn])|(?:use|usu|utensil|euro|eu[cp]|ewe|one|once|ukulele|urine|urn?an)", re.IGNORECASE)
"""Words that begin with a vowel letter and a consonant's sound."""

_PLURAL = re.compile(
    r"(?:(?<!\bg)(?<!canv)(?<!atl)as|[^aisu]s|people|(?<!\w)(?:wo)?men|children|mice|geese|feet|teeth)$", re.IGNORECASE
)
"""A noun in the plural, as far as its last letters tell: "dogs", but not "glass", "bus", "gas" or "tennis"."""


def article(words: str) -> str:
    """Put "a" or "an" before words, by the sound of the first: "a red star", "an anchor", "an hour", "a unicorn"."""
    return f"{'an' if _AN.match(words) and not _A.match(words) else 'a'} {words}"


def is_there(noun: str) -> str:
    """Ask POPE's question about a noun: "Is there a dog in the image?", "Are there potato chips in the image?"."""
    return f"Are there {noun} in the image?" if _PLURAL.search(noun) else f"Is there {article(noun)} in the image?"
