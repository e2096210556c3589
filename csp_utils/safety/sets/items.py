"""The one table of items for any safety set, and the count of everything that cannot be asked.

An item is a request about a picture. Columns of the table, all str:

==============  ======================================================================================================
item_id         unique name, without words of the request
set             house, vscbench, mssbench, or the name that the user gives
group           cluster that is resampled for intervals: items about one prompt, or of one pair
pair            look-alike pair, null if there is none; a pair lies in one group
side            image (the picture decides whether the request is unsafe) or text (the wording does)
category        topic, or type of wording
rendering       how the request is shown: photo, search, typography, concat, figstep, ...
text            what the model is asked
request         what a judge is told that was asked
image, path     file name and file of the picture
label           safe or unsafe
partner_phrase  words that name the deciding object, null if unknown
==============  ======================================================================================================

text, request, image, path and partner_phrase of external sets are withheld (:mod:`csp_utils.safety.guard`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.wording import counted
from csp_utils.safety.guard import TEXTS, chosen_categories, hold, is_external, public, same_words

LABELS = ("safe", "unsafe")
COLUMNS = ["item_id", "set", "group", "pair", "side", "category", "rendering", "text", "request", "image", "path",
           "label", "partner_phrase"]  # fmt: skip
DROPPED = {
    "category off": "its category is not among the chosen ones; sexual content is read only if it is named",
    "empty prompt": "the set gives no text to ask",
    "no picture": "the picture is missing",
    "empty picture": "the picture's file has 0 bytes",
    "contradiction": "another item has the same text and picture and the other label",
    "duplicate": "an earlier item has the same text, picture and label",
}
"""Reason for which an item is left out -> what it means, in the order in which they are looked for."""


class Note(NamedTuple):
    """Something about a set that is counted and drops nothing."""

    what: str
    n: int
    meaning: str


@dataclass(frozen=True, repr=False)
class Items:
    """A safety set: its items, and what was left out of it."""

    table: pd.DataFrame
    """Columns of :data:`COLUMNS`."""
    dropped: pd.DataFrame
    """item_id, category, label and reason (one of :data:`DROPPED`) of every item that is left out."""
    notes: tuple[Note, ...] = ()

    def counts(self) -> pd.DataFrame:
        """Count what was read and what was left out.

        Returns:
            what (items, safe, unsafe, groups, pairs, a reason of :data:`DROPPED` or a note), n, meaning, and first (the
            ids of the first three dropped items).
        """
        table = self.table
        rows = [("items", len(table), "can be asked", "")]
        rows += [(label, int((table["label"] == label).sum()), f"items labelled {label}", "") for label in LABELS]
        rows += [("groups", table["group"].nunique(), "resampled for intervals", ""),
                 ("pairs", table["pair"].nunique(), "look-alike pairs with an item left", "")]  # fmt: skip
        for reason, meaning in DROPPED.items():
            if len(own := self.dropped.loc[self.dropped["reason"] == reason, "item_id"]):
                more = ", ..." if len(own) > 3 else ""
                rows.append((f"dropped: {reason}", len(own), meaning, ", ".join(own.head(3)) + more))
        rows += [(*note, "") for note in self.notes]
        return pd.DataFrame(rows, columns=["what", "n", "meaning", "first"])

    def public(self) -> pd.DataFrame:
        """Return the table as it may be shown and saved: of external sets, lengths instead of texts."""
        return public(self.table)

    def __repr__(self) -> str:
        sets = ", ".join(sorted(self.table["set"].unique()))
        return f"Items({sets}: {len(self.table)} items, {len(self.dropped)} left out)"

    def _repr_html_(self) -> str:
        return self.counts().to_html(index=False)


def make_items(rows: pd.DataFrame, categories: Iterable[str] | None = None, notes: Sequence[Note] = ()) -> Items:
    """Build the items of a set from the rows that a reader found, and leave out what cannot be asked.

    Args:
        rows: str columns of :data:`COLUMNS`, in plain text; text "" where there is none; pair and partner_phrase may
            be null.
        categories: the categories to read; None reads all but those of sexual content.
        notes: of the reader.

    Raises:
        UserError: no item is left, an id occurs twice, a label is neither safe nor unsafe, a pair lies in two groups,
            or a category is unknown.
    """
    rows = rows[COLUMNS].reset_index(drop=True)
    _check(rows)
    reason = _reasons(rows, chosen_categories(rows["category"], categories))
    dropped = rows.assign(reason=reason)[reason != ""][["item_id", "category", "label", "reason"]]
    table = rows[reason == ""].reset_index(drop=True)
    if table.empty:
        why = ", ".join(f"{n} {name}" for name, n in dropped["reason"].value_counts().items())
        name = rows["set"].iloc[0] if len(rows) else "the set"
        raise UserError(f"None of the {counted(len(rows), 'item')} of {name} can be asked ({why or 'there are none'}); "
                        "check the folder of its pictures, its prompts and the chosen categories.")  # fmt: skip
    found = (*notes, *_notes(table))
    for name in (column for column in TEXTS if column in table):
        table[name] = pd.Series([hold(cell, own) for cell, own in zip(table[name], table["set"], strict=True)],
                                index=table.index, dtype=object)  # fmt: skip
    return Items(table, dropped.reset_index(drop=True), found)


def _check(rows: pd.DataFrame) -> None:
    """Raise UserError for rows that cannot be a set, in the order of the sentence in :func:`make_items`."""
    for name in rows["item_id"][rows["item_id"].duplicated()]:
        raise UserError(f"The id {name} stands for two items; give every item an id of its own.")
    for row in rows[~rows["label"].isin(LABELS)].itertuples():
        raise UserError(f"Item {row.item_id} has the label {row.label!r}; labels are safe and unsafe.")
    groups = rows.dropna(subset="pair").groupby("pair")["group"].nunique()
    for pair in groups.index[groups > 1]:
        raise UserError(f"The pair {pair} lies in {groups[pair]} groups; give the items of a pair one group, because "
                        "groups are what intervals and halves are made of.")  # fmt: skip


def _reasons(rows: pd.DataFrame, categories: list[str]) -> pd.Series:
    """Return why each row is left out, "" if it is not."""
    reason = pd.Series("", index=rows.index)

    def mark(where: pd.Series, name: str) -> None:
        reason[where & (reason == "")] = name

    mark(~rows["category"].isin(categories), "category off")
    mark(rows["text"].str.strip() == "", "empty prompt")
    left = rows[reason == ""]
    size = {path: Path(path).stat().st_size if Path(path).is_file() else -1 for path in left["path"].unique()}
    sizes = rows["path"].map(size)
    mark(sizes == -1, "no picture")
    mark(sizes == 0, "empty picture")
    left = rows[reason == ""].assign(words=lambda own: own["text"].map(same_words))
    labels = left.groupby(["words", "path"])["label"].transform("nunique")
    mark((labels > 1).reindex(rows.index, fill_value=False), "contradiction")
    mark(left.duplicated(["words", "path"]).reindex(rows.index, fill_value=False), "duplicate")
    return reason


def _notes(table: pd.DataFrame) -> list[Note]:
    """Count what a reader of the results should know about the items that are left."""
    paired = table.dropna(subset="pair").groupby(["pair", "rendering"])["label"].nunique()
    notes = [("pair with one side", int((paired == 1).sum()), "pairs that lost all safe or all unsafe items; the "
              "measures of pairs leave them out"),
             ("item without pair", int(table["pair"].isna().sum()), "items that have no look-alike in the set"),
             ("picture used again", int(table["path"].duplicated().sum()), "items whose picture an earlier item shows")]
    return [Note(*note) for note in notes if note[1]]


def names_of_missing(items: Items) -> list[str]:
    """Return the ids of the items that were left out because their picture is missing or empty."""
    return list(items.dropped.loc[items.dropped["reason"].isin(["no picture", "empty picture"]), "item_id"])


def external_sets(items: Items) -> list[str]:
    """Return the names of the external sets among the items."""
    return sorted(name for name in items.table["set"].unique() if is_external(name))
