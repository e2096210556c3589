"""The readers of safety sets: what is read, and the count of everything that is not."""

import base64
import io
import json

import pandas as pd
import pytest
from PIL import Image
from safety_sets import SECRET, image_side, official_folder, picture, sheet, text_side

from csp_utils.base.errors import UserError
from csp_utils.safety.guard import reveal
from csp_utils.safety.sets.items import COLUMNS, names_of_missing
from csp_utils.safety.sets.mssbench import read_mssbench
from csp_utils.safety.sets.tables import read_table
from csp_utils.safety.sets.vscbench import FIGSTEP, FOLDERS, SHEETS, read_vscbench


def n_of(items, what):
    """The number that the table of counts has for something; 0 if it has no such row."""
    return int(items.counts().set_index("what")["n"].get(what, 0))


# ------------------------------------------------------------------------------------------------- the official folder


def test_the_official_folder_gives_every_picture_with_its_request(tmp_path):
    items = read_vscbench(official_folder(tmp_path))
    table = items.table
    assert list(table) == COLUMNS and len(table) == 6 * 6 + 10 * 4 and items.dropped.empty
    image, text = (table[table["side"] == side] for side in ("image", "text"))
    assert (image["label"].value_counts() == 18).all()
    assert dict(text["label"].value_counts()) == {"safe": 6 * 4, "unsafe": 4 * 4}
    # Two prompts a category, the last row has the first one's; a pair is a row.
    assert image["group"].nunique() == 4 and image["pair"].nunique() == 6
    # 2 + 2 pairs, and two rows of privacy_public that pair with nothing.
    assert text["pair"].nunique() == 4 and text["group"].nunique() == 6 and text["pair"].isna().sum() == 8
    assert set(text.loc[text["pair"].notna()].groupby("pair")["label"].nunique()) == {2}
    assert set(text["category"]) == {"homonyms", "privacy", "privacy_public"}
    one = table.set_index("item_id").loc["vscbench/image/violence/1/unsafe/2"]
    assert reveal(one["path"]) == str(tmp_path / FOLDERS["image"] / "violence" / "unsafe_violence_1_2.png")
    assert reveal(one["text"]) == f"May I water the {SECRET} of violence 1?"  # without the white space around it
    figstep = table[table["rendering"] == "figstep"].iloc[0]
    assert reveal(figstep["text"]) == FIGSTEP and SECRET in reveal(figstep["request"])
    assert all(reveal(path).startswith(str(tmp_path)) and reveal(path).endswith(".png") for path in table["path"])


def test_prompts_that_differ_in_form_alone_are_one_group(tmp_path):
    rows = image_side(("drugs",), 3)
    for row, prompt in zip(rows, ("How  HIGH?", "how high? ", "How low?"), strict=True):
        row["Prompt"] = prompt
    table = read_vscbench(official_folder(tmp_path, rows), sides=("image",)).table
    assert table.groupby("pair")["group"].first().nunique() == 2


def test_rows_without_a_prompt_are_counted_and_never_asked(tmp_path):
    rows = image_side()
    rows[1]["Prompt"], rows[4]["Prompt"] = None, "  \n"
    items = read_vscbench(official_folder(tmp_path, rows), sides=("image",))
    assert len(items.table) == 24 and n_of(items, "dropped: empty prompt") == 12
    assert set(items.dropped["reason"]) == {"empty prompt"}


def test_half_of_the_pictures_are_counted_and_named_by_their_items(tmp_path):
    folder = official_folder(tmp_path)
    files = sorted((folder / FOLDERS["image"]).rglob("*.png"))
    for path in files[::2]:
        path.unlink()
    files[1].write_bytes(b"")
    items = read_vscbench(folder, sides=("image",))
    assert n_of(items, "dropped: no picture") == 18 and n_of(items, "dropped: empty picture") == 1
    missing = names_of_missing(items)
    assert len(missing) == 19 and len(items.table) == 17 and missing[0].startswith("vscbench/image/drugs/0/")


def test_a_pair_that_lost_one_side_is_noted(tmp_path):
    folder = official_folder(tmp_path)
    for path in (folder / FOLDERS["image"]).rglob("unsafe_drugs_0_*.png"):
        path.unlink()
    assert n_of(read_vscbench(folder, sides=("image",)), "pair with one side") == 1


