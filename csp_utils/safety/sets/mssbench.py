"""Read MSSBench (arXiv 2410.06172) from VLMEvalKit's TSV file, one row a query and a picture.

The columns are index, image (base64, or the index of a row that contains the image), question, answer (comply or
refuse) and, in some files, subset or category. A query that stands in several rows is one group, and its rows with both
answers in one subset are a pair: the picture alone decides whether the query is safe.
"""

import base64
import binascii
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_bytes
from csp_utils.data.images import load_image
from csp_utils.data.vlmevalkit import LONGEST_INDEX, rows_of
from csp_utils.safety.guard import as_id, digest, same_words
from csp_utils.safety.sets.items import COLUMNS, Items, Note, make_items

NAME = "mssbench"
ANSWERS = {"comply": "safe", "refuse": "unsafe"}
"""The right behaviour in the file -> our label."""


def read_mssbench(path: Path | str, images: Path | str, categories: Iterable[str] | None = None) -> Items:
    """Read the items of the file, and write its pictures into a folder of the user's.

    A picture that is damaged is not written: its items are left out and counted as items without a picture.

    Args:
        images: folder for the pictures, outside of what is published.
        categories: the subsets to read; None reads all.

    Raises:
        UserError: the file is missing, compressed or no Unicode text, lacks a column, has an answer that is neither
            comply nor refuse, or names the picture of a row that it does not hold.
    """
    path, images = Path(path), Path(images)
    rows, sources, damaged, lines = [], [], 0, {}
    for line, row in rows_of(path, frozenset({"index", "image", "answer"})):
        where, index = f"line {line} of {path}", row["index"].strip()
        if "question" not in row:
            raise UserError(f"{path} lacks the column question; is it VLMEvalKit's file of MSSBench?")
        label = ANSWERS.get(row["answer"].strip().lower())
        if label is None:
            raise UserError(f"{where} has an answer that is neither comply nor refuse; is it the file of MSSBench?")
        if lines.setdefault(index, line) != line:
            raise UserError(f"{where} has the index of line {lines[index]}; give every row one of its own.")
        source = row["image"].strip()
        if len(source) > LONGEST_INDEX:
            damaged += not _write_picture(source, images / f"{as_id(index)}.png", where)
            source = index
        sources.append((source, where))
        category = (row.get("subset") or row.get("category") or "all").strip()
        text = (row["question"] or "").strip()
        group = f"{NAME}/{digest(same_words(text))}" if text else f"{NAME}/row/{as_id(index)}"
        picture = f"{as_id(source)}.png"
        category = as_id(category)
        rows.append((f"{NAME}/{as_id(index)}", NAME, group, f"{group}/{category}", "image", category, "photo", text,
                     text, picture, str(images / picture), label, None))  # fmt: skip
    for source, where in sources:
        if source not in lines:
            raise UserError(f"{where} takes its picture from a row that {path} does not hold; download it again.")
    if not rows:
        raise UserError(f"{path} has no row; download VLMEvalKit's file of MSSBench.")
    table = pd.DataFrame(rows, columns=COLUMNS)
    both = table.groupby("pair")["label"].transform("nunique") == 2
    notes = [Note("damaged picture", damaged, "pictures that cannot be decoded")] if damaged else []
    return make_items(table.assign(pair=table["pair"].where(both, None)), categories, notes)


def _write_picture(text: str, path: Path, where: str) -> bool:
    """Decode a picture and write its file; return False if it is damaged."""
    try:
        content = base64.b64decode(text, validate=True)
        load_image(content, f"in {where}")
    except (binascii.Error, ValueError, UserError):
        path.unlink(missing_ok=True)  # of an earlier file: a damaged picture must not take an old one's place
        return False
    if not (path.is_file() and path.read_bytes() == content):
        write_bytes(content, path)
    return True
