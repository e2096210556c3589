"""Read the rows of a file, whatever its format: CSV, TSV, JSON lines, JSON, Parquet or Excel."""

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from csp_utils.base.errors import UserError, of_system
from csp_utils.base.files import read_parquet
from csp_utils.base.wording import listed
from csp_utils.data.sheets import read_sheet
from csp_utils.data.untrusted import parse_json, read_text
from csp_utils.replies.checks import repeated

ROW = "row"
"""Name of the table's index: the number of the row in its file, for messages."""
SAVE = "save the file again."


def read_rows(path: Path | str) -> pd.DataFrame:
    """Read a file with one row for each reply into a table, with its values as they are in the file.

    Args:
        path: .csv (separated by commas or semicolons), .tsv, .jsonl, .json (a list of objects), .parquet or .xlsx
            (its first sheet).

    Returns:
        object columns: texts of CSV, TSV and Excel; values of JSON and Parquet. A field inside of an object has its
        path as its name, such as "doc.question_id". The index, called row, is the number of the line, sheet row, or
        entry in the file, from 1.

    Raises:
        UserError: the file is missing, has another suffix, cannot be read, or has no rows.
    """
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise UserError(f"{path} has the suffix {path.suffix!r}; replies are read from {listed(READERS)}.")
    if not path.is_file():
        raise UserError(f"{path} is missing; correct the path of the replies.")
    try:
        table = READERS[path.suffix.lower()](path)
    except OSError as error:
        raise of_system(error) from error
    if table.empty:
        raise UserError(f"{path} has no rows; a file of replies has a row for each reply.")
    return table.rename_axis(ROW)


def _csv(path: Path) -> pd.DataFrame:
    return _separated(path, None)


def _tsv(path: Path) -> pd.DataFrame:
    return _separated(path, "\t")


def _separated(path: Path, separator: str | None) -> pd.DataFrame:
    """Read a CSV or TSV file; every row must have as many cells as the first one, which names the columns."""
    csv.field_size_limit(2**31 - 1)  # a field may be an image
    text = read_text(path)
    if separator is None:
        first = text.partition("\n")[0]
        separator = ";" if first.count(";") > first.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: dict[int, list[str]] = {}
    try:
        header = [name.strip() for name in next(reader, [])]
        line = reader.line_num + 1  # of the row's beginning; a quoted text may have several lines
        for cells in reader:
            if cells and len(cells) != len(header):
                raise UserError(f"Line {line} of {path} has {len(cells)} cells and the first line {len(header)}; put "
                                f"texts that hold the separator {separator!r} in quotes.")  # fmt: skip
            if cells:  # no empty line
                rows[line] = cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"Line {reader.line_num} of {path} is no row of a table ({error}); save it again.") from error
    _check_header(header, path)
    return pd.DataFrame.from_dict(rows, orient="index", columns=header, dtype=object)


def _check_header(header: list[str], path: Path) -> None:
    if twice := repeated(header):
        raise UserError(f"{path} has two columns {twice[0]!r}; give each a name of its own.")


def _jsonl(path: Path) -> pd.DataFrame:
    found = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):  # not splitlines(), which also splits at U+2028
        if line.strip():
            where = f"Line {number} of {path}"
            found[number] = _object(parse_json(line, where, SAVE), where)
    return _table(found)


def _json(path: Path) -> pd.DataFrame:
    content = parse_json(read_text(path), str(path), SAVE)
    if not isinstance(content, list):
        raise UserError(f"{path} is no list of replies; write a list of objects, or one object on each line of a "
                        ".jsonl file.")  # fmt: skip
    return _table({number: _object(one, f"Entry {number} of {path}") for number, one in enumerate(content, 1)})


def _object(value: Any, where: str) -> dict[str, Any]:
    """Return an object with the fields of inner objects under their paths. Raises UserError for any other value."""
    if not isinstance(value, dict):
        raise UserError(f"{where} is no object with names and values; write one object for each reply.")
    flat: dict[str, Any] = {}
    waiting = list(reversed(value.items()))
    while waiting:
        name, own = waiting.pop()
        if isinstance(own, dict):
            waiting += [(f"{name}.{inner}", one) for inner, one in reversed(own.items())]
        else:
            flat[name] = own
    return flat


def _table(rows: dict[int, dict[str, Any]]) -> pd.DataFrame:
    names: Iterable[str] = dict.fromkeys(name for row in rows.values() for name in row)
    columns = {name: [row.get(name) for row in rows.values()] for name in names}
    return pd.DataFrame({name: pd.Series(values, index=list(rows), dtype=object) for name, values in columns.items()})


def _parquet(path: Path) -> pd.DataFrame:
    rows = read_parquet(path).astype(object).to_dict("records")
    return _table({number: _object(row, f"Row {number} of {path}") for number, row in enumerate(rows, 1)})


def _xlsx(path: Path) -> pd.DataFrame:
    return read_sheet(path, (), "a sheet with a row for each reply")


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet, ".xlsx": _xlsx,
}  # fmt: skip
"""Suffix -> the function that reads such a file."""
