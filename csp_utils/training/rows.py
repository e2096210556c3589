"""Choose the rows of a training: which are held out, and which of the others train.

The choice is a function of the seed and the image's file name, never of the order of the rows. So notebooks 04 and 05,
whose rows show the same images, choose the same ones, and a larger ``n_rows`` contains the smaller. Images of one row
of RLAIF-V at several levels (``draws_per_row`` in notebook 03) are chosen together: a held-out image whose question and
object were trained at another level would not be held out.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

Row = Mapping[str, Any]
"""A training row in ms-swift's format, with one path in ``images``."""


class Chosen(NamedTuple):
    """The rows that train and those that are held out, each in the order of the file."""

    training: list[Row]
    held_out: list[Row]


def place(seed: int, image: str, purpose: str) -> float:
    """Return a number in [0, 1) for an image: SHA-256 of seed, file name (without folders and level) and purpose."""
    name = re.sub(r"_c\d{3}\.png$", ".png", PurePath(image).name)  # as csp_utils/noise/rendered.py names an image
    text = f"{seed}\n{name}\n{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48  # exact in float64


def choose(rows: Sequence[Row], n_rows: int | None, eval_share: float, seed: int) -> Chosen:
    """Choose the rows of a training.

    Args:
        n_rows: how many of the rows that are not held out train: those with the least :func:`place`; None for all.
        eval_share: an image with a :func:`place` below it is held out, in [0, 1). So a row is held out whatever the
            other rows are, and the number of held-out rows is about this share.
    """
    held_out = [row for row in rows if place(seed, row["images"][0], "held out") < eval_share]
    left = [row for row in rows if place(seed, row["images"][0], "held out") >= eval_share]
    if n_rows is None or n_rows >= len(left):
        return Chosen(left, held_out)
    order = sorted(range(len(left)), key=lambda i: (place(seed, left[i]["images"][0], "subset"), i))
    return Chosen([left[i] for i in sorted(order[:n_rows])], held_out)
