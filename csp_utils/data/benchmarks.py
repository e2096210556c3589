"""Read and write the benchmarks, POPE and AMBER, in the formats of their authors.

The tiny world is written in the same formats and read by the same functions. Both benchmarks give tables with the same
columns, one row per question:

============  ====  ==============================================================================
split         str   pope_random, pope_popular, pope_adversarial, amber_attribute, amber_relation
question_id   str   unique within its split (POPE numbers the questions of each split from 1)
image         str   file name in the folder ``images/`` beside the question files
question      str   a yes/no question
label         str   "yes" or "no"
kind          str   pope: existence; amber: state, number, action, relation
============  ====  ==============================================================================
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_json, write_jsonl

POPE_KINDS = ("random", "popular", "adversarial")
AMBER_KINDS = ("attribute", "relation")
SPLITS = (*(f"pope_{kind}" for kind in POPE_KINDS), *(f"amber_{kind}" for kind in AMBER_KINDS))
QUESTION_COLUMNS = ["split", "question_id", "image", "question", "label", "kind"]

# AMBER's type names (annotations.json). Relation questions have two: one if the truth is yes, the other if it is no.
AMBER_TYPES = {
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}

# ------------------------------------------------------------------------------------------------------------- POPE


def read_pope(folder: str | Path) -> pd.DataFrame:
    """Read POPE's three question files (``coco_pope_<kind>.json``, JSON lines) as one table.

    Raises:
        UserError: a file is missing, empty, or holds a line that is not a POPE question.
    """
    tables = []
    for kind in POPE_KINDS:
        path = Path(folder) / f"coco_pope_{kind}.json"
        rows = []
        # split("\n"), because splitlines() also splits at U+2028, which a question may contain
        for number, line in enumerate(_text(path, "pope").split("\n"), start=1):
            if not line.strip():
                continue
            where = f"line {number} of {path}"
            row = _json(line, where)
            identity, image, question = (_field(row, name, where) for name in ("question_id", "image", "text"))
            rows.append((f"pope_{kind}", str(identity), image, question, _label(row, "label", where), "existence"))
        tables.append(_table(rows, path))
    return pd.concat(tables, ignore_index=True)


def write_pope(folder: str | Path, questions: pd.DataFrame) -> None:
    """Write POPE's three question files.

    Args:
        questions: the table of :func:`read_pope`; question_id must be numeric.
    """
    for kind in POPE_KINDS:
        part = questions[questions["split"] == f"pope_{kind}"]
        rows = (
            {"question_id": int(q.question_id), "image": q.image, "text": q.question, "label": q.label}
            for q in part.itertuples()
        )
        write_jsonl(rows, Path(folder) / f"coco_pope_{kind}.json")


# ------------------------------------------------------------------------------------------------------------ AMBER


def read_amber(folder: str | Path) -> pd.DataFrame:
    """Read AMBER's attribute and relation questions as one table.

    The truth of question ``id`` is entry id - 1 of ``annotations.json``.

    Raises:
        UserError: a file is missing or empty, or a question has no annotation of its own type.
    """
    folder = Path(folder)
    truths = _json(_text(folder / "annotations.json", "amber"), str(folder / "annotations.json"))
    tables = []
    for kind in AMBER_KINDS:
        path = folder / f"query_discriminative-{kind}.json"
        rows = []
        for query in _json(_text(path, "amber"), str(path)):
            number = _field(query, "id", str(path))
            where = f"question {number} of {path}"
            truth = truths[number - 1] if 1 <= number <= len(truths) else {}
            if truth.get("id") != number or truth.get("type") not in AMBER_TYPES:
                raise UserError(f"{where} has no {kind} annotation at its place in annotations.json; fetch both again")
            image, question = (_field(query, name, where) for name in ("image", "query"))
            label = _label(truth, "truth", where)
            rows.append((f"amber_{kind}", str(number), image, question, label, AMBER_TYPES[truth["type"]]))
        tables.append(_table(rows, path))
    return pd.concat(tables, ignore_index=True)


def write_amber(folder: str | Path, questions: pd.DataFrame) -> None:
    """Write AMBER's two query files and its annotations.

    AMBER's first 1,004 annotations belong to its generative task. Ids that ``questions`` does not use get annotations
    of that type, so that the truth of question ``id`` stays at index id - 1.

    Args:
        questions: the table of :func:`read_amber`; question_id must be numeric.
    """
    numbers = [int(number) for number in questions["question_id"]]
    annotations = [
        {"id": i, "type": "generative", "truth": [], "hallu": []} for i in range(1, max(numbers, default=0) + 1)
    ]
    for number, q in zip(numbers, questions.itertuples(), strict=True):
        name = f"discriminative-attribute-{q.kind}"
        if q.kind == "relation":
            name = "discriminative-relation" if q.label == "yes" else "relation"
        annotations[number - 1] = {"id": number, "type": name, "truth": q.label}
    for kind in AMBER_KINDS:
        part = questions[questions["split"] == f"amber_{kind}"]
        queries = [{"id": int(q.question_id), "image": q.image, "query": q.question} for q in part.itertuples()]
        write_json(queries, Path(folder) / f"query_discriminative-{kind}.json")
    write_json(annotations, Path(folder) / "annotations.json")


# ----------------------------------------------------------------------------------------------------------- shared


def find_images(folder: str | Path, questions: pd.DataFrame) -> dict[str, Path]:
    """Find the images of all questions: file name -> path, in ``folder/images`` or, without that, in ``folder``.

    Raises:
        UserError: images are missing. The message has their number and the first names.
    """
    folder = Path(folder)
    names = questions["image"].unique()
    base = folder / "images" if (folder / "images").is_dir() else folder
    missing = [name for name in names if not (base / name).is_file()]
    if missing:
        first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"{len(missing)} of {len(names)} images are missing in {base} ({first}); put them there")
    return {name: base / name for name in names}


def _text(path: Path, parameter: str) -> str:
    """Read a benchmark's file; ``parameter`` is the one that names its folder, for the error message."""
    if not path.is_file():
        raise UserError(f"{path} is missing; point {parameter} to the folder of the benchmark's own files")
    return path.read_text(encoding="utf-8")


def _json(text: str, where: str):
    """Parse JSON; ``where`` names the place in error messages."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg}); fetch the file again") from error


def _field(row: Mapping, name: str, where: str):
    """Return a field. Raises UserError if it is missing or empty."""
    if not isinstance(row, Mapping) or row.get(name) in (None, ""):
        raise UserError(f"{where} lacks {name}; fetch the file again")
    return row[name]


def _label(row: Mapping, name: str, where: str) -> str:
    """Return a field that is "yes" or "no". Raises UserError if it is anything else."""
    value = _field(row, name, where)
    if value not in ("yes", "no"):
        raise UserError(f"{where} has the label {value!r}, which is neither yes nor no")
    return value


def _table(rows: list[tuple], path: Path) -> pd.DataFrame:
    """Build the table of one file. Raises UserError if it is empty or a question_id occurs twice."""
    if not rows:
        raise UserError(f"{path} holds no questions; fetch it again")
    table = pd.DataFrame(rows, columns=QUESTION_COLUMNS)
    for twice in table["question_id"][table["question_id"].duplicated()]:
        raise UserError(f"{path} uses question_id {twice} twice; fetch it again")
    return table
