"""Rows of a training by GRPO, in ms-swift's format, and what an update takes of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from csp_utils.base.errors import UserError, nearest
from csp_utils.noise.rendered import is_rendered
from csp_utils.training.grpo.parameters import Grpo
from csp_utils.vlcal.items.answers import AnswerKind
from csp_utils.vlcal.items.forms import IMAGE
from csp_utils.vlcal.prompts import fill

NEEDED = ("messages", "images", "row_id", "solution", "kind", "options")
"""Columns that each row must have. Others reach ms-swift as they are."""

TAKEN = ("teacher_prompt", "teacher_images")
"""Columns by which ms-swift would change the pass with perturbed images."""


def grpo_row(item: Mapping[str, Any], images: Sequence[str], template: str, **more: Any) -> dict[str, Any]:
    """Make one training row.

    Args:
        item: item_id, problem, answer, kind and options, as in :mod:`csp_utils.vlcal.items.table`.
        images: paths of the item's images, in the order of their marks.
        template: the prompt (:func:`csp_utils.vlcal.prompts.read_template`).
        more: further columns.
    """
    messages = [{"role": "user", "content": fill(template, item["problem"])}]
    return {"messages": messages, "images": list(images), "row_id": item["item_id"], "solution": item["answer"],
            "kind": item["kind"], "options": list(item["options"]), **more}  # fmt: skip


def check_rows(rows: Sequence[Mapping[str, Any]], where: str) -> None:
    """Check what a training needs of its rows; ``where`` names their file.

    Raises UserError if there is no row, and for the first row that lacks a column, has one of :data:`TAKEN`, a kind of
    answer that does not exist, no image, another number of images than marks, an image that is missing, no solution, or
    the id of an earlier row.
    """
    if not rows:
        raise UserError(f"{where} holds no rows, so there is nothing to train on; make its rows first.")
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        place = f"Line {number} of {where}"
        if lacking := [name for name in NEEDED if name not in row]:
            raise UserError(f"{place} has no {lacking[0]}; a row needs {', '.join(NEEDED)}.")
        if taken := [name for name in TAKEN if name in row]:
            raise UserError(f"{place} has the column {taken[0]}, by which ms-swift would change the pass with "
                            "perturbed images; rename it.")  # fmt: skip
        if row["kind"] not in get_args(AnswerKind):
            raise UserError(f"{place} has the kind {row['kind']!r}; {nearest(str(row['kind']), get_args(AnswerKind))}")
        marks = sum(str(message["content"]).count(IMAGE) for message in row["messages"])
        if not row["images"] or marks != len(row["images"]):
            raise UserError(f"{place} has {len(row['images'])} images and {marks} marks {IMAGE}; give each image its "
                            "mark, and each row at least one.")  # fmt: skip
        for image in row["images"]:
            if not Path(image).is_file() and not is_rendered(image):
                raise UserError(f"{place} shows {image}, which is missing; make the rows again.")
        if not str(row["solution"]).strip():
            raise UserError(f"{place} has an empty solution, so no answer could be right; leave the row out.")
        if row["row_id"] in seen:
            raise UserError(f"{place} has the row_id {row['row_id']!r} of an earlier line; give each row its own.")
        seen.add(row["row_id"])


class Schedule(NamedTuple):
    """How the rows are spread over the updates."""

    prompts: int
    """Prompts an update."""
    updates: int
    """Updates in all."""
    left_out: int
    """Rows that one pass over the rows leaves out, because they do not fill an update; others in each pass."""

    def __str__(self) -> str:
        left = f"; each pass leaves {self.left_out:,} rows out, which do not fill an update" if self.left_out else ""
        return f"{self.updates:,} updates of {self.prompts:,} prompts{left}"


def schedule(p: Grpo, rows: int) -> Schedule:
    """Return the schedule of a training on ``rows`` rows. Raises UserError if they do not fill one update."""
    prompts = p.replies // p.generations
    if rows < prompts:
        raise UserError(f"An update takes {prompts} prompts, and there are {rows} rows; use more rows, or lower "
                        "batch_size, gradient_accumulation_steps or processes.")  # fmt: skip
    return Schedule(prompts, p.updates or p.epochs * (rows // prompts), rows % prompts)
