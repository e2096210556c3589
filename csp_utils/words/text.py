"""Bring a reply into one simple form before it is read: lower case, plain punctuation, digits, tags as labels."""

import re
import unicodedata

_OPENING_TAG = re.compile(r"<([a-z_]{2,20})>")
_OTHER_TAG = re.compile(r"</[a-z_]{1,20}>|<\|[a-z_]{1,20}\|>")
_DASHES = {ord(dash): "-" for dash in "\u2010\u2011\u2012\u2013\u2014\u2212"}
_MARKUP = re.compile(r"[*_#`\"\u201c\u201d{}\[\]~\u2248$|\\]+")
_QUOTE = re.compile(r"(?<![a-z0-9])'|'(?![a-z0-9])")
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d{1,3}),(\d{1,2})(?![\d.,]\d|\d)(?=\s?%|\s?(?:percent|per cent|pct)|/)"
                            r"|(?<![\d.,])([01]),(\d{1,3})(?![\d,.]*\d)")

_UNITS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
          "seventeen eighteen nineteen").split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_UNIT = "|".join(sorted(_UNITS, key=len, reverse=True))
_IN_WORDS = rf"(?:(?:one|a)[ -]hundred|hundred|(?:{'|'.join(_TENS)})(?:[ -](?:{_UNIT}))?|(?:{_UNIT}))"
_WORDS = re.compile(rf"\b({_IN_WORDS})\b(?=\s?(?:%|percent\b|per\s?cent\b|pct\b|out of\b))|(?<=out of )({_IN_WORDS})\b")
_ONLY_WORDS = re.compile(rf"\W*({_IN_WORDS})\W*")
_EVEN = re.compile(r"\bfifty[ -]fifty\b|(?<![\d/.-])50\s?[/-]\s?50(?!\s?%|[\d/])")


def digits(words: str) -> int:
    """Return the number from 0 to 100 that English words write, such as "ninety-five"."""
    found = re.findall(r"[a-z]+", words)
    if "hundred" in found:
        return 100
    return sum(20 + 10 * _TENS.index(word) if word in _TENS else _UNITS.index(word) for word in found)


def plain(text: str) -> str:
    """Return a reply in lower case, without reasoning in <think>, markup or quotes, and with numbers in digits.

    A tag or a LaTeX box becomes a label: ``<confidence>0.9</confidence>`` is "confidence: 0.9", ``\\boxed{90\\%}`` is
    "boxed: 90%". "0,95" becomes 0.95, "ninety percent" 90 percent, "fifty-fifty" 50%, an arrow a colon.
    """
    text = "".join(character if unicodedata.category(character) != "No" else "?" for character in text)
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'").replace("\u2044", "/")
    text = text.replace("can't", "cannot").replace("n't", " not")
    text = re.split(r"<think(?:ing)?>", re.split(r"</think(?:ing)?>", text.translate(_DASHES))[-1])[0]
    text = _OTHER_TAG.sub("\n", _OPENING_TAG.sub(r"\n\1: ", text))
    text = re.sub(r"\\boxed\s?\{(?:\\text\{)?([^{}\n]{0,40})\}+", r"\nboxed: \1\n", text).replace("\\%", "%")
    text = re.sub(r"[-=]>|[\u2192\u21d2]", ": ", text)
    text = _QUOTE.sub(" ", _MARKUP.sub(" ", text))
    text = re.sub(r"\n\s*\n", "\n\n", re.sub(r"[^\S\n]+", " ", text))
    text = re.sub(r" ?: ?\n?: ?", ": ", text)
    text = _EVEN.sub("50%", text)
    if only := _ONLY_WORDS.fullmatch(text):
        return str(digits(only[1]))
    text = _WORDS.sub(lambda match: str(digits(match[0])), text)
    return _DECIMAL_COMMA.sub(lambda m: f"{m[1]}.{m[2]}" if m[1] else f"{m[3]}.{m[4]}", text).strip()
