"""Recognise the form of a file of replies, and which of its columns plays which role.

Forms are those of lmms-eval (``*_samples_*.jsonl``, written by ``--log_samples``), of VLMEvalKit (its predictions, and
the judged files that it makes of them), and any other table.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from csp_utils.base.errors import UserError, nearest

Form = Literal["auto", "table", "lmms-eval", "vlmevalkit"]


class Known(NamedTuple):
    """What is known about a form."""

    name: str
    roles: Mapping[str, tuple[str, ...]]
    """Role -> names of the column that plays it, the best first. Case, spaces and hyphens do not matter."""


ROLES = {
    "confidence": "a number, or the text in which a model states its confidence",
    "correct": "whether the answer was right",
    "group": "what rows share, such as their image",
    "id": "names the row; no two rows have the same",
    "question": "text that was asked",
    "answer": "the model's answer, where it is a column of its own",
    "truth": "the right answer",
    "reply": "the model's whole text, from which confidence and answer are read",
    "ended": "whether the model ended the reply itself, or a finish reason; a cut reply is read with care",
}
"""Role -> what such a column holds."""
_TABLE = {
    "confidence": ("confidence", "conf", "verbalized", "verbalized_confidence", "stated_confidence", "certainty",
                   "probability", "prob"),
    "correct": ("correct", "is_correct", "right", "is_right", "hit", "label"),
    "group": ("group", "group_id", "image", "image_id", "image_path"),
    "id": ("id", "question_id", "index", "doc_id", "item_id"),
    "question": ("question", "query", "prompt"),
    "answer": ("answer", "model_answer"),
    "truth": ("truth", "target", "ground_truth", "gt", "gold"),
    "reply": ("reply", "raw", "response", "prediction", "output"),
    "ended": ("ended", "finish_reason"),
}  # fmt: skip
FORMS = {
    "table": Known("a table of its own", _TABLE),
    "lmms-eval": Known("lmms-eval's samples", {
        "id": ("doc_id",), "truth": ("target",), "reply": ("resps", "filtered_resps"), "question": ("input",),
        "group": ("doc.image_id", "doc.image_path", "doc.image_source"), "ended": ("finish_reason",)}),
    "vlmevalkit": Known("VLMEvalKit's predictions", {
        "id": ("index",), "truth": ("answer",), "reply": ("prediction",), "question": ("question",),
        "group": ("image_path", "image_id"), "correct": ("hit", "score")}),
}  # fmt: skip
"""Form -> the roles of its columns. Fields of lmms-eval: lmms_eval/evaluator.py and loggers/evaluation_tracker.py (the
field resps is left out where it equals filtered_resps; the data set's own fields are in doc, in some versions). Fields
of VLMEvalKit: vlmeval/inference.py, and vlmeval/dataset/image_yorn.py and image_mcq.py for score and hit."""


def form_of(table: pd.DataFrame) -> str:
    """Tell the form of a table by its columns."""
    if "doc_id" in table and {"resps", "filtered_resps"} & set(table.columns):
        return "lmms-eval"
    return "vlmevalkit" if {"index", "prediction"} <= set(table.columns) else "table"


def roles_of(table: pd.DataFrame, form: str, given: Mapping[str, str | None], path: Path | str) -> dict[str, str]:
    """Return role -> column, for every role that a column plays.

    Args:
        given: role -> column, where the file's own names are not recognised, or None if no column plays it.

    Raises:
        UserError: an unknown role, or a column that the file does not have.
    """
    for role, column in given.items():
        if role not in ROLES:
            raise UserError(f"columns names the role {role!r}, which there is not; {nearest(role, ROLES)}")
        if column is not None and column not in table:
            raise UserError(f"{path} has no column {column!r}, which columns names as {role}; "
                            f"{nearest(column, map(str, table.columns))}")  # fmt: skip
    plain = {_plain(name): name for name in reversed(list(table.columns))}
    found = {role: next((plain[name] for name in names if name in plain), None)
             for role, names in FORMS[form].roles.items()}  # fmt: skip
    if form == "lmms-eval" and "correct" not in given and len(scores := score_columns(table)) == 1:
        found["correct"] = scores[0]
    return {role: column for role, column in (found | dict(given)).items() if column is not None}


def _plain(name: Any) -> str:
    return str(name).strip().lower().replace(" ", "_").replace("-", "_")


def score_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of lmms-eval's samples that hold a score of 0 or 1 for each reply.

    A task writes either the score itself under its metric's name, or an object with the field ``score``. Of several
    metrics with the same scores, such as POPE's accuracy and its F1, the first stands for all.
    """
    found: dict[tuple, str] = {}
    for name in table:
        last = str(name).rpartition(".")[2]
        if str(name).startswith("doc.") or name in ("doc_id", "success") or ("." in str(name) and last != "score"):
            continue
        values = table[name].tolist()
        if all(isinstance(value, int | float) and value in (0, 1) for value in values):
            found.setdefault(tuple(map(float, values)), str(name))
    return list(found.values())
