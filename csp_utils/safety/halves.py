"""Split a set into halves by group: what is fitted on one half is scored on the other, and the halves are swapped."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.measures.recalibration import image_halves
from csp_utils.safety.guard import reveal, same_words
from csp_utils.safety.sets.items import Items


def group_halves(items: Items, seed: int) -> pd.Series:
    """Assign every item to half 0 or 1; all items of a group are in the same half.

    The halves depend on the seed and on which groups there are, not on the order of the items. One half may have one
    group more.

    Returns:
        0 or 1, indexed by item_id.

    Raises:
        UserError: there is a single group, of which no half can be made.
    """
    groups = items.table.set_index("item_id")["group"]
    if groups.nunique() < 2:
        raise UserError("The set has a single group; fitting on one half and scoring on the other needs at least two.")
    return image_halves(groups, seed).rename("half")


def leaks(items: Items, half: pd.Series) -> pd.DataFrame:
    """Count what stands in both halves: groups (must be 0), pairs (must be 0), texts and pictures.

    A wording of the text side may stand in several groups, and so in both halves. It is counted, because a model that
    was shown an exemplar with it has seen a part of the test.

    Returns:
        what (groups, pairs, texts, pictures), n (different ones that stand in both), of (different ones).
    """
    table = items.table
    own = table["item_id"].map(half)
    values = {"groups": table["group"], "pairs": table["pair"], "texts": table["text"].map(reveal).map(same_words),
              "pictures": table["path"].map(reveal)}  # fmt: skip
    both = [(name, int((own.groupby(value).nunique() > 1).sum()), value.nunique()) for name, value in values.items()]
    return pd.DataFrame(both, columns=["what", "n", "of"])


def cross_fitted(rows: pd.DataFrame, half: pd.Series, fit: Callable[[pd.DataFrame], Any],
                 apply: Callable[[Any, pd.DataFrame], pd.Series]) -> pd.Series:  # fmt: skip
    """Apply to the rows of each half what was fitted on the rows of the other half.

    Args:
        rows: with the column item_id.
        half: of :func:`group_halves`.
        fit: rows -> whatever was fitted.
        apply: (what was fitted, rows) -> a value for each row, with the rows' index.

    Raises:
        UserError: a row's item has no half, or one half has no rows.
    """
    own = rows["item_id"].map(half)
    for name in rows.loc[own.isna(), "item_id"]:
        raise UserError(f"{name} is in neither half; split the set that the rows are about.")
    parts = []
    for number in (0, 1):
        here, other = rows[own == number], rows[own != number]
        if here.empty or other.empty:
            raise UserError("One half of the set has no rows; fitting and scoring need both.")
        parts.append(apply(fit(other), here))
    return pd.concat(parts).reindex(rows.index)
