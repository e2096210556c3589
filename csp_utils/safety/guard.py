"""Keep texts of external safety sets out of notebooks, logs, saved tables and publications.

The sets contain requests about drugs, violence, crime, religion, discrimination and sexual content, most without a
licence, and models under test may write harmful text. Every set but :data:`HOUSE`, which this project draws itself, is
external. The texts of an external set are wrapped in :class:`Withheld`, one cell at a time: whatever a table goes
through, it shows their lengths alone, and only :func:`reveal` gives them, to a model or to a judge.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import NoReturn

import pandas as pd

from csp_utils.base.errors import UserError, nearest

HOUSE = "house"
"""The harmless set that this project draws itself: nothing of it is withheld."""
TEXTS = ("text", "request", "image", "path", "partner_phrase", "raw")
"""Columns whose cells are withheld for external sets. File names are among them, as some repeat the request."""
_SEXUAL = re.compile(r"porn|sex|nsfw|nud(?:e|ity)|erotic|adult", re.IGNORECASE)
_ID = re.compile(r"[\w.:/-]{1,64}")


class Withheld:
    """Hold a text that is not shown: printed, formatted or written to a file, it gives its length alone.

    Equal texts are equal and have the same hash, so that tables can be grouped. It cannot be pickled, and pyarrow and
    JSON refuse it: a table with withheld texts is saved by :func:`public` alone.
    """

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def __repr__(self) -> str:
        return f"<text withheld: {len(self.__text)} characters>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Withheld) and self.__text == other.__text

    def __hash__(self) -> int:
        return hash((Withheld, self.__text))

    def __copy__(self) -> "Withheld":
        return self

    def __deepcopy__(self, memo: object) -> "Withheld":
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a withheld text is not pickled; save the table that csp_utils.safety.guard.public returns")

    def reveal(self) -> str:
        """Return the text itself, for a model or a judge; never print or save what this returns."""
        return self.__text


Text = str | Withheld


def is_external(name: str) -> bool:
    """Return True for every set but the one that this project draws itself."""
    return name != HOUSE


def hold(text: str | None, set_name: str) -> Text | None:
    """Return a text as a table of the set holds it: withheld if the set is external."""
    return Withheld(text) if isinstance(text, str) and is_external(set_name) else text


def reveal(text: Text) -> str:
    """Return the text of a cell, for a model or a judge; never print or save what this returns."""
    return text.reveal() if isinstance(text, Withheld) else text


def digest(*texts: str) -> str:
    """Return 12 hexadecimal digits that stand for texts: the same for the same texts, in every run."""
    return hashlib.sha256("\x1f".join(texts).encode(errors="surrogatepass")).hexdigest()[:12]


def same_words(text: str) -> str:
    """Return a text in the form in which two prompts count as the same: NFKC, trimmed, case folded, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def as_id(value: str) -> str:
    """Return a value that is shown as an id: itself if it looks like one, else a digest, as it may be a request."""
    return value if _ID.fullmatch(value) else digest(value)


def public(table: pd.DataFrame) -> pd.DataFrame:
    """Return a copy of a table that may be shown and saved: every withheld text is replaced by its length.

    Returns:
        the table with, for each column that has a withheld cell, the column <name>_length (characters, Int64) in its
        place. Columns without withheld cells are unchanged.
    """
    columns = {}
    for name in table:
        cells = table[name]
        if any(isinstance(cell, Withheld) for cell in cells):
            lengths = [len(reveal(cell)) if isinstance(cell, Text) else None for cell in cells]
            columns[f"{name}_length"] = pd.Series(lengths, table.index, dtype="Int64")
        else:
            columns[name] = cells
    return pd.DataFrame(columns, index=table.index)


def check_publishable(sets: Iterable[str], what: str) -> None:
    """Refuse to publish what was made from an external set: rows, replies, checkpoints, vectors, pictures, pages.

    Args:
        sets: names of all sets that went into it.
        what: how the sentence names it, such as "The checkpoint".

    Raises:
        UserError: a set is external.
    """
    if external := sorted({name for name in sets if is_external(name)}):
        raise UserError(f"{what} is made from the external set {external[0]} and is not published or uploaded: its "
                        "texts and pictures have no licence for that, and what models reply to them may do harm; only "
                        f"what is made from the set {HOUSE!r} is published.")  # fmt: skip


def is_sexual(category: str) -> bool:
    """Return True for a category of sexual content, by its name; such a category is off unless it is named."""
    return _SEXUAL.search(category) is not None


def chosen_categories(found: Iterable[str], wanted: Iterable[str] | None) -> list[str]:
    """Return the categories that are read: all but those of sexual content, or the wanted ones.

    Raises UserError for a wanted category that the set does not have.
    """
    found = list(dict.fromkeys(found))
    if wanted is None:
        return [name for name in found if not is_sexual(name)]
    wanted = list(wanted)
    for name in wanted:
        if name not in found:
            raise UserError(f"The set has no category {name!r}; {nearest(name, found)}")
    return wanted
