"""Nothing of an external set is shown, saved by accident, or published."""

import copy
import io
import json
import logging
import pickle

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safety_sets import SECRET, image_side, official_folder, picture, replied

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_parquet
from csp_utils.safety.guard import Withheld, as_id, check_publishable, is_sexual, public, reveal
from csp_utils.safety.replies import complete
from csp_utils.safety.sets.items import COLUMNS, make_items
from csp_utils.safety.sets.vscbench import read_vscbench


@pytest.fixture
def items(tmp_path):
    return read_vscbench(official_folder(tmp_path, image_side()))


def shown(table):
    """Everything that shows a table: in a notebook, a log, a file, an error."""
    buffer = io.StringIO()
    table.to_csv(buffer)
    table.info(buf=buffer)
    values = [repr(table), table._repr_html_(), table.to_string(), table.to_html(), str(table.to_dict()),
              table.describe().to_string(), buffer.getvalue(), repr(table.head(1).T)]  # fmt: skip
    values += [repr(table[name]) for name in table] + [str(list(table[name])) for name in table]
    return "\n".join(values)


def test_no_form_of_the_table_shows_a_request_or_a_file_name(items):
    with pd.option_context("display.max_columns", None, "display.max_colwidth", None, "display.max_rows", None):
        seen = shown(items.table) + repr(items) + items._repr_html_() + shown(items.counts()) + shown(items.dropped)
        assert SECRET not in seen and "unsafe_drugs_0_0.png" not in seen
        assert "characters" in repr(items.table["text"].iloc[0])
        assert SECRET in reveal(items.table["text"].iloc[0])


def test_withheld_texts_go_into_no_file(items, tmp_path):
    with pytest.raises(Exception, match="(?i)convert|withheld|type") as error:
        write_parquet(items.table, tmp_path / "items.parquet")
    assert SECRET not in str(error.value) and not (tmp_path / "items.parquet").exists()
    cell = items.table["text"].iloc[0]
    for write in (pickle.dumps, json.dumps):
        with pytest.raises(TypeError):
            write(cell)
    with pytest.raises(TypeError):
        items.table.to_pickle(tmp_path / "items.pkl")
    assert SECRET not in items.table.to_json()
    assert SECRET.encode() not in (tmp_path / "items.pkl").read_bytes()  # pandas has begun to write it


def test_what_is_saved_has_lengths_instead_of_texts(items, tmp_path):
    table = items.public()
    write_parquet(table, tmp_path / "items.parquet")
    read = pd.read_parquet(tmp_path / "items.parquet")
    assert list(read["text_length"]) == [len(reveal(text)) for text in items.table["text"]]
    assert not {"text", "request", "image", "path", "partner_phrase"} & set(read)
    assert list(read["item_id"]) == list(items.table["item_id"])
    assert SECRET.encode() not in (tmp_path / "items.parquet").read_bytes()


def test_replies_to_external_items_are_withheld_as_well(items, caplog):
    replies = complete(replied(items, f"Water the {SECRET} every day."), items)
    logging.getLogger().warning("%s %s", replies, replies["raw"].iloc[0])
    assert SECRET not in shown(replies) + caplog.text
    assert reveal(replies["raw"].iloc[0]) == f"Water the {SECRET} every day."
    assert list(public(replies)["raw_length"].unique()) == [27]


def test_the_house_set_is_shown_as_it_is(tmp_path):
    picture(tmp_path / "0.png")
    row = dict.fromkeys(COLUMNS, "x") | {"item_id": "i", "set": "house", "label": "safe", "text": "Is it red?",
                                         "path": str(tmp_path / "0.png"), "pair": None}  # fmt: skip
    items = make_items(pd.DataFrame([row]))
    assert items.table["text"].iloc[0] == "Is it red?" and items.public().equals(items.table)


@given(st.text(), st.text())
def test_a_withheld_text_is_equal_to_the_same_text_alone_and_shows_its_length(first, second):
    one, other = Withheld(first), Withheld(second)
    assert (one == other) == (first == second) and (hash(one) == hash(other) or first != second)
    assert repr(one) == str(one) == f"{one}" == f"<text withheld: {len(first)} characters>"
    assert one != first and one.reveal() == first and copy.deepcopy([one]) == [one]


def test_only_what_is_made_from_the_house_set_is_published():
    check_publishable(["house"], "The checkpoint")
    check_publishable([], "The page")
    with pytest.raises(UserError, match="The checkpoint is made from the external set vscbench and is not published"):
        check_publishable(["house", "vscbench"], "The checkpoint")


@pytest.mark.parametrize(("category", "sexual"), [
    ("porngraphy", True), ("Pornography", True), ("sexual_content", True), ("nudity", True), ("NSFW", True),
    ("drugs", False), ("discrimination", False), ("essay", False),
])  # fmt: skip
def test_sexual_categories_are_known_by_their_names(category, sexual):
    assert is_sexual(category) == sexual


def test_ids_stay_and_sentences_become_digests():
    assert as_id("row-12/a.b:3") == "row-12/a.b:3"
    assert as_id("how high is it?") == as_id("how high is it?") != as_id("how low is it?")
    assert " " not in as_id("how high is it?")
