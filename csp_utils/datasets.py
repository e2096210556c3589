"""Readers and writers of the experiment's data: RLAIF-V (training), POPE and AMBER (evaluation).

The files are the data sets' own, as their authors publish them; the tiny world is written in the same formats and
comes in through the same readers.

Both benchmarks come out as one table, one row a question:

============  ====  ==============================================================================
split         str   pope_random, pope_popular, pope_adversarial, amber_attribute, amber_relation
question_id   str   unique within its split (POPE's numbers restart in every split)
image         str   file name in the folder ``images/`` beside the question files
question      str   a yes/no question
label         str   "yes" or "no"
kind          str   pope: existence; amber: state, number, action, relation
============  ====  ==============================================================================
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from csp_utils.artifacts import whole_file, write_json, write_jsonl
from csp_utils.errors import UserError, first_line
from csp_utils.images import load_image

POPE_KINDS = ("random", "popular", "adversarial")
AMBER_KINDS = ("attribute", "relation")
SPLITS = (*(f"pope_{kind}" for kind in POPE_KINDS), *(f"amber_{kind}" for kind in AMBER_KINDS))
QUESTION_COLUMNS = ["split", "question_id", "image", "question", "label", "kind"]

# AMBER's type names (annotations.json). Its relation questions carry one name if the truth is yes, another if it is no.
AMBER_TYPES = {
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}

RLAIF_V_SCHEMA = pa.schema(
    [("ds_name", pa.string()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    + [(name, pa.string()) for name in ("question", "chosen", "rejected", "origin_dataset", "origin_split")]
    + [("idx", pa.int64()), ("image_path", pa.string())]
)
"""The columns of RLAIF-V (openbmb/RLAIF-V-Dataset), in its order."""


# ---------------------------------------------------------------------------------------------------------- RLAIF-V


class RlaifV:
    """RLAIF-V rows with images that are decoded only when asked for.

    Attributes:
        rows: one row per RLAIF-V row: row_id (position, six digits), image_path, question, answer (RLAIF-V's
            ``chosen``), rejected, ds_name, origin_dataset, origin_split, idx; all str but idx (int).
    """

    def __init__(self, rows: pd.DataFrame, groups: list[tuple[Path, int, int]]):
        self.rows = rows
        self._groups = groups  # (file, row group, position of its first row), in order
        self._cached: tuple[int, pa.ChunkedArray] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def image_bytes(self, row_id: str) -> bytes:
        """The encoded image of a row. Rows in order cost one read per parquet row group, which is kept."""
        position = int(row_id)
        group = max(i for i, (_, _, start) in enumerate(self._groups) if start <= position)
        path, index, start = self._groups[group]
        if self._cached is None or self._cached[0] != group:
            self._cached = (group, pq.ParquetFile(path).read_row_group(index, columns=["image"])["image"])
        cell = self._cached[1][position - start].as_py() or {}
        if cell.get("bytes"):
            return cell["bytes"]
        beside = path.parent / cell["path"] if cell.get("path") else None  # datasets may keep the file outside
        if beside is not None and beside.is_file():
            return beside.read_bytes()
        raise UserError(f"row {row_id} of {path} holds no image; fetch the file again or remove the row")

    def image(self, row_id: str) -> Image.Image:
        """The image of a row: PIL, RGB, upright (:func:`csp_utils.images.load_image`)."""
        return load_image(self.image_bytes(row_id), name=f"of row {row_id} ({self._groups[0][0].parent})")


def read_rlaif_v(path: str | Path, n_rows: int | None = None) -> RlaifV:
    """Open RLAIF-V: a parquet file, or a folder of parquet files that are taken in the order of their names.

    Args:
        path: file or folder.
        n_rows: how many of the first rows to use; None for all.

    Raises:
        UserError: nothing there, not parquet, columns missing, no rows, or a row without a question or an answer.
    """
    path = Path(path)
    files = sorted(path.glob("*.parquet")) or sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no .parquet file; point rlaif_v to RLAIF-V's files")
    if not files[0].exists():
        raise UserError(f"{path} is missing; point rlaif_v to a parquet file of RLAIF-V or a folder of them")
    columns = [name for name in RLAIF_V_SCHEMA.names if name != "image"]
    tables, groups, total = [], [], 0
    for file in files:
        try:
            parquet = pq.ParquetFile(file)
            missing = [name for name in RLAIF_V_SCHEMA.names if name not in parquet.schema_arrow.names]
            if missing:
                raise UserError(f"{file} lacks RLAIF-V's columns {', '.join(missing)}; is it another data set?")
            for index in range(parquet.num_row_groups):
                if n_rows is not None and total >= n_rows:
                    break
                tables.append(parquet.read_row_group(index, columns=columns).select(columns))
                groups.append((file, index, total))
                total += tables[-1].num_rows
        except (pa.ArrowException, OSError) as error:
            reason = first_line(error)
            raise UserError(f"{file} cannot be read as parquet ({reason}); fetch it again") from error
    rows = pd.concat([table.to_pandas() for table in tables], ignore_index=True) if tables else pd.DataFrame()
    rows = rows[:n_rows]
    if rows.empty:
        raise UserError(f"{path} holds no rows; point rlaif_v to a data set that is not empty")
    rows.insert(0, "row_id", [f"{position:06d}" for position in range(len(rows))])
    for column, what in (("question", "no question"), ("chosen", "a question without an answer")):
        empty = rows[column].fillna("").str.strip() == ""
        if empty.any():
            row = rows[empty].iloc[0]
            raise UserError(f"row {row.row_id} of {path} has {what} (column {column}); remove it or fill it in")
    first = ["row_id", "image_path", "question", "answer", "rejected"]
    rows = rows.rename(columns={"chosen": "answer"})
    return RlaifV(rows[first + [name for name in rows if name not in first]], groups)


def write_rlaif_v(path: str | Path, rows: Iterable[Mapping]) -> None:
    """Write rows with RLAIF-V's columns to one parquet file (``image`` is a mapping of bytes and path)."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=RLAIF_V_SCHEMA)
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, row_group_size=256)  # small groups, so that one image costs little to reach


