"""Compare short answers without computer algebra: letters of options, words, plain numbers, equal LaTeX.

What is decided here costs nothing and cannot hang. :mod:`csp_utils.vlcal.items.matching` asks a computer algebra system
about the rest.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from string import ascii_uppercase
from typing import Literal

AnswerKind = Literal["choice", "number", "text", "math"]
"""How a truth is compared. choice: the letter of an option. number: within a tolerance. text: words, the same ones.
math: an expression of the same value."""

_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\(?:left|right|displaystyle|quad|qquad)(?![a-zA-Z])|\\[,;:! ]|~")
_LETTER = re.compile(r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?\s*:?\s*)?[(\[]?([A-Za-z])[)\]]?[.:,]?",
                     re.IGNORECASE)  # fmt: skip
_LETTER_AND_TEXT = re.compile(r"[(\[]?([A-Z])(?:[)\]][.:]?|[.:])\s+(?!(?:and|or)\b|[(\[][A-Z][)\]])\S.*", re.DOTALL)
_FREE_SPACE = re.compile(r"(?<![^\W_])\s+|\s+(?![^\W_])|(?<=[0-9])\s+(?=[^\W\d_])")
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s'-]+[^\W\d_]+)*")
_STRUCTURED = re.compile(r"[(\[].*[)\]]|[^=]*=[^=]*", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?")


def bare(answer: str) -> str:
    """Strip an answer of what carries no meaning: dollar signs, an outer box, LaTeX spacing and text commands."""
    text = answer.replace("\u2212", "-").strip()  # no NFKC, which would write 10\u00b2 as 102
    boxed = re.fullmatch(r"\\boxed\s*\{(.*)\}", text.strip("$ \n"), re.DOTALL)
    text = boxed[1] if boxed and _balanced(boxed[1]) else text
    text = _SPACING.sub(" ", _WRAPPED.sub(r"\1", text))
    return re.sub(r"\s+", " ", text.replace("$", "")).strip()


def _balanced(text: str) -> bool:
    """True if no brace of the text closes one that opens before it."""
    depth = 0
    for brace in re.findall(r"[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def same_text(one: str, other: str, kind: AnswerKind) -> bool:
    """True if two answers are the same text, apart from spaces that separate nothing and a final dot.

    Case does not matter for "text". "12 cm" and "12cm" are the same, "1 1/2" and "11/2" are not.
    """
    texts = [_FREE_SPACE.sub("", bare(text)).rstrip(".") for text in (one, other)]
    if kind == "text":
        texts = [text.casefold() for text in texts]
    return texts[0] == texts[1] != ""


def kind_of(answer: str) -> AnswerKind:
    """Tell how a truth has to be compared if its data set does not say.

    A single capital letter is an option. Words alone are text, because a computer algebra system reads "yes" as the
    product e s y, which equals "eys". Everything else is mathematics.
    """
    text = bare(answer)
    if re.fullmatch(r"\(?[A-Z]\)?\.?", text):
        return "choice"
    return "text" if _WORDS.fullmatch(text.strip(".")) else "math"


def is_structured(answer: str) -> bool:
    """True for a text that is mathematics all the same: a tuple, a list or an equation, such as "(0, 6)" or "y = 4".

    Dates and times are not: as mathematics, "11/02/2006" equals "22/04/2006".
    """
    text = bare(answer)
    return bool(_STRUCTURED.fullmatch(text)) and not re.search(r"\d[/:]\d", text)


def number_of(answer: str) -> Decimal | None:
    """Read a plain decimal number exactly, with or without commas between thousands; None for anything else."""
    text = bare(answer).rstrip(".")
    if not _NUMBER.fullmatch(text) or not re.search("[0-9]", text):
        return None
    return Decimal(text.replace(",", ""))


def letter_of(answer: str, options: Sequence[str] = ()) -> str | None:
    """Read which option an answer names: "B", "(b)", "Option B", "B. 12 cm", or exactly the text of one option.

    A letter comes first, because the problem asks for it: "A" is option A even where the text of another one is "A".

    Args:
        answer: content of the box.
        options: texts of the options A, B ... in order; without them the text of an option cannot be known.

    Returns:
        a capital letter, or None if the answer names no option, several, or one that does not exist.
    """
    text = bare(answer)
    match = _LETTER.fullmatch(text) or _LETTER_AND_TEXT.fullmatch(text)
    letter = match[1].upper() if match else ""
    if letter and (not options or letter in ascii_uppercase[: len(options)]):
        return letter
    by_text = [letter for letter, option in zip(ascii_uppercase, options, strict=False)
               if same_text(text, option, "text")]  # fmt: skip
    return by_text[0] if len(by_text) == 1 else None
