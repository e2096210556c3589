"""The data sets' own file formats: what is written comes back; the official files are read as they are."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rlaif_rows import png, rlaif_row

from csp_utils.base.errors import UserError
from csp_utils.data import benchmarks, rlaif_v

letters = st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\u2028")  # a line break to str.splitlines
words = st.text(letters, min_size=1, max_size=20).filter(str.strip)
labels = st.sampled_from(["yes", "no"])


# ---------------------------------------------------------------------------------------------------------- RLAIF-V


def test_rlaif_v_comes_back_with_its_images(tmp_path: Path) -> None:
    rlaif_v.write_rlaif_v(tmp_path / "train.parquet", [rlaif_row(i, idx=7) for i in range(600)])  # idx repeats
    data = rlaif_v.read_rlaif_v(tmp_path / "train.parquet")
    assert len(data) == 600 and data.rows["row_id"].tolist()[-1] == "000599" and data.rows["row_id"].is_unique
    for position in (0, 255, 256, 599, 3):  # across row groups and back
        assert data.image(f"{position:06d}").getpixel((0, 0)) == (position % 256, 0, 0)
        assert data.rows["question"][position] == f"What is this {position}?"


@given(rows=st.lists(st.tuples(words, words, words, st.integers(0, 10**9)), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_any_text_survives_rlaif_v(rows: list[tuple], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("rlaif") / "train.parquet"
    rlaif_v.write_rlaif_v(
        path, [rlaif_row(question=q, chosen=c, rejected=r, idx=i) for q, c, r, i in rows]
    )
    back = rlaif_v.read_rlaif_v(path).rows
    assert list(zip(back["question"], back["answer"], back["rejected"], back["idx"], strict=True)) == rows


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name, start in (("b.parquet", 3), ("a.parquet", 0)):
        rlaif_v.write_rlaif_v(tmp_path / name, [rlaif_row(i) for i in range(start, start + 3)])
    data = rlaif_v.read_rlaif_v(tmp_path, n_rows=5)
    assert data.rows["idx"].tolist() == [0, 1, 2, 3, 4]
    assert data.image("000004").getpixel((0, 0)) == (4, 0, 0)


def test_an_image_beside_the_parquet_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png((9, 9, 9)))
    rlaif_v.write_rlaif_v(tmp_path / "t.parquet", [rlaif_row(image={"bytes": None, "path": "x.png"})])
    assert rlaif_v.read_rlaif_v(tmp_path / "t.parquet").image("000000").getpixel((0, 0)) == (9, 9, 9)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([rlaif_row(), rlaif_row(chosen="  ")], "row 000001 .* a question without an answer"),
        ([rlaif_row(chosen=None)], "row 000000 .* a question without an answer"),
        ([rlaif_row(question="")], "row 000000 .* no question"),
        ([], "holds no rows"),
    ],
)
def test_bad_rows_meet_one_sentence(rows: list[dict], sentence: str, tmp_path: Path) -> None:
    rlaif_v.write_rlaif_v(tmp_path / "t.parquet", rows)
    with pytest.raises(UserError, match=sentence):
        rlaif_v.read_rlaif_v(tmp_path / "t.parquet")


def test_rows_beyond_n_rows_are_not_judged(tmp_path: Path) -> None:
    rlaif_v.write_rlaif_v(tmp_path / "t.parquet", [rlaif_row(), rlaif_row(chosen="")])
    assert len(rlaif_v.read_rlaif_v(tmp_path / "t.parquet", n_rows=1)) == 1


def test_other_files_meet_one_sentence(tmp_path: Path) -> None:
    pd.DataFrame({"question": ["a"]}).to_parquet(tmp_path / "other.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "empty").mkdir()
    for name, sentence in (
        ("other.parquet", "lacks RLAIF-V's columns ds_name, image"),
        ("broken.parquet", "cannot be read as parquet"),
        ("empty", "holds no .parquet file"),
        ("nowhere", "is missing"),
    ):
        with pytest.raises(UserError, match=sentence):
            rlaif_v.read_rlaif_v(tmp_path / name)


def test_no_image_and_a_truncated_image_name_their_row(tmp_path: Path) -> None:
    cut = {"bytes": png()[:40], "path": "x.png"}
    rlaif_v.write_rlaif_v(tmp_path / "t.parquet", [rlaif_row(image=None), rlaif_row(image=cut)])
    data = rlaif_v.read_rlaif_v(tmp_path / "t.parquet")
    for row_id in data.rows["row_id"]:
        with pytest.raises(UserError, match=f"row {row_id}"):
            data.image(row_id)


def test_coco_images_of_the_benchmark_are_found_in_the_training_rows() -> None:
    rows = pd.DataFrame(
        {"image_path": ["train2014/000000310196.jpg", "COCO_val2014_000000000001.jpg", "other/310196.jpg", None]}
    )
    questions = pd.DataFrame({"image": ["COCO_val2014_000000310196.jpg"]})
    assert rlaif_v.rows_with_benchmark_images(rows, questions).tolist() == [True, False, False, False]


# --------------------------------------------------------------------------------------------------- POPE and AMBER


def questions(kinds: list[str], split: str):
    """Tables of one split, with unique rising ids."""
    row = st.tuples(words, words, labels, st.sampled_from(kinds))
    return st.lists(row, min_size=1, max_size=6).map(
        lambda rows: [
            dict(split=split, question_id=None, image=i, question=q, label=a, kind=k) for i, q, a, k in rows
        ]
    )


@given(parts=st.tuples(*[questions(["existence"], f"pope_{k}") for k in benchmarks.POPE_KINDS]))
@settings(max_examples=20, deadline=None)
def test_pope_comes_back_as_written(parts: tuple, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("pope")
    table = pd.DataFrame([r | {"question_id": str(i)} for part in parts for i, r in enumerate(part, start=1)])
    benchmarks.write_pope(folder, table)
    pd.testing.assert_frame_equal(benchmarks.read_pope(folder), table)


@given(
    attribute=questions(["state", "number", "action"], "amber_attribute"),
    relation=questions(["relation"], "amber_relation"),
    first=st.integers(1, 50),
)
@settings(max_examples=20, deadline=None)
def test_amber_comes_back_as_written(attribute, relation, first: int, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("amber")
    table = pd.DataFrame([r | {"question_id": str(i)} for i, r in enumerate(attribute + relation, start=first)])
    benchmarks.write_amber(folder, table)
    pd.testing.assert_frame_equal(benchmarks.read_amber(folder), table)
    names = {row["type"] for row in json.loads((folder / "annotations.json").read_text())}
    assert {"relation", "discriminative-relation"} & names  # AMBER's two names for one kind


def small_pope(folder: Path) -> pd.DataFrame:
    table = pd.DataFrame(
        [
            (f"pope_{k}", str(i), f"{i}.png", "Is it?", "yes", "existence")
            for k in benchmarks.POPE_KINDS
            for i in (1, 2)
        ],
        columns=benchmarks.QUESTION_COLUMNS,
    )
    benchmarks.write_pope(folder, table)
    return table


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"question_id": 3, "image": "1.png", "text": "Is it?", "label": "maybe"}', "line 3 .* neither yes nor no"),
        ('{"question_id": 3, "image": "1.png", "label": "no"}', "line 3 .* lacks text"),
        ('{"question_id": 3, "image', "line 3 .* is not JSON"),
        ('{"question_id": 2, "image": "1.png", "text": "Is it?", "label": "no"}', "uses question_id 2 twice"),
    ],
)
def test_a_bad_pope_line_is_named(line: str, sentence: str, tmp_path: Path) -> None:
    small_pope(tmp_path)
    with (tmp_path / "coco_pope_popular.json").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=sentence):
        benchmarks.read_pope(tmp_path)


def test_missing_and_empty_question_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="coco_pope_random.json is missing"):
        benchmarks.read_pope(tmp_path)
    small_pope(tmp_path)
    (tmp_path / "coco_pope_random.json").write_text("")
    with pytest.raises(UserError, match="holds no questions"):
        benchmarks.read_pope(tmp_path)


def test_amber_questions_need_their_own_annotation(tmp_path: Path) -> None:
    row = dict(split="amber_attribute", question_id="2", image="a.png", question="Is it?", label="yes", kind="state")
    other = row | {"split": "amber_relation", "question_id": "3", "kind": "relation"}
    benchmarks.write_amber(tmp_path, pd.DataFrame([row, other]))
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(json.loads(path.read_text())[1:]))
    with pytest.raises(UserError, match="question 2 .* no attribute annotation"):
        benchmarks.read_amber(tmp_path)


def test_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    table = small_pope(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "2.png").write_bytes(png())
    with pytest.raises(UserError, match=r"1 of 2 images are missing in .*images \(1.png\)"):
        benchmarks.find_images(tmp_path, table)
    (tmp_path / "images" / "1.png").write_bytes(png())
    assert sorted(benchmarks.find_images(tmp_path, table)) == ["1.png", "2.png"]


def test_official_pope_is_read_as_it_is(official: Path) -> None:
    table = benchmarks.read_pope(official / "pope")
    assert table["split"].value_counts().to_dict() == {f"pope_{k}": 3000 for k in benchmarks.POPE_KINDS}
    assert len(table.drop_duplicates(["image", "question"])) == 5127 and table["image"].nunique() == 500
    assert (table["label"] == "yes").groupby(table["split"]).sum().tolist() == [1500] * 3


def test_official_amber_is_read_as_it_is(official: Path) -> None:
    table = benchmarks.read_amber(official / "amber")
    attribute, relation = (table[table["split"] == f"amber_{k}"] for k in benchmarks.AMBER_KINDS)
    assert (len(attribute), (attribute["label"] == "yes").sum()) == (7628, 3814)
    assert (len(relation), (relation["label"] == "yes").sum()) == (1664, 975)
    assert attribute["kind"].value_counts().to_dict() == {"state": 4764, "number": 2072, "action": 792}
    assert set(relation["kind"]) == {"relation"}


def test_official_files_survive_the_writers(official: Path, tmp_path: Path) -> None:
    for read, write, name in (
        (benchmarks.read_pope, benchmarks.write_pope, "pope"),
        (benchmarks.read_amber, benchmarks.write_amber, "amber"),
    ):
        table = read(official / name)
        write(tmp_path / name, table)
        pd.testing.assert_frame_equal(read(tmp_path / name), table)


def test_the_parquet_schema_is_rlaif_vs_own(tmp_path: Path) -> None:
    rlaif_v.write_rlaif_v(tmp_path / "t.parquet", [rlaif_row()])
    assert pq.read_schema(tmp_path / "t.parquet").names == [
        "ds_name", "image", "question", "chosen", "rejected", "origin_dataset", "origin_split", "idx", "image_path",
    ]  # fmt: skip
