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

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_json, write_jsonl
from csp_utils.data.untrusted import file_name_problem, parse_json, read_text

POPE_KINDS = ("random", "popular", "adversarial")
AMBER_KINDS = ("attribute", "relation")
SPLITS = (*(f"pope_{kind}" for kind in POPE_KINDS), *(f"amber_{kind}" for kind in AMBER_KINDS))
FETCH = "fetch the file again"
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
    """Read POPE's three question files (``coco_pope_<kind>.json``, JSON lines or one JSON array) as one table.

    Raises:
        UserError: a file is missing, empty, no Unicode text, or holds a line that is not a POPE question.
    """
    tables = []
    for kind in POPE_KINDS:
        path = Path(folder) / f"coco_pope_{kind}.json"
        rows = []
        for where, row in _records(path, "pope"):
            identity, image, question = (_identity(row, "question_id", where),
                                         *(_text(row, name, where) for name in ("image", "text")))  # fmt: skip
            rows.append((f"pope_{kind}", identity, image, question, _label(row, "label", where), "existence"))
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

    The truth of question ``id`` is entry id - 1 of ``annotations.json``, or its entry with the key ``id`` if the file
    is a table by id.

    Raises:
        UserError: a file is missing, empty or no Unicode text, or a question has no annotation of its own type.
    """
    folder = Path(folder)
    truths = _annotations(folder / "annotations.json")
    tables = []
    for kind in AMBER_KINDS:
        path = folder / f"query_discriminative-{kind}.json"
        rows = []
        for place, query in _records(path, "amber"):
            number = _identity(query, "id", place)
            where = f"question {number} of {path}"
            truth = truths.get(number, {})
            found = AMBER_TYPES.get(str(truth.get("type")))
            if found is None or (found == "relation") != (kind == "relation"):
                raise UserError(f"{where} has no {kind} annotation at its place in annotations.json; fetch both again")
            image, question = (_text(query, name, where) for name in ("image", "query"))
            rows.append((f"amber_{kind}", number, image, question, _label(truth, "truth", where), found))
        tables.append(_table(rows, path))
    return pd.concat(tables, ignore_index=True)


def _annotations(path: Path) -> dict[str, Mapping]:
    """Read AMBER's annotations as id -> annotation. Raises UserError if they are neither a list nor a table by id."""
    truths = parse_json(_content(path, "amber"), str(path), FETCH)
    if isinstance(truths, list):
        truths = {str(number): truth for number, truth in enumerate(truths, start=1)}
    if not isinstance(truths, Mapping):
        raise UserError(f"{path} is {_kind(truths)}, and not the list of AMBER's annotations; fetch it again")
    found = {}
    for number, truth in truths.items():
        if not isinstance(truth, Mapping):
            raise UserError(f"annotation {number} of {path} is {_kind(truth)}, and not an annotation; fetch it again")
        if _identity({"id": number} | dict(truth), "id", f"annotation {number} of {path}") == _number(number):
            found[_number(number)] = truth
    return found


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
        UserError: images are missing (the message has their number and the first names), or the name of one leads out
            of the folder.
    """
    folder = Path(folder)
    names = image_names(folder, questions)
    base = folder / "images" if (folder / "images").is_dir() else folder
    missing = [name for name in names if not (base / name).is_file()]
    if missing:
        first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"{len(missing)} of {len(names)} images are missing in {base} ({first}); put them there")
    return {name: base / name for name in names}


def image_names(folder: str | Path, questions: pd.DataFrame) -> list[str]:
    """Return the file names of the questions' images, each once; ``folder`` is named in the error message.

    Raises UserError for a name that leads out of the images folder or is no file name.
    """
    named = questions.drop_duplicates("image")
    for row in named.itertuples():
        if problem := file_name_problem(row.image):
            where = f"Question {row.question_id} of {row.split} in {folder}"
            raise UserError(f"{where} names the image {row.image!r}, which {problem}; correct the question file")
    return list(named["image"])


def _content(path: Path, parameter: str) -> str:
    """Read a benchmark's file; ``parameter`` is the one that names its folder, for the error message."""
    if not path.is_file():
        raise UserError(f"{path} is missing; point {parameter} to the folder of the benchmark's own files")
    return read_text(path)


def _records(path: Path, parameter: str) -> Iterator[tuple[str, Mapping]]:
    """Yield (place, record) of a file of JSON lines, or of one JSON array; ``place`` is for error messages."""
    text = _content(path, parameter)
    if text.lstrip().startswith("["):
        rows = parse_json(text, str(path), FETCH)
        found = ((f"entry {number} of {path}", row) for number, row in enumerate(rows, start=1))
    else:
        # not splitlines(), which also splits at U+2028 and other characters that a question may contain
        lines = enumerate(re.split(r"\r\n|\r|\n", text), start=1)
        named = ((f"line {number} of {path}", line) for number, line in lines if line.strip())
        found = ((where, parse_json(line, where, FETCH)) for where, line in named)
    for where, row in found:
        if not isinstance(row, Mapping):
            raise UserError(f"{where} is {_kind(row)}, and not a question; fetch the file again")
        yield where, row


def _kind(value: object) -> str:
    """Name what a JSON value is, for error messages."""
    names = {bool: "true or false", dict: "a table", list: "a list", str: "a text", type(None): "null"}
    return names.get(type(value), "a number")


def _field(row: Mapping, name: str, where: str):
    """Return a field. Raises UserError if it is missing or empty."""
    if row.get(name) in (None, ""):
        raise UserError(f"{where} lacks {name}; fetch the file again")
    return row[name]


def _text(row: Mapping, name: str, where: str) -> str:
    """Return a field that is a text. Raises UserError if it is anything else, or blank."""
    value = _field(row, name, where)
    if not isinstance(value, str):
        raise UserError(f"{where} has {_kind(value)} as {name}, and not a text; correct the file")
    if not value.strip():
        raise UserError(f"{where} lacks {name}; fetch the file again")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UserError(f"{where} has half a character (a lone surrogate) in {name}; correct the file")
    return value


def _number(value: object) -> str:
    """Return an id as text: 7, 7.0, "7" and "7.0" are the same id. Returns "" for what is no id."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return ""
    text = str(value).strip()
    return str(int(whole[1])) if (whole := re.fullmatch(r"([0-9]{1,18})(\.0*)?", text)) else text


def _identity(row: Mapping, name: str, where: str) -> str:
    """Return a field that is an id. Raises UserError if it is a list, a fraction or another thing."""
    value = _field(row, name, where)
    found = _number(value)
    if not found or isinstance(value, float) and not found.isdigit():
        raise UserError(f"{where} has {value!r} as {name}, which is no number or text; correct the file")
    return found


def _label(row: Mapping, name: str, where: str) -> str:
    """Return a field that is "yes" or "no" in any case. Raises UserError if it is anything else."""
    value = _field(row, name, where)
    label = value.strip().lower() if isinstance(value, str) else value
    if label not in ("yes", "no"):
        raise UserError(f"{where} has the label {value!r}, which is neither yes nor no")
    return label


def _table(rows: list[tuple], path: Path) -> pd.DataFrame:
    """Build the table of one file. Raises UserError if it is empty or a question_id occurs twice."""
    if not rows:
        raise UserError(f"{path} holds no questions; fetch it again")
    table = pd.DataFrame(rows, columns=QUESTION_COLUMNS)
    for twice in table["question_id"][table["question_id"].duplicated()]:
        raise UserError(f"{path} uses question_id {twice} twice; fetch it again")
    return table
