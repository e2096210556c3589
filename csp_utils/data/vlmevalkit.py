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
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.files import whole_folder
from csp_utils.data.benchmarks import AMBER_TYPES, POPE_KINDS, QUESTION_COLUMNS, write_amber, write_pope

LONGEST_INDEX = 64
"""A text of at most this length in the column image is the index of another row, as in VLMEvalKit."""


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a TSV file one at a time, because AMBER's has several GB.

    Raises UserError if the file is missing or lacks a column.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; download VLMEvalKit's TSV file of the benchmark.")
    csv.field_size_limit(2**31 - 1)  # an image is one field
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        lacking = {"index", "image", "question", "answer", "category"} - set(reader.fieldnames or [])
        if lacking:
            raise UserError(f"{path} lacks the columns {', '.join(sorted(lacking))}; is it VLMEvalKit's file?")
        for row in reader:
            yield reader.line_num, row


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


def name_of(row: dict[str, str], index: str) -> str:
    """Choose an image's file name: that of image_path (it contains COCO's number), or else the row's index."""
    own = PurePosixPath((row.get("image_path") or "").strip("[]'\" ")).name
    return own if PurePosixPath(own).suffix else f"{index}.jpg"


def convert(path: Path, folder: Path) -> pd.DataFrame:
    """Write the benchmark's own files into ``folder``, all or none, and return its questions.

    Raises:
        UserError: as :func:`rows_of`; or a row has an unknown answer or category, a damaged image, or the index of a
            row that contains no image.
    """
    questions, images, referred = [], {}, []
    with whole_folder(folder) as temporary:
        (temporary / "images").mkdir()
        for line, row in rows_of(path):
            where, index = f"line {line} of {path}", row["index"]
            answer = (row["answer"] or "").strip().lower()
            if answer not in ("yes", "no"):
                raise UserError(f"{where} has the answer {row['answer']!r}, which is neither Yes nor No.")
            if len(row["image"]) > LONGEST_INDEX:
                images[index] = name_of(row, index)
                (temporary / "images" / images[index]).write_bytes(_image(row["image"], where))
                source = index
            else:
                source = row["image"].strip()
            for split, kind in splits_of(row, where):
                questions.append((split, source, row["question"].strip(), answer, kind))
                referred.append((source, where))
        for source, where in referred:
            if source not in images:
                raise UserError(f"{where} takes its image from row {source!r}, which {path} does not hold; "
                                "download it again.")  # fmt: skip
        if not questions:
            raise UserError(f"{path} holds no question of POPE, nor about an attribute or a relation of AMBER.")
        table = pd.DataFrame(questions, columns=["split", "source", "question", "label", "kind"])
        table["image"] = table["source"].map(images)
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
