"""The table of replies to a set's items, with the status of each: what failed is counted and never becomes a refusal.

Columns: item_id, model, variant, strategy (what was done against refusal errors, "none" for the plain request), draw
(0 for the greedy reply, 1, 2 ... for sampled ones), raw (the reply, withheld for external sets; "" if there is none)
and status.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.wording import counted, listed
from csp_utils.data.sheets import read_sheet
from csp_utils.safety.guard import hold, reveal, same_words
from csp_utils.safety.sets.items import Items
from csp_utils.safety.sets.vscbench import NEEDED, RENDERINGS, image_rows, text_rows

OK, CUT, EMPTY, ERROR, MISSING = "ok", "cut", "empty", "error", "missing"
STATUSES = {
    OK: "the model ended its reply",
    CUT: "the token budget cut the reply",
    EMPTY: "the model replied nothing but white space",
    ERROR: "asking failed",
    MISSING: "there is no reply",
}
REPLY_COLUMNS = ["item_id", "model", "variant", "strategy", "draw", "raw", "status"]
KEY = ["item_id", "model", "variant", "strategy", "draw"]
_IMAGE_SIDE = re.compile(r"(safe|unsafe)_resp_(.+)_(\d+)")


def status_of(raw: str | None, ended: bool = True, failed: bool = False) -> str:
    """Return the status of a reply.

    Args:
        raw: the reply; None if there is none.
        ended: whether the model ended the reply; False if the token budget did.
        failed: whether asking raised an error, whatever text is there.
    """
    if failed:
        return ERROR
    if raw is None:
        return MISSING
    return EMPTY if not raw.strip() else OK if ended else CUT


def complete(replies: pd.DataFrame, items: Items) -> pd.DataFrame:
    """Return the replies to the items, in the items' order, with a row of status missing where there is none.

    A row is added for every item of each (model, variant, strategy, draw) among the replies; replies to items that were
    left out of the set are left out, too. External replies are withheld.

    Raises:
        UserError: a column is missing, a status is unknown, or two replies have the same key.
    """
    if lacking := [name for name in REPLY_COLUMNS if name not in replies]:
        raise UserError(f"The table of replies lacks the columns {listed(lacking)}; make it again.")
    if len(unknown := replies.loc[~replies["status"].isin(list(STATUSES)), "status"]):
        raise UserError(f"The table of replies has the status {unknown.iloc[0]!r}; valid are {listed(STATUSES)}.")
    if len(twice := replies[replies.duplicated(KEY)]):
        raise UserError(f"There are two replies to {twice['item_id'].iloc[0]} of one model, variant, strategy and draw;"
                        " give sampled replies the draws 1, 2 ...")  # fmt: skip
    asked = replies[KEY[1:]].drop_duplicates()
    known = items.table[["item_id", "set"]]
    table = asked.merge(known, how="cross").merge(replies, how="left", on=KEY)
    lacking = table["status"].isna()
    table.loc[lacking, "status"] = MISSING
    raws = ["" if gone else reveal(raw) for raw, gone in zip(table["raw"], lacking, strict=True)]
    cells = [hold(raw, name) for raw, name in zip(raws, table["set"], strict=True)]
    table["raw"] = pd.Series(cells, table.index, dtype=object)
    return table[REPLY_COLUMNS]


def status_counts(replies: pd.DataFrame, items: Items) -> pd.DataFrame:
    """Count the replies by status: model, variant, strategy, label, status, n.

    A failure rate that differs between safe and unsafe items biases every measure, so the labels are counted apart.
    """
    table = replies.merge(items.table[["item_id", "label"]], on="item_id")
    keys = ["model", "variant", "strategy", "label", "status"]
    return table.groupby(keys, sort=False, observed=True).size().reset_index(name="n")


# ------------------------------------------------------------------------------- reply files of the official collection


def read_official_replies(path: Path | str, items: Items, side: str, model: str | None = None) -> pd.DataFrame:
    """Read the replies that the official collection wrote into a copy of VSCBench's sheet.

    Its columns are <label>_resp_<model>_<slot> on the image side and resp_<rendering> on the text side. It stores every
    failure as an empty cell, which is read as status missing. Replies to the text alone (resp_txt) belong to no item
    and are left out. The collection does not tell whether a reply was cut.

    Args:
        items: of :func:`csp_utils.safety.sets.vscbench.read_vscbench`.
        side: image or text.
        model: which model's replies; None if the file has those of one model alone. On the text side, where the file
            does not name it, the name for the table.

    Returns:
        :func:`complete` table of the items of this side: variant base, strategy none, draw 0.

    Raises:
        UserError: the file is another one, holds no replies or those of several models, or its prompts are not those of
            the items. A file of a single category is fine: the replies to the others are missing.
    """
    sheet = read_sheet(path, NEEDED[side], "a file of replies of VSCBench's collection")
    rows = image_rows(sheet) if side == "image" else text_rows(sheet)
    name, where = (_image_columns if side == "image" else _text_columns)(sheet, model, path)
    _check_same_prompts(rows, items, path)
    raws = []
    for place, row in enumerate(rows.itertuples()):
        kind = (row.label, row.item_id.rpartition("/")[2]) if side == "image" else row.rendering
        raws.append(sheet.iloc[place * len(sheet) // len(rows)][where[kind]])
    replies = rows.assign(model=name, variant="base", strategy="none", draw=0, raw=raws)
    replies["status"] = [status_of(raw or None) for raw in raws]
    own = Items(items.table[items.table["side"] == side], items.dropped, items.notes)
    return complete(replies[REPLY_COLUMNS], own)


def _image_columns(sheet: pd.DataFrame, model: str | None, path: Path | str) -> tuple[str, dict]:
    """Return the model and (label, slot) -> column of its replies."""
    found: dict[str, dict] = {}
    for name in sheet:
        if match := _IMAGE_SIDE.fullmatch(name):
            found.setdefault(match[2], {})[match[1], match[3]] = name
    name = _one_model(found, model, path)
    wanted = [(label, str(slot)) for label in ("safe", "unsafe") for slot in range(3)]
    if lacking := [f"{label}_resp_{name}_{slot}" for label, slot in wanted if (label, slot) not in found[name]]:
        raise UserError(f"{path} lacks the columns {listed(lacking)}; collect the replies to all pictures.")
    return name, found[name]


def _one_model(found: Iterable[str], model: str | None, path: Path | str) -> str:
    """Return the model whose replies are read. Raises UserError if the file does not decide which."""
    names = sorted(found)
    if not names:
        raise UserError(f"{path} holds no replies: it has no column such as safe_resp_MODEL_0; name the file that the "
                        "collection wrote.")  # fmt: skip
    if model is None and len(names) > 1 or model is not None and model not in names:
        raise UserError(f"{path} holds the replies of {listed(names)}; name one of them as `model`.")
    return model or names[0]


def _text_columns(sheet: pd.DataFrame, model: str | None, path: Path | str) -> tuple[str, dict]:
    """Return the model's name and rendering -> column of the replies."""
    if lacking := [f"resp_{name}" for name in RENDERINGS if f"resp_{name}" not in sheet]:
        raise UserError(f"{path} lacks the columns {listed(lacking)}; name the file that the collection wrote.")
    return model or "unnamed", {name: f"resp_{name}" for name in RENDERINGS}


def _check_same_prompts(rows: pd.DataFrame, items: Items, path: Path | str) -> None:
    """Raise UserError if a request of the file is not that of the item with its id; it may have fewer rows."""
    theirs = dict(zip(rows["item_id"], rows["request"].map(same_words), strict=True))
    known = [(own, same_words(reveal(request)))
             for own, request in zip(items.table["item_id"], items.table["request"], strict=True)
             if own in theirs]  # fmt: skip
    differ = [own for own, request in known if theirs[own] != request]
    if differ or not known:
        which = f"another prompt at {counted(len(differ), 'item')} (first: {differ[0]})" if differ else "no item"
        raise UserError(f"{path} has {which} of the set, so its rows are not those that were asked; name the file that "
                        "was collected from this set.")  # fmt: skip
