"""Reading replies: tables of every format, lmms-eval's samples, VLMEvalKit's outputs, and what is wrong with a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from csp_utils.base.errors import UserError
from csp_utils.replies.read import COLUMNS, REASONS, Replies, read_replies

TABLE = [(1, "a.jpg", 0.9, "true"), (2, "a.jpg", 0.25, "false"), (3, "b.jpg", "", "true")]

# The form of lmms-eval's *_samples_<task>.jsonl (EvolvingLMMs-Lab/lmms-eval), as its evaluator.py collects a sample and
# loggers/evaluation_tracker.py writes it: resps is left out where it equals filtered_resps, doc and arguments are
# removed, and the task's metrics are added by name; tasks/pope/utils.py gives POPE's. The contents are invented.
POPE_METRICS = ("pope_accuracy", "pope_precision", "pope_recall", "pope_f1_score", "pope_yes_ratio")


def lmms_sample(number: int, target: str, reply: str, **more: Any) -> dict[str, Any]:
    """Return a sample of POPE under a prompt that asks for an answer and a confidence."""
    predicted = reply.lower().strip()
    metric = {"question_id": str(number), "score": float(predicted == target), "prediction": predicted,
              "ground_truth": target}  # fmt: skip
    return {"doc_id": number, "target": target, "filtered_resps": [reply], "doc_hash": f"{number:064x}",
            **dict.fromkeys(POPE_METRICS, metric), "input": "Is there a cup in the image?\nAnswer, and say how sure "
            "you are.", **more}  # fmt: skip


SAID = [("yes", "Yes, 90%"), ("no", "Yes. Confidence: 80%"), ("no", "no"), ("yes", "I cannot tell from this image."),
        ("no", "No, I am 70% certain.")]  # fmt: skip
LMMS = [lmms_sample(number, *said) for number, said in enumerate(SAID)]

# The form of VLMEvalKit's predictions (open-compass/VLMEvalKit), {model}_{dataset}.xlsx, or .tsv or .json by choice, as
# vlmeval/inference.py writes them: the columns of the data set without its images, and prediction. A request that
# failed has the message of FAIL_MSG there. ..._auxmatch.xlsx adds extracted and score (dataset/image_yorn.py), judged
# files of multiple choice add hit and log. The contents are invented.
VLMEVALKIT = pd.DataFrame({
    "index": [0, 1, 2, 3], "question": ["Is there a cup in the image?"] * 4, "answer": ["Yes", "No", "No", "Yes"],
    "category": ["random", "popular", "adversarial", "random"], "image_path": ["a.jpg", "a.jpg", "b.jpg", "b.jpg"],
    "prediction": ["Yes, 95%", "No. I am 60% sure.", "Yes", "Failed to obtain answer via API."],
})  # fmt: skip


def write(path: Path, rows: list[tuple] = TABLE, columns: str = "id,image,confidence,correct", separator: str = ","
          ) -> Path:  # fmt: skip
    lines = [columns.replace(",", separator), *(separator.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def values(read: Replies, column: str) -> list[Any]:
    return [None if pd.isna(value) else value for value in read.table[column]]


# ---------------------------------------------------------------------------------------------------------- tables


def written(folder: Path, suffix: str) -> Path:
    """Write TABLE in a format."""
    path = folder / f"replies{suffix}"
    frame = pd.DataFrame(TABLE, columns=["id", "image", "confidence", "correct"])
    frame["confidence"] = pd.to_numeric(frame["confidence"])
    frame["correct"] = frame["correct"] == "true"
    if suffix == ".csv":
        return write(path)
    if suffix == ".tsv":
        return write(path, separator="\t")
    if suffix == ".jsonl":
        return write_lines(path, json.loads(frame.to_json(orient="records")))
    if suffix == ".json":
        path.write_text(frame.to_json(orient="records"))
    else:
        (frame.to_parquet if suffix == ".parquet" else frame.to_excel)(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".xlsx"])
def test_every_format_gives_the_same_table(tmp_path: Path, suffix: str) -> None:
    read = read_replies(written(tmp_path, suffix))
    assert list(read.table) == COLUMNS and read.form == "table"
    assert values(read, "confidence") == [90.0, 25.0, None] and values(read, "correct") == [1.0, 0.0, 1.0]
    assert values(read, "reason") == [None, None, "empty"] and values(read, "id") == ["1", "2", "3"]
    assert list(read.groups) == ["a.jpg", "a.jpg", "b.jpg"]
    assert values(read, "row")[0] == (2 if suffix in (".csv", ".tsv", ".xlsx") else 1)  # the first line names columns


def test_semicolons_decimal_commas_byte_order_marks_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeffConfidence;Is correct\r\n0,9;1\r\n\r\n85 %;0\r\n", encoding="utf-8")
    read = read_replies(path)
    assert values(read, "confidence") == [90.0, 85.0] and values(read, "correct") == [1.0, 0.0]
    assert read.groups is None and values(read, "row") == [2, 4]


def test_a_row_is_named_by_the_line_on_which_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('reply,correct\n"Yes,\nI think.\n80%",1\n"No, 1.5%",true\n50%,maybe\n', encoding="utf-8")
    with pytest.raises(UserError, match="correct is the text 'maybe' in row 6"):
        read_replies(path)


def test_texts_in_the_column_of_confidences_are_read_about_the_answer(tmp_path: Path) -> None:
    rows = [("Yes", "I am 90% certain that there is a cup in the image.", 1),
            ("Yes", "I am 90% certain that there is no cup in the image.", 0), ("No", "about 0.4", 0),
            ("No", "between 40 and 60%", 1), ("No", "certain", 1), ("No", "140%", 0), ("No", "N/A", 0)]  # fmt: skip
    read = read_replies(write(tmp_path / "a.csv", rows, "answer,confidence,correct"))
    assert values(read, "confidence") == [90.0, None, 40.0, None, None, None, None]
    assert values(read, "reason") == [None, "other answer", None, "range", "none", "out of range", "empty"]
    assert read.unread.set_index("reason")["right"].to_dict() == {
        "other answer": 0, "range": 1, "none": 1, "out of range": 0, "empty": 0}
    assert set(read.unread["reason"]) <= set(REASONS) and read.unread["meaning"].str.len().min() > 5
    assert read.unread.set_index("reason").at["range", "example"] == "between 40 and 60%"


def test_answers_are_judged_by_the_truth_where_no_column_says_what_is_right(tmp_path: Path) -> None:
    rows = [{"reply": "Yes, 90%", "label": "yes"}, {"reply": "No, 80%", "label": "yes"},
            {"reply": "Perhaps. 80%", "label": "no"}, {"reply": "", "label": "no"}, {"reply": None, "label": "no"},
            {"reply": "Yes, 70%", "label": None}]  # fmt: skip
    read = read_replies(write_lines(tmp_path / "a.jsonl", rows))
    assert read.roles["truth"] == "label" and values(read, "answer") == ["Yes", "No", None, None, None, "Yes"]
    assert values(read, "correct") == [1.0, 0.0, 0.0, 0.0, 0.0, None]
    assert values(read, "reason") == [None, None, "no answer", "empty", "empty", None]


def test_a_reply_that_the_token_budget_cut_is_read_with_care(tmp_path: Path) -> None:
    rows = [{"reply": "I would say 9", "correct": 1, "finish_reason": reason} for reason in ("stop", "length")]
    read = read_replies(write_lines(tmp_path / "a.jsonl", rows))
    assert values(read, "reason")[1] == "cut" and values(read, "confidence")[1] is None
    assert values(read, "reason")[0] != "cut"


def test_columns_can_be_named_or_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [("x", 90, 1, 7), ("x", 80, 0, 7)], "id,p,ok,picture")
    read = read_replies(path, {"confidence": "p", "correct": "ok", "group": "picture", "id": None})
    assert values(read, "confidence") == [90.0, 80.0] and list(read.groups) == ["7", "7"]
    assert "group from picture" in read.notes[0] and "id" not in read.roles


def test_several_models_in_one_file_are_said(tmp_path: Path) -> None:
    read = read_replies(write(tmp_path / "a.csv", [("m", 90, 1), ("n", 80, 0)], "model,confidence,correct"))
    assert "The column model has 2 different values; all rows are measured together." in read.notes


# --------------------------------------------------------------------------------------------- lmms-eval and VLMEvalKit


def test_samples_of_lmms_eval(tmp_path: Path) -> None:
    read = read_replies(write_lines(tmp_path / "20250101_samples_pope.jsonl", LMMS))
    assert read.form == "lmms-eval" and read.groups is None
    assert values(read, "answer") == ["Yes", "Yes", "No", None, "No"]
    assert values(read, "correct") == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert values(read, "confidence") == [90.0, 80.0, None, None, 70.0]
    assert values(read, "reason") == [None, None, "none", "no answer", None]
    own = "The file's own score pope_accuracy.score differs from the answer that was read in 2 of 5 rows."
    assert own in read.notes  # it compares "yes, 90%" with "yes"
    assert values(read, "question")[0].startswith("Is there a cup")


def test_samples_of_lmms_eval_with_the_replies_before_a_filter_and_the_document(tmp_path: Path) -> None:
    """An older version keeps the document; resps is there where a filter changed the reply."""
    rows = [lmms_sample(n, "yes", "yes", resps=[[f"Yes, {c}%"]], doc={"question_id": str(n), "image_id": image})
            for n, c, image in ((0, 90, "x"), (1, 70, "x"))]  # fmt: skip
    read = read_replies(write_lines(tmp_path / "a_samples_pope.jsonl", rows))
    assert values(read, "confidence") == [90.0, 70.0] and list(read.groups) == ["x", "x"]


def test_a_task_of_lmms_eval_that_is_no_yes_no_task_takes_its_score(tmp_path: Path) -> None:
    rows = [{"doc_id": n, "target": "B", "filtered_resps": ["B\nConfidence: 75%"], "exact_match": score,
             "input": "?"} for n, score in ((0, 1.0), (1, 0.0))]  # fmt: skip
    read = read_replies(write_lines(tmp_path / "a.jsonl", rows))
    assert values(read, "correct") == [1.0, 0.0] and values(read, "confidence") == [75.0, 75.0]
    two = [row | {"other_match": 1.0} for row in rows]
    with pytest.raises(UserError, match=r"name it in columns.*'exact_match' and 'other_match'"):
        read_replies(write_lines(tmp_path / "b.jsonl", two))
    assert values(read_replies(tmp_path / "b.jsonl", {"correct": "other_match"}), "correct") == [1.0, 1.0]


def test_a_task_scored_by_likelihoods_has_no_reply_to_read(tmp_path: Path) -> None:
    row = lmms_sample(0, "yes", "yes") | {"filtered_resps": [[-0.2, True], [-1.7, False]]}
    with pytest.raises(UserError, match=r"Row 1 of .* holds 2 replies; .*likelihoods"):
        read_replies(write_lines(tmp_path / "a.jsonl", [row]))


@pytest.mark.parametrize("suffix", [".xlsx", ".tsv", ".json"])
def test_predictions_of_vlmevalkit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model_POPE{suffix}"
    if suffix == ".xlsx":
        VLMEVALKIT.to_excel(path, index=False)
    elif suffix == ".tsv":
        VLMEVALKIT.to_csv(path, sep="\t", index=False, quoting=1)
    else:
        path.write_text(json.dumps(VLMEVALKIT.to_dict("records"), indent=4))
    read = read_replies(path)
    assert read.form == "vlmevalkit" and list(read.groups) == ["a.jpg", "a.jpg", "b.jpg", "b.jpg"]
    assert values(read, "confidence") == [95.0, 60.0, None, None]
    assert values(read, "correct") == [1.0, 1.0, 0.0, None]  # of a failed request nothing is known
    assert values(read, "reason") == [None, None, "none", "failed"]
    assert any("category has 3 different values" in note for note in read.notes)


def test_judged_files_of_vlmevalkit(tmp_path: Path) -> None:
    yes_no = VLMEVALKIT.assign(extracted=["Yes", "No", "Yes", "Unknown"], score=[True, True, False, False])
    yes_no.to_excel(tmp_path / "m_POPE_auxmatch.xlsx", index=False)
    read = read_replies(tmp_path / "m_POPE_auxmatch.xlsx")
    assert values(read, "correct") == [1.0, 1.0, 0.0, None]
    choice = pd.DataFrame({
        "index": [1, 2], "question": ["?"] * 2, "A": ["x"] * 2, "B": ["y"] * 2, "answer": ["A", "B"],
        "prediction": ["A\nConfidence: 90%", "A. I am 60% sure."], "hit": [1, 0], "log": [""] * 2,
    })  # fmt: skip
    choice.to_excel(tmp_path / "m_MMBench_result.xlsx", index=False)
    read = read_replies(tmp_path / "m_MMBench_result.xlsx")
    assert values(read, "correct") == [1.0, 0.0] and values(read, "confidence") == [90.0, 60.0]


# ----------------------------------------------------------------------------------------------------------- refusals

BAD = {
    "mixed scales": ("confidence,correct\n0.9,1\n85,0\n", "In .*confidence is 0.9 in row 2 and 85 in row 3, so 0"),
    "texts as correctness": ("confidence,correct\n0.9,cat\n", "correct is the text 'cat' in row 2"),
    "the same id": ("id,confidence,correct\n7,0.9,1\n8,0.8,1\n7,0.7,0\n", "has the id '7' in rows 2 and 4; keep one"),
    "no correctness": ("confidence,x\n0.9,1\n", r"known to hold whether each answer was right .*'confidence' and 'x'"),
    "no confidence": ("x,correct\n0.9,1\n", "known to hold a confidence, nor for replies"),
    "a cell too many": ("confidence,correct\n0.9,1\n0.8,1,2\n", "Line 3 of .* has 3 cells and the first line 2"),
    "a cell too few": ("confidence,correct\n0.9\n", "Line 2 of .* has 1 cells and the first line 2"),
    "two columns of a name": ("confidence,correct,correct\n0.9,1,1\n", "has two columns 'correct'"),
    "no rows": ("confidence,correct\n", "has no rows"),
    "nothing": ("", "has no rows"),
    "an open quote": ('confidence,correct\n"0.9,1\n', "is no row of a table"),
    "above one hundred": ("confidence,correct\n90,1\n190,0\n", "confidence is 190 in row 3"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD.values(), ids=list(BAD))
def test_a_bad_table_ends_in_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=sentence) as caught:
        read_replies(tmp_path / "a.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("a.pkl", b"", "has the suffix '.pkl'; replies are read from .csv"),
    ("a.jsonl", b'{"confidence": 0.5, "correct": 1}\n{"conf', "Line 2 of .* is not JSON"),
    ("a.jsonl", b"[1, 2]\n", "Line 1 of .* is no object"), ("a.json", b'{"a": 1}', "is no list of replies"),
    ("a.json", b"[3]", "Entry 1 of .* is no object"), ("a.parquet", b"PAR", "cannot be read as Parquet"),
    ("a.xlsx", b"PK", "is no Excel file"), ("a.csv", b"confidence,correct\n0.9,\xff\n", "is not text in UTF-8"),
    ("a.csv", b"\x1f\x8b\x08", "is compressed"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_ends_in_one_sentence(tmp_path: Path, name: str, content: bytes, sentence: str
                                                         ) -> None:  # fmt: skip
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_replies(tmp_path / name)


def test_wrong_arguments_end_in_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv")
    for arguments, sentence in (
        ({"columns": {"confidense": "confidence"}}, "did you mean 'confidence'"),
        ({"columns": {"confidence": "confidense"}}, "has no column 'confidense'"),
        ({"form": "lmms_eval"}, "did you mean 'lmms-eval'"), ({"scale": "per cent"}, "There is no scale"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=sentence):
            read_replies(path, **arguments)
    with pytest.raises(UserError, match=r"nothing\.csv is missing"):
        read_replies(tmp_path / "nothing.csv")


def test_ids_may_repeat_where_that_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [(7, "a", 0.9, 1), (7, "a", 0.8, 0)])
    assert len(read_replies(path, {"id": None}).table) == 2


def test_equal_rows_without_an_id_are_said(tmp_path: Path) -> None:
    rows = [("Yes, 90%", 1), ("Yes, 90%", 1), ("Yes, 90%", 0), ("Yes, 90%", 1)]
    read = read_replies(write(tmp_path / "a.csv", [(f'"{reply}"', right) for reply, right in rows], "reply,correct"))
    assert "2 rows equal an earlier row in every column; each counts." in read.notes and len(read.table) == 4
    only_numbers = read_replies(write(tmp_path / "b.csv", [(90, 1), (90, 1)], "confidence,correct"))
    assert not any("earlier row" in note for note in only_numbers.notes)


def test_a_one_among_percents_is_said_if_it_is_a_bare_number(tmp_path: Path) -> None:
    bare = read_replies(write(tmp_path / "a.csv", [(1, 1), (90, 0)], "confidence,correct"))
    assert any("1 confidence of exactly 1 count" in note for note in bare.notes) and values(bare, "confidence")[0] == 1
    marked = read_replies(write(tmp_path / "b.csv", [("1%", 1), (90, 0)], "confidence,correct"))
    assert not any("exactly 1" in note for note in marked.notes) and values(marked, "confidence")[0] == 1


def test_every_row_has_a_confidence_or_a_reason(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = ["Yes", "No", ", ", "90%", "0.5", "I am sure", "between 10 and", "%", "\n", "wrong", "200%", "Confidence:"]
    rows = [{"reply": " ".join(rng.choice(parts, size=rng.integers(0, 6))), "target": "yes"} for _ in range(300)]
    read = read_replies(write_lines(tmp_path / "a.jsonl", rows))
    assert (read.table["confidence"].isna() == read.table["reason"].notna()).all() and len(read.table) == 300
    assert read.table["confidence"].dropna().between(0, 100).all() and set(read.unread["reason"]) <= set(REASONS)
    assert read.unread["n"].sum() == read.table["reason"].notna().sum() > 0
