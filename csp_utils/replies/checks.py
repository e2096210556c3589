"""Check confidences, correctness and groups that a user brings, and bring them into one form.

Every error names the first row that is wrong. Rows are counted from 1, unless ``rows`` has other numbers for them, such
as the lines of a file.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from csp_utils.base.errors import UserError, nearest, short
from csp_utils.base.wording import counted

Scale = Literal["auto", "probability", "percent"]
SCALES: tuple[Scale, ...] = ("auto", "probability", "percent")
RIGHT_WORDS = {"true": 1.0, "right": 1.0, "correct": 1.0, "1": 1.0, "1.0": 1.0,
               "false": 0.0, "wrong": 0.0, "incorrect": 0.0, "0": 0.0, "0.0": 0.0}  # fmt: skip
"""Texts that say whether an answer was right. "yes" is none of them: it may be the answer itself."""
MISSING_WORDS = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>"})
"""Texts, in lower case, that stand for a missing value in a table of texts."""


class Percents(NamedTuple):
    """Confidences in percent."""

    values: np.ndarray
    """(n,) float, 0..100; NaN where there is none."""
    scale: str
    """What the given values were: "probability" or "percent"."""
    ones: int
    """How many are exactly 1 and were taken as 1 % because of others above 1; they could be meant as certainty."""

    @property
    def notes(self) -> list[str]:
        """A sentence about numbers that could be meant otherwise, if there are any."""
        many = f"{counted(self.ones, 'confidence')} of exactly 1 count as 1 %, because other numbers are above 1."
        return [many] if self.ones else []


def is_none(value: Any) -> bool:
    """Tell whether a value stands for nothing: None, NaN, NaT or pandas' NA. A text, a list or an array never does."""
    return value is None or value is pd.NA or (not hasattr(value, "__len__") and bool(value != value))


def as_list(values: Any, name: str) -> list[Any]:
    """Return a list, array or Series of one dimension as a list. Raises UserError for anything else."""
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        raise UserError(f"{name} is {short(values)}; give a list, an array or a Series with one value for each row.")
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) != 1:
        raise UserError(f"{name} has the shape {tuple(shape)}; give one dimension, with one value for each row.")
    return values.tolist() if hasattr(values, "tolist") else list(values)


def check_lengths(named: dict[str, Any]) -> None:
    """Check that all columns have the same number of rows, at least one, and that Series have the same index.

    Raises UserError otherwise. Series of different indexes belong to different rows, whatever their lengths are.
    """
    lengths = {name: len(values) for name, values in named.items()}
    first = next(iter(lengths))
    for name, length in lengths.items():
        if length != lengths[first]:
            raise UserError(f"{first} has {lengths[first]} rows and {name} has {length}; give one value for each row.")
    if not lengths[first]:
        raise UserError(f"{first} has no rows; there is nothing to measure.")
    series = {name: values for name, values in named.items() if isinstance(values, pd.Series)}
    for name, values in series.items():
        one = next(iter(series))
        if not values.index.equals(series[one].index):
            raise UserError(f"{one} and {name} are Series with different indexes, so their rows may not belong "
                            "together; align them, or give both as lists.")  # fmt: skip


