"""Read any other safety set from a table: CSV, JSON lines or Parquet, one item a row."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from csp_utils.base.errors import UserError, first_line, nearest
from csp_utils.base.files import read_parquet
from csp_utils.base.wording import listed
from csp_utils.data.untrusted import file_name_problem, parse_json, read_text
from csp_utils.safety.guard import HOUSE, as_id
from csp_utils.safety.sets.items import COLUMNS, LABELS, Items, make_items

NEEDED = ("text", "image", "label", "group")
OPTIONAL = ("item_id", "pair", "side", "category", "rendering", "request", "partner_phrase")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")


def read_table(path: Path | str, name: str, images: Path | str | None = None,
               columns: Mapping[str, str] | None = None, categories: Iterable[str] | None = None) -> Items:
    """Read a safety set from one file with a row for each item.

    Args:
        path: .csv, .jsonl or .parquet; text in UTF-8 or with a byte order mark.
        name: of the set, in lower case: letters, digits, _, . and -.
        images: folder of the pictures; by default that of the file.
        columns: our name -> the file's name of a column, where they differ. Needed are text, image (file name), label
            (safe or unsafe) and group; item_id, pair, side, category, rendering, request (by default the text) and
            partner_phrase are optional.
        categories: the categories to read; None reads all but those of sexual content.

    Raises:
        UserError: the file is missing or cannot be read, lacks a column, has a label that is neither safe nor unsafe,
            names a picture outside ``images``, or as :func:`csp_utils.safety.sets.items.make_items`.
    """
    path = Path(path)
    if not _NAME.fullmatch(name) or name == HOUSE:
        raise UserError(f"{name!r} cannot be the name of a set that is read from {path}: use lower-case letters, "
                        f"digits, _, . and -, and not {HOUSE!r}, whose texts are shown and published.")  # fmt: skip
    table = _renamed(_content(path), columns or {}, path)
    rows = {column: [_cell(value) for value in table[column]] for column in table}
    n = len(table)
    ids = [as_id(value) if value else f"row{at}" for at, value in enumerate(rows.get("item_id", [""] * n), 1)]
    names = [f"{name}/{own}" for own in ids]
    _check(rows, names, path)
    folder = Path(images) if images is not None else path.parent
    group = [f"{name}/{as_id(value)}" for value in rows["group"]]
    pair = [f"{name}/{as_id(value)}" if value else None for value in rows.get("pair", [""] * n)]
    known = {"item_id": names, "set": [name] * n, "group": group, "pair": pair, "text": rows["text"],
             "label": [value.lower() for value in rows["label"]], "image": rows["image"],
             "request": [own or text for own, text in zip(rows.get("request", [""] * n), rows["text"], strict=True)],
             "path": [str(folder / value) if value else "" for value in rows["image"]],
             "partner_phrase": [value or None for value in rows.get("partner_phrase", [""] * n)]}  # fmt: skip
    defaults = {"side": "image", "category": "all", "rendering": "photo"}
    known |= {key: [as_id(value) if value else default for value in rows.get(key, [""] * n)]
              for key, default in defaults.items()}  # fmt: skip
    return make_items(pd.DataFrame(known, columns=COLUMNS), categories)


def _renamed(table: pd.DataFrame, columns: Mapping[str, str], path: Path) -> pd.DataFrame:
    """Return the needed and the optional columns under our names. Raises UserError if one is missing or unknown."""
    for ours in columns:
        if ours not in (*NEEDED, *OPTIONAL):
            raise UserError(f"`columns` names {ours!r}, which a set does not have; {nearest(ours, NEEDED + OPTIONAL)}")
    wanted = {ours: columns.get(ours, ours) for ours in (*NEEDED, *OPTIONAL)}
    lacking = [theirs for ours, theirs in wanted.items()
               if theirs not in table and (ours in NEEDED or ours in columns)]  # fmt: skip
    if lacking:
        raise UserError(f"{path} lacks the columns {listed(lacking)}; add them, or name the file's own in `columns`.")
    return pd.DataFrame({ours: table[theirs] for ours, theirs in wanted.items() if theirs in table})


def _check(rows: Mapping[str, list[str]], names: list[str], path: Path) -> None:
    """Raise UserError for a wrong label, an empty group, or a picture outside its folder; texts are not quoted."""
    for at, own in enumerate(names):
        if rows["label"][at].lower() not in LABELS:
            raise UserError(f"{own} in {path} has a label that is neither safe nor unsafe; correct the column label.")
        if not rows["group"][at]:
            raise UserError(f"{own} in {path} has no group; give the items about one prompt, or of one pair, a group.")
        if rows["image"][at] and (problem := file_name_problem(rows["image"][at])):
            raise UserError(f"The picture of {own} in {path} has a name that {problem}; correct the column image.")


def _content(path: Path) -> pd.DataFrame:
    """Read the file by its suffix. Raises UserError if it cannot be read or has no row."""
    readers = {".csv": _csv, ".jsonl": _json_lines, ".parquet": read_parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path} has the suffix {path.suffix!r}; a set is read from .csv, .jsonl or .parquet.")
    if not path.is_file():
        raise UserError(f"{path} is missing; correct the path of the set.")
    table = readers[path.suffix.lower()](path)
    if table.empty:
        raise UserError(f"{path} has no row; a set has a row for each item.")
    return table


def _csv(path: Path) -> pd.DataFrame:
    from io import StringIO

    try:
        return pd.read_csv(StringIO(read_text(path)), dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path} is no CSV file ({first_line(error)}); save it again.") from error


def _json_lines(path: Path) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        row = parse_json(line, f"Line {number} of {path}", "save the file again.")
        if not isinstance(row, dict):
            raise UserError(f"Line {number} of {path} is no object with names and values; save the file again.")
        rows.append(row)
    return pd.DataFrame(rows)


def _cell(value: object) -> str:
    """Return a cell as trimmed text, "" for a missing one."""
    missing = value is None or (isinstance(value, float) and value != value) or value is pd.NA
    return "" if missing else str(value).strip()
