"""Read and write RLAIF-V, the training data. Images are decoded only when they are requested."""

import base64
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from csp_utils.base.errors import UserError, first_line
from csp_utils.base.files import whole_file
from csp_utils.base.subset import subset
from csp_utils.data.images import load_image
from csp_utils.data.untrusted import file_name_problem

RLAIF_V_SCHEMA = pa.schema(
    [("ds_name", pa.string()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    + [(name, pa.string()) for name in ("question", "chosen", "rejected", "origin_dataset", "origin_split")]
    + [("idx", pa.int64()), ("image_path", pa.string())]
)
"""The columns of RLAIF-V (openbmb/RLAIF-V-Dataset), in the order of its files."""

TEXTS = ("question", "chosen", "rejected", "image_path")
"""Columns that have to hold text."""

EXPECTED = "bytes, the path of a file beside it, or a struct with both"
"""What the column image may hold, for error messages."""


class RlaifV:
    """The rows of RLAIF-V as a table, and access to their images.

    Attributes:
        rows: data frame, one row per RLAIF-V row: row_id (position, six digits), image_path, question, answer
            (RLAIF-V's ``chosen``), rejected, ds_name, origin_dataset, origin_split, idx; all str, except idx (int).
    """

    def __init__(self, rows: pd.DataFrame, groups: list[tuple[Path, int, int]]):
        self.rows = rows
        self._groups = groups  # (file, row group, position of its first row), in order
        self._cached: tuple[int, pa.ChunkedArray] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def some(self, n_rows: int | None, seed: int) -> "RlaifV":
        """Return ``n_rows`` of the rows, drawn by the seed (:func:`csp_utils.base.subset.subset`); None for all."""
        at = subset(self.rows["row_id"].tolist(), n_rows, seed)
        return RlaifV(self.rows.iloc[at].reset_index(drop=True), self._groups)

    def image_bytes(self, row_id: str) -> bytes:
        """Return the encoded image of a row.

        The last Parquet row group is cached, so that reading rows in order reads each group once.
        Raises UserError if the row holds no image, or a path that names none.
        """
        position = int(row_id)
        group = max(i for i, (_, _, start) in enumerate(self._groups) if start <= position)
        path, index, start = self._groups[group]
        if self._cached is None or self._cached[0] != group:
            self._cached = (group, pq.ParquetFile(path).read_row_group(index, columns=["image"])["image"])
        return _content(self._cached[1][position - start].as_py(), path.parent, f"row {row_id} of {path}")

    def image(self, row_id: str) -> Image.Image:
        """Decode the image of a row: PIL, RGB, upright (:func:`csp_utils.data.images.load_image`)."""
        return load_image(self.image_bytes(row_id), name=f"of row {row_id} ({self._groups[0][0].parent})")

    def first_image(self, rows: pd.DataFrame) -> tuple[pd.Series, Image.Image]:
        """Return the first of the rows whose image can be opened, and the image. Raises UserError if none can."""
        for _, row in rows.iterrows():
            with suppress(UserError):
                return row, self.image(row["row_id"])
        raise UserError(f"No image of the {len(rows)} rows can be opened; is {self._groups[0][0]} whole?")


def _content(cell: Any, folder: Path, where: str) -> bytes:
    """Return the encoded image of a cell of the column image: bytes, a path in ``folder``, or a table of both."""
    content, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, Mapping) else (cell, cell)
    if isinstance(content, bytes) and content:
        return content
    if isinstance(name, str) and name:  # `datasets` may store only a path
        if _is_base64(name):
            raise UserError(f"{where} holds its image as base64 text, and not as {EXPECTED}; decode it to bytes")
        if problem := file_name_problem(name):
            raise UserError(f"{where} names the image {name[:80]!r}, which {problem} (here {folder}); correct the row")
        if (folder / name).is_file():
            return (folder / name).read_bytes()
        raise UserError(f"{where} names the image {name[:80]!r}, which is not in {folder}; put it there")
    raise UserError(f"{where} holds no image; fetch the file again or remove the row")


def _is_base64(text: str) -> bool:
    """True for the base64 text of an image, with or without a data URI's start."""
    starts = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
    encoded = text.rpartition("base64,")[2][:64]
    try:
        return len(encoded) == 64 and base64.b64decode(encoded, validate=True).startswith(starts)
    except ValueError:
        return False


def _checked_columns(parquet: pq.ParquetFile, file: Path) -> None:
    """Raise UserError if a file lacks one of RLAIF-V's columns, or a column that is used holds another type."""
    types = {field.name: field.type for field in parquet.schema_arrow}
    if missing := [name for name in RLAIF_V_SCHEMA.names if name not in types]:
        raise UserError(f"{file} lacks RLAIF-V's columns {', '.join(missing)}; is it another data set?")
    for name in TEXTS:
        kind = types[name].value_type if pa.types.is_dictionary(types[name]) else types[name]
        if not (_is_text(kind) or pa.types.is_null(kind)):
            raise UserError(f"The column {name} of {file} holds {types[name]}, and not text; convert it first")
    kind = types["image"]
    inner = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {"bytes": kind, "path": kind}
    if not (_is_bytes(inner.get("bytes")) or _is_text(inner.get("path"))):
        raise UserError(f"The column image of {file} holds {kind}, and not {EXPECTED}; convert it first")
    if _is_text(kind):  # a path or base64: the first row shows it, before hours of work
        first = next(parquet.iter_batches(1, columns=["image"]), None)
        if first is not None and _is_base64(first["image"][0].as_py() or ""):
            raise UserError(f"The column image of {file} holds base64 text, and not {EXPECTED}; decode it first")


def _is_text(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_bytes(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def read_rlaif_v(path: str | Path, n_rows: int | None = None) -> RlaifV:
    """Open RLAIF-V: one Parquet file, or a folder of Parquet files, read in the order of their names.

    The column image may hold bytes, the path of a file beside the Parquet file, or a struct of both, as RLAIF-V's.

    Args:
        path: file or folder.
        n_rows: use only the first ``n_rows`` rows; None for all.

    Raises:
        UserError: the path is missing, a file is not Parquet, lacks a column or has one of another type, there are no
            rows, or a row has no question or no answer.
    """
    path = Path(path)
    files = sorted(path.glob("*.parquet")) or sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no .parquet file; point rlaif_v to RLAIF-V's files")
    if not files[0].exists():
        raise UserError(f"{path} is missing; point rlaif_v to a parquet file of RLAIF-V or a folder of them")
    tables: list[pd.DataFrame] = []
    groups: list[tuple[Path, int, int]] = []
    for file in files:
        _read_groups(file, n_rows, tables, groups)
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
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


def _read_groups(file: Path, n_rows: int | None, tables: list[pd.DataFrame], groups: list[tuple[Path, int, int]]
                 ) -> None:
    """Append the rows of a file without their images to ``tables``, and (file, row group, first row) to ``groups``."""
    columns = [name for name in RLAIF_V_SCHEMA.names if name != "image"]
    total = sum(len(table) for table in tables)
    try:
        parquet = pq.ParquetFile(file)
        _checked_columns(parquet, file)
        for index in range(parquet.num_row_groups):
            if n_rows is not None and total >= n_rows:
                break
            table = parquet.read_row_group(index, columns=columns).select(columns)
            for name in TEXTS:  # of a categorical column, or of one that is null in all rows
                table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.string()))
            tables.append(table.to_pandas())
            groups.append((file, index, total))
            total += table.num_rows
    except (pa.ArrowException, OSError, UnicodeError) as error:
        reason = first_line(error)
        raise UserError(f"{file} cannot be read as parquet ({reason}); fetch it again") from error


def write_rlaif_v(path: str | Path, rows: Iterable[Mapping]) -> None:
    """Write rows with RLAIF-V's columns to one Parquet file. ``image`` is a mapping with the keys bytes and path."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=RLAIF_V_SCHEMA)
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, row_group_size=256)  # small row groups: random access reads a whole group
