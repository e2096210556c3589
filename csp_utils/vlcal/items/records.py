"""Read the rows of a data set from Parquet or JSON files, and the images that their cells hold or name."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from csp_utils.base.errors import UserError, first_line
from csp_utils.data.untrusted import file_name_problem, parse_json, read_text

SUFFIXES = (".parquet", ".jsonl", ".json")


class Place(NamedTuple):
    """Where a row lies: its file, its Parquet row group (0 in JSON), and its position in that."""

    file: Path
    group: int
    row: int


class ImageCell(NamedTuple):
    """Which cell of a row holds an image: the column, and the position in its list; None for a single image."""

    column: str
    position: int | None = None


class Records:
    """The rows of the files of a data set, in the order of the files' names. One row group is in memory at a time."""

    def __init__(self, path: str | Path, split: str | None = None) -> None:
        """Find the files.

        Args:
            path: a file, or a folder that is searched with its subfolders; its Parquet files or, without any, its JSON
                lines or JSON files are read.
            split: read only files of a folder whose name is this, or begins with this and one of ``-._``.

        Raises:
            UserError: there is no such file.
        """
        self.path = Path(path)
        self.files = self._find(split)
        self._cached: tuple[tuple[Path, int], list[dict[str, Any]]] | None = None

    def _find(self, split: str | None) -> list[Path]:
        if self.path.is_file():
            if self.path.suffix not in SUFFIXES:
                raise UserError(f"{self.path} ends in none of {', '.join(SUFFIXES)}; convert it to one of these.")
            return [self.path]
        begins = re.compile(rf"{re.escape(split)}[-._]" if split else "")
        for suffix in SUFFIXES:
            if found := [one for one in sorted(self.path.rglob(f"*{suffix}")) if begins.match(one.name)]:
                return found
        which = f" of the split {split!r}" if split else ""
        raise UserError(f"{self.path} holds no file{which} that ends in {', '.join(SUFFIXES)}; fetch the data set, or "
                        "correct the path.")  # fmt: skip

    def __iter__(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Yield (place, row). Raises UserError if a file cannot be read, or is no table."""
        for file in self.files:
            for group in range(self._groups(file)):
                for row, cells in enumerate(self._rows(file, group)):
                    yield Place(file, group, row), cells

    def columns(self, file: Path) -> set[str]:
        """Return the names of the columns of a file; of a JSON file, those of its first row."""
        if file.suffix == ".parquet":
            return set(_parquet(file).schema_arrow.names)
        return set(next(iter(self._rows(file, 0)), {}))

    def image(self, place: Place, cell: ImageCell) -> bytes:
        """Return the encoded image of a cell. Raises UserError if the cell holds none."""
        return image_of(self._rows(place.file, place.group)[place.row], cell, place)

    def _groups(self, file: Path) -> int:
        return _parquet(file).num_row_groups if file.suffix == ".parquet" else 1

    def _rows(self, file: Path, group: int) -> list[dict[str, Any]]:
        """Return the rows of a row group; those that were read last are cached."""
        if self._cached is None or self._cached[0] != (file, group):
            self._cached = (file, group), _read_json(file) if file.suffix != ".parquet" else _read_group(file, group)
        return self._cached[1]


def _parquet(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} cannot be read as parquet ({first_line(error)}); fetch it again.") from error


def _read_group(file: Path, group: int) -> list[dict[str, Any]]:
    try:
        return _parquet(file).read_row_group(group).to_pylist()
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise UserError(f"{file} cannot be read as parquet ({first_line(error)}); fetch it again.") from error


def _read_json(file: Path) -> list[dict[str, Any]]:
    """Read JSON lines, or one JSON list."""
    text = read_text(file)
    # not splitlines(), which also splits at U+2028 and other characters that a problem may contain
    is_list = text.lstrip().startswith("[")
    parts = [text] if is_list else [line for line in text.split("\n") if line.strip()]
    found = [parse_json(part, str(file), "fetch it again.") for part in parts]
    rows = found[0] if is_list else found
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise UserError(f"Row {number} of {file} is no table of columns and values; fetch the file again.")
    return rows


def image_of(row: Mapping[str, Any], cell: ImageCell, place: Place) -> bytes:
    """Return the encoded image that a cell holds as bytes, as a path beside the file, or as a struct of both.

    Raises UserError if it holds no image, or a path that leads out of the folder or to no file.
    """
    value = row.get(cell.column)
    value = value if cell.position is None or value is None else value[cell.position]
    content, name = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, value)
    where = f"row {place.row + 1} of {place.file}" + (f" (row group {place.group + 1})" if place.group else "")
    if isinstance(content, bytes) and content:
        return content
    if not isinstance(name, str) or not name:
        raise UserError(f"{where} holds no image in {cell.column}; fetch the file again.")
    if problem := file_name_problem(name):
        raise UserError(f"{where} names the image {name[:80]!r}, which {problem}; correct the row.")
    if not (place.file.parent / name).is_file():
        raise UserError(f"{where} names the image {name[:80]!r}, which is not in {place.file.parent}; put it there.")
    return (place.file.parent / name).read_bytes()
