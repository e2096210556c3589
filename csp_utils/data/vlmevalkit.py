"""Convert POPE or AMBER from VLMEvalKit's format, one TSV file with the images in it, to the benchmark's own files.

    python -m csp_utils.data.vlmevalkit POPE.tsv data/pope       write coco_pope_*.json and images/
    python -m csp_utils.data.vlmevalkit AMBER.tsv data/amber     write query_*.json, annotations.json and images/

The columns are index, image (base64, or the index of a row that contains the image), question, answer (Yes or No),
category and, in most files, image_path (the image's file name). POPE's category lists the question's splits, separated
by commas. AMBER's category is the type in annotations.json.
"""

import base64
import binascii
import csv
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.files import whole_folder
from csp_utils.data.benchmarks import AMBER_TYPES, POPE_KINDS, QUESTION_COLUMNS, write_amber, write_pope
from csp_utils.data.images import load_image
from csp_utils.data.untrusted import encoding_of, file_name_problem, not_text

LONGEST_INDEX = 64
"""A text of at most this length in the column image is the index of another row, as in VLMEvalKit."""


NEEDED = frozenset({"index", "image", "question", "answer", "category"})
"""Columns of POPE's and AMBER's files of which every row has a cell."""


def rows_of(path: Path, needed: frozenset[str] = NEEDED) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a TSV file one at a time, because AMBER's has several GB.

    Args:
        needed: columns that the file must have, and of which no row may lack a cell.

    Raises UserError if the file is missing, compressed or no Unicode text, lacks a column, or a row lacks a cell.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; download VLMEvalKit's TSV file of the benchmark.")
    csv.field_size_limit(2**31 - 1)  # an image is one field
    encoding = encoding_of(path)
    try:
        with path.open(encoding=encoding, newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            if lacking := needed - set(reader.fieldnames or []):
                raise UserError(f"{path} lacks the columns {', '.join(sorted(lacking))}; is it VLMEvalKit's file?")
            for row in reader:
                where = f"line {reader.line_num} of {path}"
                if None in row:
                    raise UserError(f"{where} has more cells than the file has columns; download it again.")
                if empty := [name for name in sorted(needed) if not (row[name] or "").strip()]:
                    raise UserError(f"{where} lacks {', '.join(empty)}; download it again.")
                yield reader.line_num, row
    except UnicodeError as error:
        raise not_text(path, encoding, error) from error
    except csv.Error as error:
        raise UserError(f"line {reader.line_num} of {path} is no row of a TSV file ({error}); download it again."
                        ) from error  # fmt: skip


def splits_of(row: dict[str, str], where: str) -> list[tuple[str, str]]:
    """List the (split, kind) of a row; empty for AMBER's existence questions, which the paper does not use."""
    kinds = [kind.strip() for kind in row["category"].split(",")]
    if set(kinds) <= set(POPE_KINDS):
        return [(f"pope_{kind}", "existence") for kind in kinds]
    (kind,) = kinds if len(kinds) == 1 else ("",)
    if kind in AMBER_TYPES:
        found = AMBER_TYPES[kind]
        return [(f"amber_{'relation' if found == 'relation' else 'attribute'}", found)]
    if kind == "discriminative-hallucination":
        return []
    raise UserError(f"{where} has the category {row['category']!r}, which neither POPE nor AMBER has.")


def names_of(row: dict[str, str], where: str) -> list[str]:
    """Return the file names that an image may take, the best first.

    The first is the name in image_path, as it contains COCO's number; the second is its whole path in one name, because
    folders may hold different images of the same name. Without image_path it is the row's index.

    Raises UserError if a name would lead out of the folder, or is no file name.
    """
    own = PureWindowsPath((row.get("image_path") or "").strip("[]'\" "))  # it takes / and \\ for separators
    found = [own.name, "_".join(part for part in own.parts if part not in (own.anchor, ".."))]
    if not own.suffix:
        found = [f"{row['index'].strip()}.jpg"]
    if problem := file_name_problem(found[0]) or ("has a folder" if "/" in found[0] else ""):
        raise UserError(f"{where} would write the image {found[0]!r}, which {problem}; correct the file.")
    return [name for name in dict.fromkeys(found) if not file_name_problem(name)]


class _Images:
    """Write the images of the rows, each under one name, and look them up by the index of their row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.of_index: dict[str, str] = {}
        self._taken: dict[str, tuple[str, bytes]] = {}
        """Name in lower case, as some disks do not tell A.jpg from a.jpg -> (name, hash of the content)."""
        self._decoded: set[bytes] = set()

    def add(self, index: str, content: bytes, names: list[str], where: str) -> None:
        """Write an image under the first name that no other image has. Raises UserError if it is damaged."""
        digest = hashlib.sha256(content).digest()
        if digest not in self._decoded:  # many rows hold the same image
            load_image(content, f"in {where}")
            self._decoded.add(digest)
        for name in names:
            taken = self._taken.setdefault(name.casefold(), (name, digest))
            if taken[1] == digest:
                (self.folder / taken[0]).write_bytes(content)
                self.of_index[index] = taken[0]
                return
        raise UserError(f"{where} has another image than an earlier row of the same name {names[0]}; give every image "
                        "a name of its own in image_path.")  # fmt: skip


def convert(path: Path, folder: Path) -> pd.DataFrame:
    """Write the benchmark's own files into ``folder``, all or none, and return its questions.

    Different images of one name are kept under different names, if their paths differ.

    Raises:
        UserError: as :func:`rows_of`; or a row has an unknown answer or category, an index that an earlier row has, a
            damaged image, a name that leads out of the folder, or the index of a row that contains no image.
    """
    with whole_folder(folder) as temporary:
        (temporary / "images").mkdir()
        table = _questions(path, _Images(temporary / "images"))
        amber = table["split"].str.startswith("amber")
        numbers = table.groupby("split").cumcount() + 1  # POPE's restart in each split, AMBER's do not
        table["question_id"] = numbers.where(~amber, pd.Series(range(1, len(table) + 1), index=table.index)).astype(str)
        table = table[QUESTION_COLUMNS]
        if amber.all():
            write_amber(temporary, table)
        elif not amber.any():
            write_pope(temporary, table)
        else:
            raise UserError(f"{path} holds questions of both POPE and AMBER; give one benchmark a file.")
    return table


def _questions(path: Path, images: _Images) -> pd.DataFrame:
    """Read the rows and write their images: a table of split, source (a row's index), question, label, kind, image."""
    questions, referred = [], []
    lines: dict[str, int] = {}
    for line, row in rows_of(path):
        where, index = f"line {line} of {path}", row["index"].strip()
        if lines.setdefault(index, line) != line:
            raise UserError(f"{where} has the index {index!r} of line {lines[index]}; give every row one of its own.")
        answer = row["answer"].strip().lower()
        if answer not in ("yes", "no"):
            raise UserError(f"{where} has the answer {row['answer']!r}, which is neither Yes nor No.")
        source = row["image"].strip()
        if len(source) > LONGEST_INDEX:
            images.add(index, _image(source, where), names_of(row, where), where)
            source = index
        for split, kind in splits_of(row, where):
            questions.append((split, source, row["question"].strip(), answer, kind))
            referred.append((source, where))
    for source, where in referred:
        if source not in images.of_index:
            raise UserError(f"{where} takes its image from row {source!r}, which {path} does not hold; "
                            "download it again.")  # fmt: skip
    if not questions:
        raise UserError(f"{path} holds no question of POPE, nor about an attribute or a relation of AMBER.")
    table = pd.DataFrame(questions, columns=["split", "source", "question", "label", "kind"])
    return table.assign(image=table["source"].map(images.of_index))


def _image(text: str, where: str) -> bytes:
    """Decode an image's base64 text."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"The image in {where} is damaged ({error}); download the file again.") from error


def main(arguments: list[str]) -> str:
    """Convert the file of a command line; return the text to print."""
    if len(arguments) != 2:
        raise UserError("usage: python -m csp_utils.data.vlmevalkit TSV_FILE FOLDER")
    path, folder = map(Path, arguments)
    if folder.exists():
        raise UserError(f"{folder} exists already; name a folder that does not, or remove it.")
    table = convert(path, folder)
    counts = ", ".join(f"{n} {split}" for split, n in table["split"].value_counts(sort=False).items())
    return f"{folder}: {counts}; {table['image'].nunique()} images"


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
