"""Choose the rows of a training: which are held out, and which of the others train.

The choice is a function of the seed and the image's file name, never of the order of the rows. So notebooks 04 and 05,
whose rows show the same images, choose the same ones, and a larger ``n_rows`` contains the smaller. Images of one row
of RLAIF-V at several levels (``draws_per_row`` in notebook 03) are chosen together: a held-out image whose question and
object were trained at another level would not be held out.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from csp_utils.base.subset import place, subset

Row = Mapping[str, Any]
"""A training row in ms-swift's format, with one path in ``images``."""


class Chosen(NamedTuple):
    """The rows that train and those that are held out, each in the order of the file."""

    training: list[Row]
    held_out: list[Row]


def key(row: Row) -> str:
    """Return the name of a row for the choice: its image's, without folders and level."""
    return re.sub(r"_c\d{3}\.png$", ".png", PurePath(row["images"][0]).name)  # csp_utils.noise.rendered.image_name


def choose(rows: Sequence[Row], n_rows: int | None, eval_share: float, seed: int) -> Chosen:
    """Choose the rows of a training.

    Args:
        n_rows: how many of the rows that are not held out train, drawn by the seed; None for all.
        eval_share: a row whose :func:`csp_utils.base.subset.place` is below it is held out, in [0, 1), whatever the
            other rows are. The share of held-out rows is about this one.
    """
    held_out = [row for row in rows if place(seed, key(row), "held out") < eval_share]
    left = [row for row in rows if place(seed, key(row), "held out") >= eval_share]
    return Chosen([left[i] for i in subset([key(row) for row in left], n_rows, seed)], held_out)
