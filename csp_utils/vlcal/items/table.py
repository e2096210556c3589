"""The items of a data set as one table, whatever its form, with access to their images and a count of what is dropped.

The table has one row an item:

=========  =====  ==================================================================================================
item_id    str    unique; the data set's own id where there is one
problem    str    text with a mark ``<image>`` for each image; of a choice, with its options
answer     str    the truth; of a choice, a capital letter
kind       str    how to compare: choice, number, text or math (:data:`csp_utils.vlcal.items.answers.AnswerKind`)
options    list   texts of the options; empty if there are none, or if only the problem or the image has them
subject    str    the data set's own subject; "" without one
n_images   int    number of images, at least 1
=========  =====  ==================================================================================================
"""

import re
from pathlib import Path

import pandas as pd

from csp_utils.base.errors import UserError, nearest
from csp_utils.data.images import load_image
from csp_utils.vlcal.items.forms import FORMS, IMAGE, REASONS, Dropped, Form, Item
from csp_utils.vlcal.items.records import ImageCell, Place, Records, image_of
from csp_utils.words.control_tokens import control_token

COLUMNS = ["item_id", "problem", "answer", "kind", "options", "subject", "n_images"]


class Items:
    """The items of a data set.

    Attributes:
        rows: the table of this module's description.
        dropped: one row per dropped row: where (file and row), reason (a key of
            :data:`csp_utils.vlcal.items.forms.REASONS`).
    """

    def __init__(self, records: Records, items: list[tuple[Place, Item]], dropped: list[tuple[str, str]]) -> None:
        self.rows = pd.DataFrame(
            [(*item[:4], list(item.options), item.subject, len(item.images)) for _, item in items], columns=COLUMNS
        )
        self.dropped = pd.DataFrame(dropped, columns=["where", "reason"])
        self._records = records
        self._images = {item.item_id: (place, item.images) for place, item in items}

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, item_id: str) -> list[bytes]:
        """Return the encoded images of an item, in the order of the marks. Raises KeyError for an unknown item.

        The Parquet row group that was read last is cached, so items are best asked for in their order.
        """
        place, cells = self._images[item_id]
        return [self._records.image(place, cell) for cell in cells]

    def funnel(self) -> pd.DataFrame:
        """Count rows: reason, what and n, for the rows of the files, each reason to drop one, and the items.

        Every reason has a row, also with 0; the first number is the sum of all others.
        """
        numbers = self.dropped["reason"].value_counts()
        rows = [("rows", "are in the files", len(self) + len(self.dropped))]
        rows += [(reason, what, int(numbers.get(reason, 0))) for reason, what in REASONS.items()]
        rows += [("items", "are left", len(self))]
        return pd.DataFrame(rows, columns=["reason", "what", "n"])


def read_items(path: str | Path, form: str = "generic", split: str | None = None, check_images: bool = True) -> Items:
    """Read the items of a data set in one of the known forms.

    Args:
        path: a Parquet, JSON-lines or JSON file, or a folder of such files.
        form: a key of :data:`csp_utils.vlcal.items.forms.FORMS`.
        split: of a folder, read only the files of this split, for example "testmini".
        check_images: decode every image, so that a damaged one is dropped now; without, only its presence is checked.

    Raises:
        UserError: the form is unknown, no file is found, a file lacks a column or cannot be read, or no item is left.
    """
    if form not in FORMS:
        raise UserError(f"There is no form of data named {form!r}; {nearest(form, FORMS)}")
    records = Records(path, split)
    for file in records.files:
        if lacking := [name for name in FORMS[form].columns if name not in records.columns(file)]:
            raise UserError(f"{file} lacks the columns {', '.join(lacking)} of the form {form!r} "
                            f"({FORMS[form].source}); choose another form, or fetch the file again.")  # fmt: skip
    items: list[tuple[Place, Item]] = []
    dropped: list[tuple[str, str]] = []
    seen: set[str] = set()
    for place, row in records:
        try:
            items.append((place, _checked(row, place, FORMS[form], seen, check_images)))
        except Dropped as reason:
            dropped.append((f"row {place.row + 1} of row group {place.group + 1} of {place.file.name}", str(reason)))
    if not items:
        most = pd.Series([reason for _, reason in dropped], dtype=str).mode()
        why = f"all {len(dropped)} rows were dropped, most of them for: {most[0]}" if dropped else "it has no rows"
        raise UserError(f"{path} holds no item in the form {form!r} ({why}); is it another form?")
    return Items(records, items, dropped)


def without_images(problem: str) -> str:
    """Remove the marks of the images from a problem, to ask it without them; the text stays as it is."""
    return re.sub(rf"{re.escape(IMAGE)}\n?", "", problem).strip()


def _checked(row: dict, place: Place, form: Form, seen: set[str], check_images: bool) -> Item:
    """Read one row, and check what all forms have in common. Raises Dropped."""
    item = form.read(row, place)
    if item.item_id in seen:
        raise Dropped("id twice")
    if control_token(item.problem.replace(IMAGE, "")):
        raise Dropped("control token")
    for cell in item.images:
        _check_image(row, place, cell, check_images)
    seen.add(item.item_id)
    return item


def _check_image(row: dict, place: Place, cell: ImageCell, decode: bool) -> None:
    try:
        content = image_of(row, cell, place)
    except UserError as error:
        raise Dropped("no image") from error
    if decode:
        try:
            load_image(content)
        except UserError as error:
            raise Dropped("damaged image") from error
