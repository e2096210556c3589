"""Read a file of replies into one table of confidences and correctness; count what was not read, by reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from csp_utils.base.errors import UserError, nearest
from csp_utils.base.wording import counted, listed
from csp_utils.replies import cells
from csp_utils.replies.checks import Scale, percents, repeated, rights
from csp_utils.replies.files import read_rows
from csp_utils.replies.forms import FORMS, Form, form_of, roles_of, score_columns
from csp_utils.words.confidence import REFUSALS

COLUMNS = ["row", "id", "group", "question", "reply", "answer", "truth", "confidence", "correct", "reason"]
REASONS = REFUSALS | {
    "no answer": "states neither Yes nor No, or both, so that its confidence is about nothing; it counts as wrong",
    "failed": "is the message of a request that failed; whether the model knew the answer is not known",
    "empty": "is empty",
}
"""Reason for which no confidence was read -> what such a reply does, or is."""
ASIDE = ("model", "variant", "split", "category", "dataset", "prompt_name")
"""Columns whose values a reader may not want to measure together."""


@dataclass(frozen=True)
class Replies:
    """What :func:`read_replies` returns.

    Attributes:
        table: one row a reply: row (its number in the file), id, group, question, reply, answer, truth (texts, null
            where the file has none), confidence (percent, 0..100, or null), correct (1.0, 0.0 or null), reason (why no
            confidence was read; null if one was).
        form: key of :data:`csp_utils.replies.forms.FORMS`.
        roles: role -> the file's column that plays it.
        notes: sentences about how the file was read.
    """

    table: pd.DataFrame
    form: str
    roles: dict[str, str]
    notes: tuple[str, ...]

    @property
    def groups(self) -> pd.Series | None:
        """The group of each row; None if the file has none."""
        return self.table["group"] if "group" in self.roles else None

    @property
    def unread(self) -> pd.DataFrame:
        """One row for each reason: reason, n, right (how many of these answers are right), meaning, example."""
        rows = [(reason, len(own), int((own["correct"] == 1).sum()), REASONS.get(reason, ""),
                 next((text for text in own["reply"] if isinstance(text, str)), None))
                for reason, own in self.table.dropna(subset="reason").groupby("reason")]  # fmt: skip
        table = pd.DataFrame(rows, columns=["reason", "n", "right", "meaning", "example"])
        return table.sort_values(["n", "reason"], ascending=[False, True], ignore_index=True)


def read_replies(path: Path | str, columns: Mapping[str, str | None] | None = None, form: Form = "auto",
                 scale: Scale = "auto") -> Replies:  # fmt: skip
    """Read replies from a table (CSV, TSV, JSON, JSON lines, Parquet, Excel) or lmms-eval's or VLMEvalKit's output.

    A confidence is a number, or is read from the model's text (:mod:`csp_utils.words`). Whether an answer was right is
    a column, or follows from a yes/no answer in the text and the truth beside it. Nothing is dropped: a row without a
    confidence has its reason.

    Args:
        columns: role -> the file's column (:data:`csp_utils.replies.forms.ROLES`), where its name is not recognised;
            None where no column plays it.
        form: the file's form; "auto" tells it by the columns.
        scale: of confidences that are numbers without a % sign; see :func:`csp_utils.replies.checks.percents`.

    Raises:
        UserError: the file or a column cannot be read, two rows have the same id, or there is no column of confidences
            or of correctness.
    """
    columns = columns or {}
    raw = read_rows(path)
    if form != "auto" and form not in FORMS:
        raise UserError(f"There is no form {form!r} of replies; {nearest(form, ['auto', *FORMS])}")
    form = form_of(raw) if form == "auto" else form
    roles = roles_of(raw, form, columns, path)
    if "correct" not in columns and _is_truth(raw, roles):
        roles["truth"] = roles.pop("correct")
    texts = _texts(raw, roles, path)
    judged = _judges_by_answer(form, roles, texts["truth"], columns)
    if not {"confidence", "reply"} & set(roles) or not (judged or "correct" in roles):
        raise _lacking(raw, form, roles, path)
    found = _read_all(raw, roles, texts, judged)
    try:
        bare = percents([one.number for one in found], scale, list(raw.index))
        correct = _correct(found, texts["truth"]) if judged else rights(raw[roles["correct"]], list(raw.index))
    except UserError as error:
        raise UserError(f"In {path}, {error}") from error
    confidence = np.where(np.isnan(bare.values), [one.percent for one in found], bare.values)
    failed = np.array([one.reason == "failed" for one in found])
    texts["answer"] = [one.answer for one in found] if judged else texts["answer"]
    table = pd.DataFrame({
        "row": raw.index, **texts, "confidence": confidence, "correct": np.where(failed, np.nan, correct),
        "reason": pd.Series([one.reason for one in found], index=raw.index, dtype=object),
    }, columns=COLUMNS).reset_index(drop=True)  # fmt: skip
    return Replies(table, form, roles, (*_notes(raw, form, roles, table, judged), *bare.notes))


def _is_truth(raw: pd.DataFrame, roles: Mapping[str, str]) -> bool:
    """Tell whether the column that may say what was right holds right answers instead: yes or no, as in "label"."""
    values = [cells.text_of(value) for value in raw[roles["correct"]]] if "correct" in roles else []
    return "truth" not in roles and _yes_or_no(values)


def _yes_or_no(values: Sequence[str | None]) -> bool:
    known = {value.lower() for value in values if value is not None}
    return bool(known) and known <= {"yes", "no"}


def _texts(raw: pd.DataFrame, roles: Mapping[str, str], path: Path | str) -> dict[str, list[str | None]]:
    """Return role -> texts of the rows. Raises UserError if two rows have the same id, or a reply is no text."""
    found = {role: [cells.text_of(value) for value in raw[roles[role]]] if role in roles else [None] * len(raw)
             for role in ("id", "group", "question", "answer", "truth")}  # fmt: skip
    if "reply" in roles:
        found["reply"] = [cells.reply_of(value, f"Row {row} of {path}") for row, value in raw[roles["reply"]].items()]
    else:  # what a model said about its confidence is shown beside what was read from it
        said = raw[roles["confidence"]] if "confidence" in roles else [None] * len(raw)
        found["reply"] = [cells.words_of(value) for value in said]
    if twice := repeated(found["id"]):
        one, other = raw.index[twice[1]], raw.index[twice[2]]
        raise UserError(f"{path} has the {roles['id']} {twice[0]!r} in rows {one} and {other}; keep one of them, or "
                        "write columns: {id: null} if rows may share it.")  # fmt: skip
    return found


def _judges_by_answer(form: str, roles: Mapping[str, str], truths: Sequence[str | None],
                      columns: Mapping[str, str | None]) -> bool:  # fmt: skip
    """Decide whether a yes/no answer is read and compared with the truth, or the file's own correctness is taken.

    A table's own column counts. The score of an evaluation suite does not, because it compares the whole reply, with
    its confidence, with the truth.
    """
    own = "correct" in roles and (form == "table" or columns.get("correct") is not None)
    return not own and bool({"reply", "answer"} & set(roles)) and _yes_or_no(truths)


def _read_all(raw: pd.DataFrame, roles: Mapping[str, str], texts: Mapping[str, Sequence[str | None]], judged: bool
              ) -> list[cells.Found]:  # fmt: skip
    """Read the confidence of each row and, if answers are judged, its answer."""
    ended = [cells.ended(value) for value in raw[roles["ended"]]] if "ended" in roles else [True] * len(raw)
    if "confidence" not in roles:
        return [cells.confidence_in(reply, judged, end) for reply, end in zip(texts["reply"], ended, strict=True)]
    found = []
    for value, own, reply, end in zip(raw[roles["confidence"]], texts["answer"], texts["reply"], ended, strict=True):
        answer = cells.answer_in(own if "answer" in roles else reply) if judged else own
        one = cells.confidence_of(value, answer, end)
        if "reply" in roles and cells.problem_of(reply) == "failed":
            one = cells.Found(reason="failed")
        elif judged and answer is None:
            one = cells.Found(reason="no answer")
        found.append(one._replace(answer=answer))
    return found


def _correct(found: Sequence[cells.Found], truths: Sequence[str | None]) -> np.ndarray:
    """Compare answers with truths: 1, 0, or NaN without a truth. A reply that states no answer is wrong."""
    return np.array([np.nan if truth is None else float((one.answer or "").lower() == truth.lower())
                     for one, truth in zip(found, truths, strict=True)])  # fmt: skip


def _lacking(raw: pd.DataFrame, form: str, roles: Mapping[str, str], path: Path | str) -> UserError:
    """Return the sentence about a file without a confidence, or without correctness."""
    what = "whether each answer was right (nor a yes/no truth beside each reply)"
    names = list(map(str, raw.columns))
    if not {"confidence", "reply"} & set(roles):
        what = "a confidence, nor for replies to read it from"
    elif form == "lmms-eval" and (scores := score_columns(raw)):
        names = scores
    return UserError(f"No column of {path} is known to hold {what}; name it in columns, such as correct: NAME. It has "
                     f"{listed(map(repr, names[:20]))}.")  # fmt: skip


def _notes(raw: pd.DataFrame, form: str, roles: Mapping[str, str], table: pd.DataFrame, judged: bool) -> list[str]:
    """Say how the file was read, and what a reader may want to treat otherwise."""
    taken = listed(f"{role} from {column}" for role, column in roles.items())
    found = [f"The file was read as {FORMS[form].name}: {taken}."]
    if "confidence" not in roles:
        how = "their yes/no answer and their confidence" if judged else "their confidence"
        found.append(f"From the replies {how} were read." if judged else f"From the replies {how} was read.")
    for name in ASIDE:
        if name in raw and (n := len(set(map(str, raw[name])))) > 1:
            found.append(f"The column {name} has {n} different values; all rows are measured together.")
    if "id" not in roles and {"question", "reply"} & set(roles) and (n := int(raw.astype(str).duplicated().sum())):
        found.append(f"{counted(n, 'row')} equal{'s' * (n == 1)} an earlier row in every column; each counts.")
    own = next((column for column in (roles.get("correct"), *score_columns(raw)) if column), None)
    if judged and form != "table" and own is not None:
        found.append(_compared(own, raw[own].tolist(), table["correct"]))
    return found


def _compared(name: str, scores: list, correct: pd.Series) -> str:
    """Say in how many rows the file's own score is another than the one that was read."""
    try:
        differ = int((rights(scores) != correct.to_numpy(float)).sum())
    except UserError:
        return f"The file's own score {name} is not 0 or 1 in every row, and is not compared with the answers read."
    return f"The file's own score {name} differs from the answer that was read in {differ} of {len(correct)} rows."