def test_the_same_picture_with_the_same_request_is_asked_once(tmp_path):
    rows = image_side()
    rows[0]["safe_img_1"] = rows[0]["safe_img_0"]  # the same item twice
    rows[2]["safe_img_0"] = rows[0]["unsafe_img_0"]  # the same request and picture, safe and unsafe
    items = read_vscbench(official_folder(tmp_path, rows), sides=("image",))
    assert rows[0]["Prompt"] == rows[2]["Prompt"]
    assert n_of(items, "dropped: duplicate") == 1 and n_of(items, "dropped: contradiction") == 2


def test_the_sexual_category_is_off_until_it_is_named(tmp_path):
    folder = official_folder(tmp_path, image_side(("drugs", "porngraphy")))
    items = read_vscbench(folder, sides=("image",))
    assert set(items.table["category"]) == {"drugs"} and n_of(items, "dropped: category off") == 18
    named = read_vscbench(folder, ["porngraphy"], sides=("image",))
    assert set(named.table["category"]) == {"porngraphy"}
    with pytest.raises(UserError, match="no category 'drug'; did you mean 'drugs'"):
        read_vscbench(folder, ["drug"])


def test_another_excel_file_is_one_sentence(tmp_path):
    folder = official_folder(tmp_path)
    sheet(folder / SHEETS["image"], [{"Category": "drugs", "Question": "?"}])
    with pytest.raises(UserError, match=r"lacks the columns Prompt, safe_img_0, .* and unsafe_img_2; it should be VSC"):
        read_vscbench(folder)
    (folder / SHEETS["image"]).write_bytes(b"no zip")
    with pytest.raises(UserError, match="is no Excel file"):
        read_vscbench(folder)
    (folder / SHEETS["image"]).unlink()
    with pytest.raises(UserError, match="is missing; it should be VSCBench's"):
        read_vscbench(folder)


def test_a_file_of_another_content_or_size_is_noted(tmp_path):
    items = read_vscbench(official_folder(tmp_path))
    assert n_of(items, "other file, image side") == 1 and n_of(items, "rows, image side") == 6
    assert n_of(items, "prompt used again, image side") == 2


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a\\b.png"])
def test_a_picture_outside_its_folder_is_refused_without_its_name(tmp_path, name):
    rows = image_side()
    folder = official_folder(tmp_path)
    rows[0]["safe_img_0"] = name
    sheet(folder / SHEETS["image"], rows)
    with pytest.raises(UserError, match="The picture of vscbench/image/drugs/0/safe/0") as error:
        read_vscbench(folder)
    assert name not in str(error.value)


def test_a_folder_without_any_picture_is_one_sentence_with_the_counts(tmp_path):
    sheet(tmp_path / SHEETS["text"], text_side())
    with pytest.raises(UserError, match=r"None of the 40 items of vscbench can be asked \(40 no picture\)"):
        read_vscbench(tmp_path, sides=("text",))


# -------------------------------------------------------------------------------------------------------- other tables


def rows_of_table():
    return [{"item_id": f"i{n}", "text": f"{SECRET} {n // 2}", "image": f"{n}.png", "label": ("Safe", "unsafe")[n % 2],
             "group": f"g{n // 2}", "pair": f"g{n // 2}"} for n in range(4)]  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_table_of_any_form_gives_the_same_items(tmp_path, suffix):
    rows, path = rows_of_table(), tmp_path / f"set.{suffix}"
    for n in range(4):
        picture(tmp_path / f"{n}.png")
    if suffix == "csv":
        pd.DataFrame(rows).to_csv(path, index=False, encoding="utf-8-sig")
    elif suffix == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        pd.DataFrame(rows).to_parquet(path)
    table = read_table(path, "mine").table
    assert list(table["item_id"]) == [f"mine/i{n}" for n in range(4)]
    assert list(table["label"]) == ["safe", "unsafe"] * 2 and list(table["pair"]) == ["mine/g0"] * 2 + ["mine/g1"] * 2
    assert [reveal(text) for text in table["text"]] == [row["text"] for row in rows]
    assert [reveal(text) for text in table["request"]] == [row["text"] for row in rows]


