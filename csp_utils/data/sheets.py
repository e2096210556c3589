"""Read the rows of an Excel sheet as text, with one sentence about a file that is not the expected one."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from csp_utils.base.errors import UserError, first_line
from csp_utils.base.wording import listed


def read_sheet(path: Path | str, needed: Iterable[str], what: str) -> pd.DataFrame:
    """Read the first sheet of an xlsx file; its first row has the names of the columns.

    Args:
        needed: columns that the sheet must have; others are read as well.
        what: what the file should be, for the sentence about another one.

    Returns:
        str columns, "" for an empty cell; rows without any cell and columns without a name are left out. Numbers are
        text as Python writes them. The index is the number of the row in the sheet, from 2.

    Raises:
        UserError: the file is missing, is no xlsx file, has no row, names a column twice, or lacks one.
    """
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing; it should be {what}: download it, or correct the folder.")
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        rows = [tuple(_text(cell) for cell in row) for row in book.worksheets[0].iter_rows(values_only=True)]
        book.close()
    except (InvalidFileException, zipfile.BadZipFile, KeyError, IndexError, ValueError, OSError, SyntaxError) as error:
        raise UserError(f"{path} is no Excel file that can be read ({first_line(error)}); it should be {what}: "
                        "download it again.") from error  # fmt: skip
    header = [name.strip() for name in rows[0]] if rows else []
    if lacking := [name for name in needed if name not in header]:
        raise UserError(f"{path} lacks the columns {listed(lacking)}; it should be {what}: download that file.")
    named = [at for at, name in enumerate(header) if name]
    names = [header[at] for at in named]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path} has two columns {twice!r}; it should be {what}: download it again.")
    content = {number: [row[at] for at in named] for number, row in enumerate(rows[1:], 2) if any(row)}
    if not content:
        raise UserError(f"{path} has no row; it should be {what}: download it again.")
    return pd.DataFrame.from_dict(content, orient="index", columns=names)


def _text(cell: object) -> str:
    """Return a cell as text; "" for an empty one or one of white space alone."""
    text = "" if cell is None else str(cell)
    return text if text.strip() else ""
