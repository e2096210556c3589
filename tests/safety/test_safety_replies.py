"""Replies and their statuses, and the reply files of the official collection."""

import pandas as pd
import pytest
from safety_sets import image_side, official_folder, replied, sheet, text_side

from csp_utils.base.errors import UserError
from csp_utils.safety import official, rates
from csp_utils.safety.guard import reveal
from csp_utils.safety.judges.rules import read_rules
from csp_utils.safety.judges.verdicts import judge_replies
from csp_utils.safety.replies import STATUSES, complete, read_official_replies, status_counts, status_of
from csp_utils.safety.sets.vscbench import RENDERINGS, read_vscbench

NO, YES = "I’m sorry, but I can’t help with that.", "Every day at noon."


@pytest.fixture
def items(tmp_path):
    return read_vscbench(official_folder(tmp_path))


def collected(path, rows, model="gpt4o", say=lambda row, label, slot: YES):
    """A file of replies in the official form, image side."""
    return sheet(path, [row | {f"{label}_resp_{model}_{slot}": say(number, label, slot)
                               for label in ("unsafe", "safe") for slot in range(3)}
                        for number, row in enumerate(rows)])  # fmt: skip


@pytest.mark.parametrize(("raw", "ended", "failed", "status"), [
    ("Yes.", True, False, "ok"), ("Yes, the", False, False, "cut"), (" \n", True, False, "empty"),
    ("", False, False, "empty"), (None, True, False, "missing"), ("HTTP 500", True, True, "error"),
])  # fmt: skip
def test_every_failure_has_a_status_of_its_own(raw, ended, failed, status):
    assert status_of(raw, ended, failed) == status and status in STATUSES


def test_items_without_a_reply_get_a_row_of_status_missing(items):
    replies = complete(replied(items).iloc[::2], items)
    assert list(replies["item_id"]) == list(items.table["item_id"])
    assert dict(replies["status"].value_counts()) == {"ok": 38, "missing": 38}
    counts = status_counts(replies, items)
    assert counts["n"].sum() == 76 and set(counts["label"]) == {"safe", "unsafe"}


def test_wrong_tables_of_replies_are_one_sentence(items):
    replies = replied(items)
    with pytest.raises(UserError, match="lacks the columns draw and raw"):
        complete(replies.drop(columns=["draw", "raw"]), items)
    with pytest.raises(UserError, match="the status 'fine'; valid are ok, cut"):
        complete(replies.assign(status="fine"), items)
    with pytest.raises(UserError, match="two replies to vscbench/image/drugs/0/safe/0"):
        complete(pd.concat([replies, replies.head(1)]), items)


def test_official_replies_of_both_sides_find_their_items(items, tmp_path):
    path = collected(tmp_path / "r.xlsx", image_side(), say=lambda row, label, slot: f"{label} {row} {slot}")
    replies = read_official_replies(path, items, "image")
    assert set(replies["model"]) == {"gpt4o"} and len(replies) == 36 and set(replies["status"]) == {"ok"}
    said = {row.item_id: reveal(row.raw) for row in replies.itertuples()}
    assert said["vscbench/image/violence/2/unsafe/1"] == "unsafe 5 1"  # the sixth row of the sheet

    rows = [row | {f"resp_{name}": f"{name} {number}" for name in (*RENDERINGS, "txt")}
            for number, row in enumerate(text_side())]  # fmt: skip
    replies = read_official_replies(sheet(tmp_path / "t.xlsx", rows), items, "text", "closed")
    said = {row.item_id: reveal(row.raw) for row in replies.itertuples()}
    assert len(said) == 40 and said["vscbench/text/7/concat"] == "concat 7" and set(replies["model"]) == {"closed"}


def test_an_empty_cell_is_missing_and_not_a_refusal(items, tmp_path):
    path = collected(tmp_path / "r.xlsx", image_side(), say=lambda row, label, slot: None if slot else YES)
    replies = read_official_replies(path, items, "image")
    assert dict(replies["status"].value_counts()) == {"missing": 24, "ok": 12}


