"""The data sets' own file formats: what is written comes back; the official files are read as they are."""

import base64
import gzip
import json
import lzma
from pathlib import Path

import pandas as pd
import pyarrow as pa
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


# ---------------------------------------------------------------------------------- the same in other people's forms

BREAKS = "Is\u2028there\u2029a\x85d\u00f6g?"  # line breaks to str.splitlines, legal in JSON and Parquet


def pope_of(folder: Path, content: bytes) -> pd.DataFrame:
    for kind in benchmarks.POPE_KINDS:
        (folder / f"coco_pope_{kind}.json").write_bytes(content)
    return benchmarks.read_pope(folder)


def pope_lines(**changes) -> str:
    rows = [{"question_id": i, "image": f"{i}.jpg", "text": BREAKS, "label": "yes"} | changes for i in (1, 2)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("content", [
    *(pope_lines().encode(encoding) for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32")),
    *(pope_lines().replace("\n", end).encode() for end in ("\r\n", "\r")),
    json.dumps([json.loads(line) for line in pope_lines().split("\n") if line], indent=1).encode(),
    pope_lines(label="Yes").encode(), pope_lines(label=" YES ").encode(),
    pope_lines().replace('"question_id": 1', '"question_id": "1"').encode(),
    pope_lines().replace('"question_id": 1', '"question_id": 1.0').encode(),
])  # fmt: skip
def test_pope_is_read_in_every_unambiguous_form(content: bytes, tmp_path: Path) -> None:
    table = pope_of(tmp_path, content)
    assert table["question_id"].tolist() == ["1", "2"] * 3 and table["image"].tolist() == ["1.jpg", "2.jpg"] * 3
    assert set(table["question"]) == {BREAKS} and set(table["label"]) == {"yes"}


@pytest.mark.parametrize(("content", "message"), [
    (pope_lines().encode("latin-1", "replace"), "line 1 of .*random.json is not text in UTF-8"),
    (gzip.compress(pope_lines().encode()), r"random.json is compressed \(gzip\)"),
    (lzma.compress(pope_lines().encode()), r"random.json is compressed \(xz\)"),
    (pope_lines(text=["Is it?"]).encode(), "line 1 of .* has a list as text"),
    (pope_lines(text=5).encode(), "line 1 of .* has a number as text"),
    (pope_lines(text="  ").encode(), "line 1 of .* lacks text"),
    (pope_lines(image={"path": "a"}).encode(), "line 1 of .* has a table as image"),
    (pope_lines(label=True).encode(), "line 1 of .* neither yes nor no"),
    (pope_lines(label=["yes"]).encode(), "line 1 of .* neither yes nor no"),
    (pope_lines(question_id=1.5).encode(), "line 1 of .* has 1.5 as question_id"),
    (pope_lines(question_id=[1]).encode(), "line 1 of .* as question_id"),
    (pope_lines(question_id=None).encode(), "line 1 of .* lacks question_id"),
    (b"null", "line 1 of .* is null, and not a question"), (b"[1]", "entry 1 of .* is a number, and not a question"),
    (b"[" * 100_000, "is not JSON"), (b'{"text": "\\ud800"}', "lacks question_id"),
    (pope_lines().replace(BREAKS, "\\ud800").encode(), "line 1 of .* has half a character"),
])  # fmt: skip
def test_other_forms_of_pope_are_one_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        pope_of(tmp_path, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", r"..\x.jpg", r"C:\x.jpg", "x\0.jpg", "..",
                                  "x" * 300])  # fmt: skip
def test_images_outside_their_folder_are_one_sentence(name: str, tmp_path: Path) -> None:
    table = pope_of(tmp_path, pope_lines(image=name).encode())
    with pytest.raises(UserError, match="Question 1 of pope_random in .* names the image"):
        benchmarks.find_images(tmp_path, table)


def test_images_in_a_subfolder_are_found(tmp_path: Path) -> None:
    (tmp_path / "images/val").mkdir(parents=True)
    (tmp_path / "images/val/x.jpg").write_bytes(png())
    assert benchmarks.find_images(tmp_path, pope_of(tmp_path, pope_lines(image="val/x.jpg").encode()))


QUERY = {"id": 1, "image": "a.jpg", "query": BREAKS}
TRUTH = {"id": 1, "type": "discriminative-attribute-state", "truth": "yes"}
RELATION = {"id": 2, "type": "relation", "truth": "No"}


def amber_of(folder: Path, query: object, truths: object, encoding: str = "utf-8") -> pd.DataFrame:
    for name, content in (("annotations", truths), ("query_discriminative-attribute", query),
                          ("query_discriminative-relation", [QUERY | {"id": 2}])):  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    return benchmarks.read_amber(folder)


@pytest.mark.parametrize(("query", "truths", "encoding"), [
    ([QUERY], [TRUTH, RELATION], "utf-8"), ([QUERY], [TRUTH, RELATION], "utf-8-sig"),
    ([QUERY], [TRUTH, RELATION], "utf-16"),
    ([QUERY | {"id": "1"}], [TRUTH | {"id": "1"}, RELATION], "utf-8"),
    ([QUERY | {"id": 1.0}], [TRUTH, RELATION | {"id": "2.0"}], "utf-8"),
    ([QUERY], {"1": TRUTH, "2": RELATION}, "utf-8"),
    ([QUERY], {"2": RELATION, "1": {k: v for k, v in TRUTH.items() if k != "id"}}, "utf-8"),
    ([QUERY], [TRUTH | {"truth": "Yes"}, RELATION], "utf-8"),
    (QUERY, [TRUTH, RELATION], "utf-8"),
])  # fmt: skip
def test_amber_is_read_in_every_unambiguous_form(query, truths, encoding: str, tmp_path: Path) -> None:
    table = amber_of(tmp_path, query, truths, encoding)
    assert table["question_id"].tolist() == ["1", "2"] and table["label"].tolist() == ["yes", "no"]
    assert set(table["question"]) == {BREAKS} and table["kind"].tolist() == ["state", "relation"]


@pytest.mark.parametrize(("query", "truths", "message"), [
    ([QUERY], [None, None], "annotation 1 of .* is null"), (None, [TRUTH, RELATION], "is null, and not a question"),
    ([None], [TRUTH, RELATION], "entry 1 of .* is null"), ([QUERY], None, "annotations.json is null"),
    ([QUERY], 5, "annotations.json is a number"), ([QUERY | {"id": None}], [TRUTH, RELATION], "lacks id"),
    ([QUERY | {"id": 1.5}], [TRUTH, RELATION], "has 1.5 as id"), ([QUERY | {"id": True}], [TRUTH, RELATION], "as id"),
    ([QUERY | {"id": "x"}], [TRUTH, RELATION], "question x of .* has no attribute annotation"),
    ([QUERY], {"1": TRUTH | {"id": 3}, "2": RELATION}, "question 1 of .* has no attribute annotation"),
    ([QUERY], [RELATION | {"id": 1}, RELATION], "question 1 of .* has no attribute annotation"),
    ([QUERY | {"query": ["Is?"]}], [TRUTH, RELATION], "question 1 of .* has a list as query"),
    ([QUERY], [TRUTH | {"truth": None}, RELATION], "question 1 of .* lacks truth"),
    ([QUERY], [TRUTH | {"truth": []}, RELATION], "question 1 of .* neither yes nor no"),
])  # fmt: skip
def test_other_forms_of_amber_are_one_sentence(query, truths, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        amber_of(tmp_path, query, truths)


def rlaif_of(folder: Path, column: str, kind: pa.DataType, value: object) -> rlaif_v.RlaifV:
    """One row, of which one column has another type."""
    schema = pa.schema([pa.field(f.name, kind if f.name == column else f.type) for f in rlaif_v.RLAIF_V_SCHEMA])
    pq.write_table(pa.Table.from_pylist([rlaif_row(**{column: value})], schema=schema), folder / "t.parquet")
    return rlaif_v.read_rlaif_v(folder / "t.parquet")


@pytest.mark.parametrize(("kind", "value"), [
    (pa.binary(), png((7, 0, 0))), (pa.large_binary(), png((7, 0, 0))), (pa.string(), "in/x.png"),
    (pa.large_string(), "in/x.png"), (pa.struct([("bytes", pa.binary())]), {"bytes": png((7, 0, 0))}),
    (pa.struct([("path", pa.string())]), {"path": "in/x.png"}),
    (pa.struct([("path", pa.string()), ("bytes", pa.binary())]), {"bytes": png((7, 0, 0)), "path": "../gone.png"}),
])  # fmt: skip
def test_images_of_rlaif_v_are_read_in_every_unambiguous_form(kind, value, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.png").write_bytes(png((7, 0, 0)))
    assert rlaif_of(tmp_path, "image", kind, value).image("000000").getpixel((0, 0)) == (7, 0, 0)


LONG = base64.b64encode(png() + bytes(200)).decode()


@pytest.mark.parametrize(("column", "kind", "value", "message"), [
    ("image", pa.list_(rlaif_v.RLAIF_V_SCHEMA.field("image").type), [{"bytes": png(), "path": "a"}],
     "The column image of .* holds list<.*, and not bytes, the path"),
    ("image", pa.int64(), 3, "The column image of .* holds int64"),
    ("image", pa.struct([("url", pa.string())]), {"url": "x"}, "The column image of .* holds struct"),
    ("image", pa.string(), LONG, "holds base64 text, and not bytes"),
    ("image", pa.string(), f"data:image/png;base64,{LONG}", "holds base64 text, and not bytes"),
    ("question", pa.int64(), 5, "The column question of .* holds int64, and not text"),
    ("question", pa.binary(), b"What?", "The column question of .* holds binary, and not text"),
    ("question", pa.list_(pa.string()), ["What?"], "The column question of .* holds list<.*, and not text"),
    ("chosen", pa.float64(), 0.5, "The column chosen of .* holds double"),
    ("rejected", pa.binary(), b"No", "The column rejected of .* holds binary"),
    ("image_path", pa.int64(), 5, "The column image_path of .* holds int64"),
    ("question", pa.null(), None, "row 000000 of .* has no question"),
])  # fmt: skip
def test_other_columns_of_rlaif_v_are_one_sentence(column, kind, value, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        rlaif_of(tmp_path, column, kind, value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "message"), [
    ("gone.png", "row 000000 of .* names the image 'gone.png', which is not in"),
    ("../x.png", "names the image '../x.png', which leads out of its folder"), ("/x.png", "leads out of its folder"),
])  # fmt: skip
def test_a_path_that_names_no_image_beside_the_file_names_its_row(name: str, message: str, tmp_path: Path) -> None:
    for kind, value in ((pa.string(), name), (rlaif_v.RLAIF_V_SCHEMA.field("image").type, {"path": name})):
        with pytest.raises(UserError, match=message):
            rlaif_of(tmp_path, "image", kind, value).image("000000")


def test_categories_and_line_breaks_of_rlaif_v_are_text(tmp_path: Path) -> None:
    row = rlaif_row(question=BREAKS, chosen=BREAKS, rejected=BREAKS)
    table = pa.Table.from_pylist([row], schema=rlaif_v.RLAIF_V_SCHEMA)
    index = table.schema.get_field_index("question")
    table = table.set_column(index, "question", table["question"].dictionary_encode())
    pq.write_table(table, tmp_path / "t.parquet")
    rows = rlaif_v.read_rlaif_v(tmp_path / "t.parquet").rows
    assert (rows[["question", "answer", "rejected"]] == BREAKS).all(axis=None)
