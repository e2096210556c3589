"""VLMEvalKit's TSV files become the benchmarks' own, and say what is wrong with a file that is not theirs."""

import base64
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.data import vlmevalkit
from csp_utils.data.benchmarks import find_images, read_amber, read_pope

POPE = [  # index, image ("" is a picture of its own), image_path, question, answer, category
    ("0", "", "COCO_val2014_000000000042.jpg", "Is there a cat in the image?", "Yes", "adversarial,popular,random"),
    ("1", "0", "COCO_val2014_000000000042.jpg", "Is there a dog in the image?", "No", "random"),
    ("2", "0", "COCO_val2014_000000000042.jpg", "Is there a car in the image?", "No", "adversarial,popular"),
]
AMBER = [
    ("0", "", "AMBER_1.jpg", "Is the sky sunny in this image?", "Yes", "discriminative-attribute-state"),
    ("1", "0", "AMBER_1.jpg", "Is there one dog in this image?", "No", "discriminative-attribute-number"),
    ("2", "", "AMBER_2.jpg", "Is there direct contact between the cup and table?", "Yes", "discriminative-relation"),
    ("3", "2", "AMBER_2.jpg", "Is there direct contact between the dog and moon?", "No", "relation"),
    ("4", "2", "AMBER_2.jpg", "Is there a dog in this image?", "No", "discriminative-hallucination"),
]


def tsv(path: Path, rows: list[tuple[str, ...]], drop: str = "") -> Path:
    """A file as VLMEvalKit's, with small JPEG pictures."""
    rng, content = np.random.default_rng(0), []
    for row in rows:
        picture = path.with_suffix(".jpg")
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(picture)
        content.append((row[0], row[1] or base64.b64encode(picture.read_bytes()).decode(), *row[2:]))
    columns = ["index", "image", "image_path", "question", "answer", "category"]
    table = pd.DataFrame(content, columns=columns).drop(columns=drop or [])
    table.to_csv(path, sep="\t", index=False)
    return path


def test_pope_comes_out_as_its_own_files(tmp_path: Path) -> None:
    written = vlmevalkit.convert(tsv(tmp_path / "POPE.tsv", POPE), tmp_path / "pope")
    questions = read_pope(tmp_path / "pope")
    assert questions.groupby("split").size().to_dict() == {"pope_random": 2, "pope_popular": 2, "pope_adversarial": 2}
    assert set(questions["image"]) == {"COCO_val2014_000000000042.jpg"} and len(written) == len(questions)
    assert set(questions.loc[questions["label"] == "yes", "question"]) == {"Is there a cat in the image?"}
    assert len(find_images(tmp_path / "pope", questions)) == 1


def test_amber_comes_out_as_its_own_files_without_existence(tmp_path: Path) -> None:
    vlmevalkit.convert(tsv(tmp_path / "AMBER.tsv", AMBER), tmp_path / "amber")
    questions = read_amber(tmp_path / "amber")
    assert questions["kind"].tolist() == ["state", "number", "relation", "relation"]
    assert questions["label"].tolist() == ["yes", "no", "yes", "no"]
    assert set(find_images(tmp_path / "amber", questions)) == {"AMBER_1.jpg", "AMBER_2.jpg"}


def test_a_file_without_names_of_pictures_takes_the_index(tmp_path: Path) -> None:
    vlmevalkit.convert(tsv(tmp_path / "POPE.tsv", POPE, drop="image_path"), tmp_path / "pope")
    assert set(read_pope(tmp_path / "pope")["image"]) == {"0.jpg"}


@pytest.mark.parametrize(("row", "message"), [
    (("9", "7", "x.jpg", "Is it?", "No", "random"), "takes its image from row '7', which .* does not hold"),
    (("9", "0", "x.jpg", "Is it?", "Maybe", "random"), "has the answer 'Maybe'"),
    (("9", "0", "x.jpg", "Is it?", "No", "perception"), "has the category 'perception'"),
    (("9", "%" * 80, "x.jpg", "Is it?", "No", "random"), "The image in line 5 of .* is damaged"),
    (("9", "0", "x.jpg", "Is it?", "No", "relation"), "holds questions of both POPE and AMBER"),
])
def test_a_wrong_row_is_one_sentence_and_leaves_nothing(tmp_path: Path, row: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        vlmevalkit.convert(tsv(tmp_path / "x.tsv", [*POPE, row]), tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_wrong_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing; download"):
        vlmevalkit.convert(tmp_path / "no.tsv", tmp_path / "out")
    with pytest.raises(UserError, match="lacks the columns category"):
        vlmevalkit.convert(tsv(tmp_path / "x.tsv", POPE, drop="category"), tmp_path / "out")
    with pytest.raises(UserError, match="holds no question"):
        vlmevalkit.convert(tsv(tmp_path / "y.tsv", []), tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        vlmevalkit.main([str(tmp_path / "x.tsv"), str(tmp_path / "there")])