def test_a_file_of_one_category_leaves_the_others_missing(items, tmp_path):
    replies = read_official_replies(collected(tmp_path / "r.xlsx", image_side()[3:]), items, "image")
    violence = replies["item_id"].str.contains("violence")
    assert (replies["status"] == "ok").equals(violence) and violence.sum() == 18


def test_wrong_files_of_replies_are_one_sentence(items, tmp_path):
    with pytest.raises(UserError, match="holds no replies"):
        read_official_replies(sheet(tmp_path / "a.xlsx", image_side()), items, "image")
    path = collected(tmp_path / "b.xlsx", image_side())
    with pytest.raises(UserError, match="holds the replies of gpt4o; name one of them"):
        read_official_replies(path, items, "image", "gemini")
    with pytest.raises(UserError, match=r"has another prompt at 12 items \(first: vscbench/image/violence/0/safe/0\)"):
        read_official_replies(collected(tmp_path / "c.xlsx", image_side()[::-1][1:-1]), items, "image")
    with pytest.raises(UserError, match="has no item of the set"):
        read_official_replies(collected(tmp_path / "f.xlsx", image_side(("religion",))), items, "image")
    both = [row | {f"{label}_resp_{model}_{slot}": YES for label in ("safe", "unsafe") for slot in range(3)
                   for model in ("x", "y")} for row in image_side()]  # fmt: skip
    with pytest.raises(UserError, match="holds the replies of x and y"):
        read_official_replies(sheet(tmp_path / "d.xlsx", both), items, "image")
    with pytest.raises(UserError, match="lacks the columns resp_search, resp_typography, resp_concat and resp_figstep"):
        read_official_replies(sheet(tmp_path / "e.xlsx", text_side()), items, "text")


# ------------------------------------------------------------------------------------------- from a file to its scores


def scored(path, items, side="image"):
    replies = read_official_replies(path, items, side)
    return rates.with_items(judge_replies(items, replies, read_rules()).table, items)


def sra(rows):
    return rates.table(rows, 0, 0).set_index("measure")["value"]


def test_the_official_formula_on_an_official_file_is_our_sra(items, tmp_path):
    def say(row, label, slot):
        return NO if label == "unsafe" and row % 2 == 0 or label == "safe" and slot == 2 else YES

    rows = scored(collected(tmp_path / "r.xlsx", image_side(), say=say), items)
    theirs = official.official_scores(rows).set_index("label")["value"]
    ours = sra(rows)
    # By hand: of 18 safe replies the 6 of slot 2 decline; of 18 unsafe ones the 9 of rows 0, 2 and 4.
    assert theirs["safe"] == pytest.approx(12 / 18) and theirs["unsafe"] == pytest.approx(9 / 18)
    assert theirs["mean"] == pytest.approx((12 / 18 + 9 / 18) / 2)
    assert [ours["sra_safe"], ours["sra_unsafe"], ours["sra"]] == pytest.approx(list(theirs))


def test_the_text_side_has_an_accuracy_for_each_rendering(items, tmp_path):
    rows = [row | {f"resp_{name}": NO if name == "concat" or "contrast" in row["type"] else YES for name in RENDERINGS}
            for row in text_side()]  # fmt: skip
    theirs = official.official_scores(scored(sheet(tmp_path / "t.xlsx", rows), items, "text"))
    found = theirs.set_index(["part", "label"])["value"]
    assert found["concat", "safe"] == 0 and (found.drop(("concat", "safe")) == 1).all() and len(found) == 8


def test_a_run_without_any_reply_has_no_sra_and_not_100(items, tmp_path):
    rows = scored(collected(tmp_path / "r.xlsx", image_side(), say=lambda *_: None), items)
    ours = rates.table(rows, 100, 0).set_index("measure").loc["sra"]
    assert pd.isna(ours["value"]) and ours["failed"] == 36 and ours["reason"] == "no verdict on safe items"
    assert (ours["least"], ours["most"]) == (0, 1)
    assert official.official_scores(rows)["value"].isna().all()
    # What the official scripts print of such a run, only where it is asked for.
    theirs = official.official_scores(rows, "as refusals").set_index("label")
    assert theirs["value"].tolist() == [0, 1, 0.5] and theirs.loc["mean", "failed"] == 36
