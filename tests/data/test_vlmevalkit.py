"""VLMEvalKit's TSV files become the benchmarks' own, and say what is wrong with a file that is not theirs."""

import base64
import gzip
import io
import lzma
from collections.abc import Callable
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


HEAD = "index\timage\tquestion\tanswer\tcategory\timage_path\n"


def jpeg(color: str = "red", size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    image = Image.effect_noise(size, 50) if color == "noise" else Image.new("RGB", size, color)
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def line(index: str, content: bytes, image_path: str = "", question: str = "Is there a dog?") -> str:
    image = base64.b64encode(content).decode()
    return f"{index}\t{image}\t{question}\tYes\trandom,popular,adversarial\t{image_path}\n"


def converted(folder: Path, *lines: str, encode: Callable[[str], bytes] = str.encode) -> pd.DataFrame:
    (folder / "x.tsv").write_bytes(encode(HEAD + "".join(lines)))
    vlmevalkit.convert(folder / "x.tsv", folder / "in" / "out")
    return read_pope(folder / "in" / "out")


@pytest.mark.parametrize("index", ["../../escaped", "/tmp/escaped", "a/b", "../..", r"..\..\escaped", r"C:\escaped",
                                   "a\0b", "CON", "nul.x", "C:x", "x" * 300])  # fmt: skip
def test_no_image_is_written_outside_the_folder(tmp_path: Path, index: str) -> None:
    with pytest.raises(UserError, match=r"line 2 of .* would write the image"):
        converted(tmp_path, line(index, jpeg()))
    assert [path.name for path in tmp_path.rglob("*")] in (["x.tsv", "in"], ["in", "x.tsv"])


@pytest.mark.parametrize("image_path", ["../../7.jpg", "/tmp/7.jpg", r"C:\images\7.jpg", r"..\7.jpg", "['val/7.jpg']"])
def test_only_the_name_of_a_path_is_used(tmp_path: Path, image_path: str) -> None:
    assert set(converted(tmp_path, line("0", jpeg(), image_path))["image"]) == {"7.jpg"}


def test_different_images_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    rows = [line("0", jpeg("blue"), "a/1.jpg", "a?"), line("1", jpeg("red"), "b/1.jpg", "b?"),
            line("2", jpeg("blue"), "c/1.jpg", "c?"), line("3", jpeg("green"), "d/1.JPG", "d?")]  # fmt: skip
    table = converted(tmp_path, *rows).drop_duplicates("question").set_index("question")["image"]
    assert table.to_dict() == {"a?": "1.jpg", "b?": "b_1.jpg", "c?": "1.jpg", "d?": "d_1.JPG"}
    for question, color in (("a?", "blue"), ("b?", "red"), ("c?", "blue"), ("d?", "green")):
        assert (tmp_path / "in/out/images" / table[question]).read_bytes() == jpeg(color)


@pytest.mark.parametrize(("rows", "message"), [
    ([line("0", jpeg("blue"), "1.jpg"), line("1", jpeg("red"), "1.jpg")], "line 3 .* another image .* same name 1.jpg"),
    ([line("0", jpeg(), "1.jpg"), line(" 0", jpeg(), "2.jpg")], "line 3 .* has the index '0' of line 2"),
    ([line("0", b"no image " * 20, "1.jpg")], "image in line 2 of .* is not an image"),
    ([line("0", jpeg("noise", (200, 200))[:-900], "1.jpg")], "image in line 2 of .* is damaged or truncated"),
    ([line("0", jpeg()).replace("Yes", "")], "line 2 of .* lacks answer"),
    (["0\tabc\n"], "line 2 of .* lacks answer, category, question"),
    ([line("0", jpeg(), "1.jpg\tmore")], "line 2 of .* has more cells"),
])  # fmt: skip
def test_rows_that_would_mix_up_or_break_images_are_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        converted(tmp_path, *rows)
    assert "\n" not in str(caught.value) and not list((tmp_path / "in").iterdir())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_unicode_is_read_in_every_form(tmp_path: Path, encoding: str) -> None:
    row = line("0", jpeg(), "1.jpg", "Is there a d\u00f6g\u2028\u2029\x85?")
    (question,) = set(converted(tmp_path, row, encode=lambda text: text.encode(encoding))["question"])
    assert question == "Is there a d\u00f6g\u2028\u2029\x85?"


@pytest.mark.parametrize(("encode", "message"), [
    (lambda text: text.encode("latin-1"), r"line 2 of .*x\.tsv is not text in UTF-8"),
    (lambda text: text.encode("utf-16")[:-1], r"x\.tsv is not text in UTF-16"),
    (lambda text: gzip.compress(text.encode()), r"x\.tsv is compressed \(gzip\)"),
    (lambda text: lzma.compress(text.encode()), r"x\.tsv is compressed \(xz\)"),
    (lambda text: b"", "lacks the columns"),
])  # fmt: skip
def test_other_bytes_are_one_sentence(tmp_path: Path, encode: Callable[[str], bytes], message: str) -> None:
    with pytest.raises(UserError, match=message):
        converted(tmp_path, line("0", jpeg(), "1.jpg", "Is there a d\u00f6g?"), encode=encode)