def percents(confidence: Any, scale: Scale = "auto", rows: Sequence[int] | None = None) -> Percents:
    """Return confidences as percents.

    Args:
        confidence: numbers; None or NaN where there is none.
        scale: "probability" for 0..1, "percent" for 0..100; "auto" takes them as probabilities if none is above 1.

    Raises:
        UserError: a text, a truth value, a number outside the scale, or both scales at once.
    """
    if scale not in SCALES:
        raise UserError(f"There is no scale {scale!r}; {nearest(str(scale), SCALES)}")
    given = as_list(confidence, "confidence")
    rows = rows if rows is not None else range(1, len(given) + 1)
    values = np.array([_number(value, row) for row, value in zip(rows, given, strict=True)], float)
    for at in np.flatnonzero((values < 0) | (values > 100)):
        raise UserError(f"confidence is {values[at]:g} in row {rows[at]}; a confidence lies in 0..1, or in 0..100 %.")
    given_scale, scale = scale, _scale_of(values, rows) if scale == "auto" else scale
    if scale == "probability":
        for at in np.flatnonzero(values > 1):
            raise UserError(f"confidence is {values[at]:g} in row {rows[at]}, and the scale is probability (0..1); "
                            "correct the row, or set scale to percent.")  # fmt: skip
        values = 100 * values
    whole = np.round(values)  # 100 * 0.29 is 28.999999999999996
    values = np.where(np.abs(values - whole) < 1e-9, whole, values)
    return Percents(values, scale, int((values == 1).sum()) if given_scale == "auto" and scale == "percent" else 0)


def _number(value: Any, row: int) -> float:
    if isinstance(value, str | bytes):
        raise UserError(f"confidence is the text {short(value)} in row {row}; give numbers, or read the replies with "
                        "csp_utils.replies.read.read_replies.")  # fmt: skip
    if isinstance(value, bool | np.bool_):
        raise UserError(f"confidence is {value} in row {row}, which is no number; are confidence and correct swapped?")
    if is_none(value):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"confidence is {short(value)} in row {row}, which is no number; correct the row.") from error


def _scale_of(values: np.ndarray, rows: Sequence[int]) -> Scale:
    """Tell probabilities from percents. Raises UserError if the values are of both kinds."""
    large, fractions = np.flatnonzero(values > 1), np.flatnonzero((values > 0) & (values < 1))
    if not len(large):
        return "probability"
    if len(fractions):
        one, other = fractions[0], large[0]
        raise UserError(f"confidence is {values[one]:g} in row {rows[one]} and {values[other]:g} in row {rows[other]}, "
                        "so 0..1 and percent are mixed; bring them to one scale, or set scale to percent if numbers "
                        "below 1 are meant as less than 1 %.")  # fmt: skip
    return "percent"


def rights(correct: Any, rows: Sequence[int] | None = None) -> np.ndarray:
    """Return whether each answer was right: (n,) float, 1 or 0, NaN where that is not known.

    Args:
        correct: True/False, 1/0, or texts such as "true", "wrong", "incorrect"; None or NaN where it is not known.

    Raises:
        UserError: any other value. "yes" and "no" are refused, because they may be the answers themselves.
    """
    given = as_list(correct, "correct")
    rows = rows if rows is not None else range(1, len(given) + 1)
    return np.array([_right(value, row) for row, value in zip(rows, given, strict=True)], float)


def _right(value: Any, row: int) -> float:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in MISSING_WORDS:
            return math.nan
        if word in RIGHT_WORDS:
            return RIGHT_WORDS[word]
        raise UserError(f"correct is the text {short(value)} in row {row}, which does not say whether the answer was "
                        "right; write true or false, right or wrong, 1 or 0.")  # fmt: skip
    if is_none(value):
        return math.nan
    if not hasattr(value, "__len__") and value in (0, 1):  # also False, True and 1.0
        return float(value)
    raise UserError(f"correct is {short(value)} in row {row}; it has to be 1 (right) or 0 (wrong).")


def group_names(groups: Any) -> np.ndarray:
    """Return the group of each row as text, (n,). Raises UserError if a row has none."""
    values = as_list(groups, "groups")
    for row, value in enumerate(values, 1):
        if is_none(value) or isinstance(value, str) and not value.strip():
            raise UserError(f"groups holds nothing in row {row}; name the group of every row, or leave groups out.")
    return np.array([str(value) for value in values])


def repeated(values: Sequence[Any]) -> tuple[Any, int, int] | None:
    """Return the first value but None that stands twice, with its two positions (from 0); None if there is none."""
    seen: dict[Any, int] = {}
    for at, value in enumerate(values):
        if value is not None and seen.setdefault(value, at) != at:
            return value, seen[value], at
    return None