def rows_with_benchmark_images(rows: pd.DataFrame, questions: pd.DataFrame) -> pd.Series:
    """Which training rows show an image of the benchmark (RLAIF-V and POPE both draw on COCO).

    COCO images keep their 12-digit number under every name (COCO_val2014_000000310196.jpg, 000000310196.jpg).

    Returns:
        bool Series, index of `rows`: True where the row's image is also one of `questions`' images.
    """
    number = re.compile(r"(\d{12})(?=\.\w+$)")
    held_out = {match[0] for name in questions["image"].unique() if (match := number.search(name))}
    found = rows["image_path"].fillna("").map(lambda name: number.search(name))
    return found.map(lambda match: match is not None and match[0] in held_out).astype(bool)


# ------------------------------------------------------------------------------------------------------------- POPE


def read_pope(folder: str | Path) -> pd.DataFrame:
    """POPE's three question files (``coco_pope_<kind>.json``, JSON lines) as the table of this module.

    Raises:
        UserError: a file is missing, empty, or holds a line that is not a POPE question.
    """
    tables = []
    for kind in POPE_KINDS:
        path = Path(folder) / f"coco_pope_{kind}.json"
        rows = []
        # split, not splitlines: a question may hold U+2028
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
    """Write POPE's three files; `questions` as :func:`read_pope` gives them (numeric question_id)."""
    for kind in POPE_KINDS:
        part = questions[questions["split"] == f"pope_{kind}"]
        rows = (
            {"question_id": int(q.question_id), "image": q.image, "text": q.question, "label": q.label}
            for q in part.itertuples()
        )
        write_jsonl(rows, Path(folder) / f"coco_pope_{kind}.json")


# ------------------------------------------------------------------------------------------------------------ AMBER


def read_amber(folder: str | Path) -> pd.DataFrame:
    """AMBER's attribute and relation questions, with the truth from ``annotations.json`` (at index id-1).

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
    """Write AMBER's query files and annotations; `questions` as :func:`read_amber` gives them.

    The numbers may have gaps, as AMBER's do (its first 1,004 entries belong to the generative task); the entries of a
    gap are of that type, so that index id-1 stays right.
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
    """Path of every image of `questions`, in ``folder/images`` or, failing that, in `folder` itself.

    Raises:
        UserError: images are missing; says how many and names the first ones.
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
    if not path.is_file():
        raise UserError(f"{path} is missing; point {parameter} to the folder of the benchmark's own files")
    return path.read_text(encoding="utf-8")


def _json(text: str, where: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg}); fetch the file again") from error


def _field(row: Mapping, name: str, where: str):
    if not isinstance(row, Mapping) or row.get(name) in (None, ""):
        raise UserError(f"{where} lacks {name}; fetch the file again")
    return row[name]


def _label(row: Mapping, name: str, where: str) -> str:
    value = _field(row, name, where)
    if value not in ("yes", "no"):
        raise UserError(f"{where} has the label {value!r}, which is neither yes nor no")
    return value


def _table(rows: list[tuple], path: Path) -> pd.DataFrame:
    if not rows:
        raise UserError(f"{path} holds no questions; fetch it again")
    table = pd.DataFrame(rows, columns=QUESTION_COLUMNS)
    for twice in table["question_id"][table["question_id"].duplicated()]:
        raise UserError(f"{path} uses question_id {twice} twice; fetch it again")
    return table
