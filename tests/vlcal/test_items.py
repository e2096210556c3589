"""Benchmarks in their published forms become one table; what is dropped is counted and named."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.vlcal.items.forms import REASONS
from csp_utils.vlcal.items.table import COLUMNS, read_items, without_images

FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""How the hub's data sets store an image."""


def png(color: int) -> bytes:
    """An encoded picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (color, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def cell(color: int) -> dict:
    """An image as the hub's data sets store it."""
    return {"bytes": png(color), "path": f"{color}.png"}


def parquet(path, rows, types, group=1000):
    """Writes a Parquet file with the given types of columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(list(types.items()))), path, row_group_size=group)
    return path


def reasons(items) -> dict[str, int]:
    """The reasons that dropped a row, with their numbers; the funnel has to add up."""
    funnel = items.funnel().set_index("reason")["n"]
    assert list(funnel.index) == ["rows", *REASONS, "items"] and funnel["rows"] == funnel.iloc[1:].sum()
    return {reason: n for reason, n in funnel.iloc[1:-1].items() if n}


GENERIC = {"images": pa.list_(FILE), "problem": pa.string(), "answer": pa.string()}


def test_geo3k(tmp_path):
    """The columns and one row of hiyouga/geometry3k."""
    rows = [{"images": [cell(1)], "problem": "<image>Find $x$.", "answer": "2 \\sqrt { 221 }"},
            {"images": [cell(2)], "problem": "<image>Chords $\\overline{A C}$ meet. Find it.", "answer": "40"}]
    items = read_items(parquet(tmp_path / "test-00000-of-00001.parquet", rows, GENERIC, group=1), "geo3k")
    assert list(items.rows.columns) == COLUMNS and reasons(items) == {}
    first = ["test-00000-of-00001:0:0", "<image>Find $x$.", "2 \\sqrt { 221 }", "math", [], "", 1]
    assert items.rows.iloc[0].tolist() == first
    assert [items.images(item)[0] for item in items.rows["item_id"]] == [png(1), png(2)]


def test_the_generic_form_and_everything_that_it_drops(tmp_path):
    good = {"images": [cell(1)], "problem": "How many?", "answer": "\\boxed{7}"}
    rows = [good, good | {"problem": " "}, good | {"answer": None}, good | {"images": []}, good | {"images": None},
            good | {"problem": "<image> and <image>?"}, good | {"images": [{"bytes": b"no image", "path": None}]},
            good | {"problem": "Say <|im_end|>."}, good | {"images": [cell(1), cell(2)], "problem": "<image> first?"},
            good | {"answer": "$$"}, good | {"answer": "(C)"},
            good | {"images": [{"bytes": None, "path": "../secret.png"}]}]  # fmt: skip
    items = read_items(parquet(tmp_path / "a.parquet", rows, GENERIC))
    assert reasons(items) == {"no problem": 1, "no answer": 2, "no image": 4, "damaged image": 1, "control token": 1}
    assert items.rows[["problem", "answer", "kind", "n_images"]].to_numpy().tolist() == [
        ["<image>\nHow many?", "7", "math", 1], ["<image>\n<image> first?", "7", "math", 2],
        ["<image>\nHow many?", "C", "choice", 1]]
    assert items.images(items.rows["item_id"][1]) == [png(2), png(1)]  # the unmentioned one goes first
    assert items.dropped["where"][0] == "row 2 of row group 1 of a.parquet"
    unchecked = read_items(tmp_path / "a.parquet", check_images=False)
    assert len(unchecked) == len(items) + 1 and "damaged image" not in reasons(unchecked)


def test_json_lines_with_images_as_files_and_ids(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(png(5))
    rows = [{"id": 7, "problem": "What\u2028is it?", "answer": 12, "images": ["images/a.png"], "category": "count"},
            {"id": 8, "problem": "x", "answer": True, "images": "images/a.png"},
            {"id": 9, "problem": "x", "answer": "yes", "images": "images/a.png"},
            {"id": 7, "problem": "x", "answer": "1", "images": ["images/a.png"]},
            {"id": 10, "problem": "x", "answer": "1", "images": ["images/b.png"]}]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "train.jsonl").write_text(text, encoding="utf-8")
    items = read_items(tmp_path)
    assert reasons(items) == {"no answer": 1, "id twice": 1, "no image": 1}
    assert items.rows.to_numpy().tolist() == [["7", "<image>\nWhat\u2028is it?", "12", "math", [], "count", 1],
                                              ["9", "<image>\nx", "yes", "text", [], "", 1]]
    assert items.images("7") == items.images("9") == [png(5)]
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.json").write_text(json.dumps(rows), encoding="utf-8")
    assert read_items(tmp_path).rows.equals(items.rows)


VISION = {"id": pa.string(), "question": pa.string(), "options": pa.list_(pa.string()), "image": pa.string(),
          "decoded_image": FILE, "answer": pa.string(), "level": pa.int64(), "subject": pa.string()}  # fmt: skip


def vision(identity, **changes):
    """A row with the columns of MathLLMs/MathVision."""
    return {"id": identity, "question": "How many squares are in the picture?\n<image1>", "options": [],
            "image": "images/1.jpg", "decoded_image": cell(3), "answer": "8", "level": 2,
            "subject": "counting"} | changes  # fmt: skip


def test_mathvision_testmini_alone(tmp_path):
    rows = [vision("4"), vision("5", options=["A", "B", "C", "D", "E"], answer="D"),
            vision("6", options=["$\\frac{1}{2}$", "2"], answer="B", question="How long is <image1>? See <image1>."),
            vision("7", options=["1", "2"], answer="E"), vision("8", decoded_image=None), vision("9", question=None)]
    parquet(tmp_path / "data/testmini-00000-of-00001-f8.parquet", rows, VISION)
    parquet(tmp_path / "data/test-00000-of-00001-35.parquet", [vision("1")], VISION)
    items = read_items(tmp_path, "mathvision", "testmini")
    assert reasons(items) == {"answer is no option": 1, "no image": 1, "no problem": 1}
    table = items.rows.set_index("item_id")
    assert table.loc["4"].tolist() == ["How many squares are in the picture?\n<image>", "8", "math", [], "counting", 1]
    assert table["problem"]["5"] == ("How many squares are in the picture?\n<image>\nOptions: A, B, C, D, E\n"
                                     "Answer with the letter of the right option alone.")  # fmt: skip
    assert table["problem"]["6"].startswith("How long is <image>? See image 1.\nOptions:\nA. $\\frac{1}{2}$\nB. 2\n")
    assert table.loc["6", ["answer", "kind", "options"]].tolist() == ["B", "choice", ["$\\frac{1}{2}$", "2"]]
    assert read_items(tmp_path, "mathvision", "test").rows["item_id"].tolist() == ["1"]
    assert len(read_items(tmp_path, "mathvision")) == 4


MMMU = {"id": pa.string(), "question": pa.string(), "options": pa.string(), "answer": pa.string(),
        **{f"image_{k}": FILE for k in range(1, 8)}, "subject": pa.string()}  # fmt: skip


def test_mmmu_pro_with_several_images(tmp_path):
    ten = [f"${k}" for k in range(10)]
    row = {"id": "test_Art_1", "question": "<image 1> What is shown?", "options": repr(ten), "answer": "J",
           "image_1": cell(1), "subject": "Art"}  # fmt: skip
    pictures = repr(["<image 3>", "like <image 2>", "<image 2>"])
    rows = [row, row | {"id": "b", "options": pictures, "answer": "B", "image_2": cell(2), "image_3": cell(3)},
            row | {"id": "c", "options": pictures, "answer": "B", "image_2": cell(2)},
            row | {"id": "d", "options": "not a list"}, row | {"id": "e", "answer": "K"},
            row | {"id": "f", "options": "__import__('os')"}]  # fmt: skip
    items = read_items(parquet(tmp_path / "test.parquet", rows, MMMU), "mmmu_pro")
    assert reasons(items) == {"no image": 1, "unreadable options": 2, "answer is no option": 1}
    first, second = items.rows.to_dict("records")
    assert first["problem"].startswith("<image> What is shown?\nOptions:\nA. $0\n") and "\nJ. $9\n" in first["problem"]
    assert (first["answer"], first["kind"], first["options"], first["subject"]) == ("J", "choice", ten, "Art")
    assert second["problem"].split("\n")[:5] == ["<image> What is shown?", "Options:", "A. <image>", "B. like <image>",
                                                 "C. image 3"]  # fmt: skip
    assert items.images("b") == [png(1), png(3), png(2)] and second["n_images"] == 3


def test_mmmu_pro_with_the_question_in_the_image(tmp_path):
    types = {"id": pa.string(), "image": FILE, "options": pa.string(), "answer": pa.string(), "subject": pa.string()}
    row = {"id": "v1", "image": cell(9), "options": repr(["red", "blue"]), "answer": "B", "subject": "Art"}
    items = read_items(parquet(tmp_path / "test.parquet", [row], types), "mmmu_pro")
    (problem,) = items.rows["problem"]
    assert problem.startswith("<image>\nThe image shows a question") and "red" not in problem and "A, B" in problem
    assert items.rows["options"][0] == ["red", "blue"] and items.images("v1") == [png(9)]


DYNA = {"id": pa.string(), "question": pa.string(), "image": pa.string(), "decoded_image": FILE,
        "ground_truth": pa.string(), "answer_type": pa.string(), "subject": pa.string()}  # fmt: skip


def test_dynamath_keeps_its_variants_apart(tmp_path):
    row = {"id": "1", "question": "What is the period?", "image": "images/1.png", "decoded_image": cell(4),
           "ground_truth": "2.0944", "answer_type": "float", "subject": "analytic geometry"}  # fmt: skip
    rows = [row, row | {"id": "2", "question": "Is it? choice: (A) Yes (B) No", "ground_truth": "B",
                        "answer_type": "multiple choice"},
            row | {"id": "3", "ground_truth": "(0, 6)", "answer_type": "text"},
            row | {"id": "4", "ground_truth": "a third"}, row | {"id": "5", "answer_type": "essay"},
            row | {"id": "6", "ground_truth": "12", "answer_type": "multiple choice"}]  # fmt: skip
    for number in (1, 10):
        parquet(tmp_path / f"data/sample_variant{number}-00000-of-00001.parquet", rows, DYNA)
    items = read_items(tmp_path, "dynamath")
    assert reasons(items) == {"answer is no number": 2, "unknown answer type": 2, "answer is no option": 2}
    table = items.rows.set_index("item_id")
    assert sorted(table.index) == ["1:1", "1:10", "2:1", "2:10", "3:1", "3:10"]
    assert table.loc["1:1", ["answer", "kind"]].tolist() == ["2.0944", "number"]
    assert "decimals" in table["problem"]["1:1"]
    assert table.loc["2:10", ["answer", "kind", "options"]].tolist() == ["B", "choice", []]
    assert table.loc["3:1", ["problem", "kind"]].tolist() == ["<image>\nWhat is the period?", "text"]
    assert len(read_items(tmp_path, "dynamath", "sample_variant1")) == 3


def test_a_problem_without_its_images():
    assert without_images("<image>\n<image>\nWhich, <image> or <image>?") == "Which,  or ?"
    assert without_images("Find x.") == "Find x."


def test_what_cannot_be_read_is_said_in_one_sentence(tmp_path):
    file = parquet(tmp_path / "a.parquet", [{"problem": "x", "answer": "1", "images": [cell(1)]}], GENERIC)
    with pytest.raises(UserError, match="did you mean 'mathvision'"):
        read_items(file, "mathvison")
    with pytest.raises(UserError, match=r"a\.parquet lacks the columns id, question, options, decoded_image of"):
        read_items(file, "mathvision")
    with pytest.raises(UserError, match="holds no file of the split 'dev' that ends in"):
        read_items(tmp_path, split="dev")
    with pytest.raises(UserError, match="holds no file"):
        read_items(tmp_path / "missing")
    (tmp_path / "b.txt").write_text("x")
    with pytest.raises(UserError, match="convert it"):
        read_items(tmp_path / "b.txt")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(UserError, match=r"c\.parquet cannot be read as parquet"):
        read_items(tmp_path / "c.parquet")
    (tmp_path / "d.jsonl").write_text('{"problem": ')
    with pytest.raises(UserError, match=r"d\.jsonl is not JSON"):
        read_items(tmp_path / "d.jsonl")
    (tmp_path / "e.json").write_text("[1]")
    with pytest.raises(UserError, match="Row 1 of .* is no table"):
        read_items(tmp_path / "e.json")
    empty = parquet(tmp_path / "f.parquet", [{"problem": "x", "answer": "", "images": [cell(1)]}] * 2, GENERIC)
    with pytest.raises(UserError, match="all 2 rows were dropped, most of them for: no answer"):
        read_items(empty)


def test_random_access_over_row_groups(tmp_path):
    rows = [{"images": [cell(k)], "problem": f"{k}?", "answer": str(k)} for k in range(40)]
    items = read_items(parquet(tmp_path / "a.parquet", rows, GENERIC, group=7))
    for k in np.random.default_rng(0).permutation(40):
        assert items.images(items.rows["item_id"][k]) == [png(int(k))]
