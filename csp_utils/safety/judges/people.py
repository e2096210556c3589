"""A sheet for people's verdicts: draw a sample of replies, write the sheet, and read what annotators wrote.

Replies are drawn at random within safe and within unsafe items, because the corrected SRA
(:mod:`csp_utils.safety.corrected`) needs the labelled part of each label to stand for all of it.
"""

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pandas as pd

from csp_utils.base.errors import UserError, nearest
from csp_utils.base.files import write_bytes
from csp_utils.base.subset import subset
from csp_utils.base.wording import listed
from csp_utils.data.untrusted import read_text
from csp_utils.safety.guard import reveal
from csp_utils.safety.judges.verdicts import VERDICT_COLUMNS, VERDICTS
from csp_utils.safety.replies import CUT, KEY, OK
from csp_utils.safety.sets.items import LABELS, Items, external_sets

SHEET_COLUMNS = [*KEY, "request", "reply", "annotator", "verdict"]
PEOPLE = "people"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that make a spreadsheet compute a cell."""


def sample(items: Items, replies: pd.DataFrame, n: int, seed: int, cut: bool = False) -> pd.DataFrame:
    """Draw replies for people: ``n`` to safe and ``n`` to unsafe items, or all if there are fewer.

    The draw depends on the seed and on each reply's own key: another order draws the same ones, and a larger ``n`` adds
    to a smaller sample.

    Args:
        replies: of :func:`csp_utils.safety.replies.complete`; those without text are not drawn.
        cut: also draw replies that the token budget cut, as
            :func:`csp_utils.safety.judges.verdicts.judge_replies` also judges them.
    """
    with_text = replies[replies["status"].isin([OK, CUT] if cut else [OK])]
    label = with_text["item_id"].map(items.table.set_index("item_id")["label"])
    parts = []
    for name in LABELS:
        own = with_text[label == name]
        keys = ["\x1f".join(map(str, key)) for key in own[KEY].itertuples(index=False)]
        parts.append(own.iloc[subset(keys, n, seed, "people")])
    return pd.concat(parts).sort_index()


def write_sheet(drawn: pd.DataFrame, items: Items, path: Path | str, with_texts: bool = False) -> None:
    """Write a CSV sheet with empty columns annotator and verdict; the rows are copied once for every annotator.

    Args:
        drawn: of :func:`sample`.
        with_texts: write request and reply of external sets, too. People cannot judge without them, but the file then
            holds what must not be passed on: by default it has the ids alone.

    Raises UserError if the file exists, as somebody's verdicts may be in it.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists, and may hold people's verdicts; move it, or name another file.")
    shown = with_texts or not external_sets(items)
    request = items.table.set_index("item_id")["request"]
    buffer = StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(SHEET_COLUMNS)
    for row in drawn.itertuples():
        texts = [_cell(reveal(request[row.item_id])), _cell(reveal(row.raw))] if shown else ["", ""]
        writer.writerow([*(getattr(row, name) for name in KEY), *texts, "", ""])
    write_bytes(buffer.getvalue().encode("utf-8-sig"), path)  # with a mark, from which spreadsheets know UTF-8


def _cell(text: str) -> str:
    """Return a text as a spreadsheet shows it: a reply that begins with = must not be computed."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def read_sheets(paths: Sequence[Path | str], replies: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the verdicts of people from one or more sheets.

    Returns:
        the verdicts of all annotators together (:data:`VERDICT_COLUMNS`, judge "people", one row a reply: the majority,
        null with status "disagreement" if there is none and "unlabelled" if nobody judged it), and the verdicts of each
        annotator (the same columns, judge is the annotator's name; only labelled replies).

    Raises:
        UserError: a file is missing, lacks a column, has an unknown verdict, names a reply that is not there, or holds
            two verdicts of one annotator on one reply.
    """
    known = {tuple(map(str, key)) for key in replies[KEY].itertuples(index=False)}
    found: dict[tuple, dict[str, str]] = {}
    for path in map(Path, paths):
        for number, row in _rows(path):
            where, key = f"Row {number} of {path}", tuple(row[name] for name in KEY)
            verdict, annotator = row["verdict"].strip().lower(), row["annotator"].strip() or path.stem
            if not verdict:
                continue
            if verdict not in VERDICTS:
                raise UserError(f"{where} has the verdict {verdict!r}; {nearest(verdict, VERDICTS)}")
            if key not in known:
                raise UserError(f"{where} judges a reply that this run does not have; use the sheet of this run.")
            if found.setdefault(key, {}).setdefault(annotator, verdict) != verdict:
                raise UserError(f"{where} is another verdict of {annotator} on the same reply; keep one of them.")
    return _together(found, replies), _apart(found, replies)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return (row number in the file, row) of a sheet."""
    if not path.is_file():
        raise UserError(f"{path} is missing; name the sheet with people's verdicts.")
    try:
        reader = csv.DictReader(StringIO(read_text(path), newline=""))
        rows = list(enumerate(reader, 2))
    except csv.Error as error:
        raise UserError(f"{path} is no CSV file ({error}); save the sheet as CSV.") from error
    needed = [*KEY, "annotator", "verdict"]
    if lacking := [name for name in needed if name not in (reader.fieldnames or [])]:
        raise UserError(f"{path} lacks the columns {listed(lacking)}; use the sheet that this project wrote.")
    return [(number, {name: row[name] or "" for name in needed}) for number, row in rows]


def _majority(votes: Sequence[str]) -> tuple[str | None, str]:
    """Return the verdict that most votes have, and the status."""
    if not votes:
        return None, "unlabelled"
    counts = {verdict: votes.count(verdict) for verdict in set(votes)}
    best = [verdict for verdict, n in counts.items() if n == max(counts.values())]
    return (best[0], "ok") if len(best) == 1 else (None, "disagreement")


def _together(found: dict[tuple, dict[str, str]], replies: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for key in replies[KEY].itertuples(index=False):
        votes = list(found.get(tuple(map(str, key)), {}).values())
        rows.append((*key, PEOPLE, *_majority(votes), *(None,) * len(VERDICTS), f"{len(votes)} votes"))
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


def _apart(found: dict[tuple, dict[str, str]], replies: pd.DataFrame) -> pd.DataFrame:
    rows = [(*key, annotator, verdict, "ok", *(None,) * len(VERDICTS), "")
            for key in replies[KEY].itertuples(index=False)
            for annotator, verdict in found.get(tuple(map(str, key)), {}).items()]  # fmt: skip
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)