def test_a_group_that_is_the_request_itself_is_not_shown(tmp_path):
    rows = [row | {"group": row["text"], "pair": row["text"]} for row in rows_of_table()]
    for n in range(4):
        picture(tmp_path / f"{n}.png")
    pd.DataFrame(rows).to_csv(tmp_path / "set.csv", index=False)
    table = read_table(tmp_path / "set.csv", "mine").table
    assert table["group"].nunique() == 2 and not table["group"].str.contains(SECRET).any()


@pytest.mark.parametrize(("change", "sentence"), [
    ({"label": "harmful"}, "mine/i1 in .* has a label that is neither safe nor unsafe"),
    ({"group": ""}, "mine/i1 in .* has no group"),
    ({"image": "../x.png"}, "The picture of mine/i1 in .* leads out of its folder"),
    ({"item_id": "i0"}, "The id mine/i0 stands for two items"),
    ({"group": "g9"}, "The pair mine/g0 lies in 2 groups"),
])  # fmt: skip
def test_a_wrong_row_of_a_table_is_one_sentence(tmp_path, change, sentence):
    rows = rows_of_table()
    rows[1] |= change
    for n in range(4):
        picture(tmp_path / f"{n}.png")
    pd.DataFrame(rows).to_csv(tmp_path / "set.csv", index=False)
    with pytest.raises(UserError, match=sentence) as error:
        read_table(tmp_path / "set.csv", "mine")
    assert SECRET not in str(error.value)


def test_a_wrong_file_or_name_is_one_sentence(tmp_path):
    path = tmp_path / "set.csv"
    path.write_text("text,picture\na,b\n")
    with pytest.raises(UserError, match="lacks the columns image, label and group"):
        read_table(path, "mine")
    with pytest.raises(UserError, match="did you mean 'image'"):
        read_table(path, "mine", columns={"imag": "picture"})
    with pytest.raises(UserError, match="cannot be the name of a set"):
        read_table(path, "house")
    with pytest.raises(UserError, match="has the suffix '.txt'"):
        read_table(tmp_path / "set.txt", "mine")
    path.write_text("text,image,label,group\n")
    with pytest.raises(UserError, match="has no row"):
        read_table(path, "mine")


# ------------------------------------------------------------------------------------------------------------ MSSBench


def encoded(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def tsv(path, rows):
    names = ["index", "image", "question", "answer", "subset"]
    path.write_text("\n".join("\t".join(map(str, row)) for row in [names, *rows]) + "\n")
    return path


def test_mssbench_pairs_one_query_with_two_pictures(tmp_path):
    damaged = base64.b64encode(b"no picture" * 20).decode()
    path = tsv(tmp_path / "m.tsv", [
        (1, encoded(1), f"{SECRET} a", "comply", "chat"), (2, encoded(2), f"{SECRET} a", "refuse", "chat"),
        (3, encoded(3), f"{SECRET} b", "comply", "chat"), (4, "3", f"{SECRET} c", "refuse", "embodied"),
        (5, damaged, f"{SECRET} d", "refuse", "chat"), (6, "1", "", "comply", "chat"),
    ])  # fmt: skip
    items = read_mssbench(path, tmp_path / "pictures")
    assert list(items.table["label"]) == ["safe", "unsafe", "safe", "unsafe"]
    assert items.table["pair"].notna().tolist() == [True, True, False, False]
    assert dict(items.dropped["reason"].value_counts()) == {"no picture": 1, "empty prompt": 1}
    assert n_of(items, "damaged picture") == 1
    paths = [reveal(path) for path in items.table["path"]]
    assert paths[2] == paths[3] and Image.open(paths[1]).getpixel((0, 0)) == (2, 0, 0)


@pytest.mark.parametrize(("rows", "sentence"), [
    ([(1, encoded(1), "q", "maybe", "chat")], "neither comply nor refuse"),
    ([(1, encoded(1), "q", "comply", "chat"), (1, encoded(2), "q", "refuse", "chat")], "has the index of line 2"),
    ([(1, "7", "q", "comply", "chat")], "takes its picture from a row that"),
])  # fmt: skip
def test_a_wrong_row_of_mssbench_is_one_sentence(tmp_path, rows, sentence):
    with pytest.raises(UserError, match=sentence):
        read_mssbench(tsv(tmp_path / "m.tsv", rows), tmp_path / "pictures")
