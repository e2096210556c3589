"""Stage 02: every row gets its mask or the reason why not."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from stage_tools import photographs, rlaif_row, run_stage

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_parquet, write_parquet
from csp_utils.base.run import RunPaths
from csp_utils.data import rle
from csp_utils.data.images import image_key
from csp_utils.data.rlaif_v import read_rlaif_v, write_rlaif_v
from csp_utils.models import masks
from csp_utils.models.grounding_dino import Detection
from csp_utils.stages.mask import Mask

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "assets" / "tiny_world"


def png(shade: int, size: tuple[int, int] = (40, 20)) -> bytes:
    """A grey image: its shade tells the fakes below which one it is."""
    file = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def write_inputs(paths: RunPaths, rows: list[tuple[bytes, str | None]]) -> None:
    """RLAIF-V's file and keywords.parquet of rows (image file, keyword)."""
    write_rlaif_v(paths["data/rlaif_v/train.parquet"], [
        rlaif_row(i, image) for i, (image, _) in enumerate(rows)
    ])  # fmt: skip
    data = read_rlaif_v(paths["data/rlaif_v/train.parquet"]).rows
    words = [word for _, word in rows]
    reasons = [None if word else "no_keyword" for word in words]
    write_parquet(data[["row_id", "image_path", "question", "answer"]].assign(
        image_sha1=[image_key(image) for image, _ in rows], keyword=words, raw="", drop_reason=reasons),
        paths["keywords.parquet"])  # fmt: skip


@pytest.fixture
def paths(tmp_path):
    return RunPaths("r", tmp_path)


@pytest.fixture
def fake(monkeypatch):
    """Stand-ins for both models; returns the list of what GroundingDINO and SAM were asked.

    A keyword is a word and a list of boxes: "thing 0,0,10,10 5,5,20,20". SAM fills the box, unless the word is "thin".
    """
    asked = []

    def detect(detector, images, keywords, box_threshold, text_threshold, batch_size):
        asked.extend(("detect", image.getpixel((0, 0))[0], word) for image, word in zip(images, keywords, strict=True))
        found = [np.array([b.split(",") for b in word.rstrip(".").split()[1:]], np.float32).reshape(-1, 4)
                 for word in keywords]  # fmt: skip
        return [Detection(b, np.linspace(0.9, 0.5, len(b), dtype=np.float32), ["x"] * len(b)) for b in found]

    def segment(predictor, image, boxes):
        asked.append(("segment", image.getpixel((0, 0))[0], len(boxes)))
        out = np.zeros((len(boxes), image.height, image.width), bool)
        for mask, (x0, y0, x1, y1) in zip(out, boxes.astype(int), strict=True):
            mask[y0:y1, x0:x1] = True
        return out, np.ones(len(boxes), np.float32)

    monkeypatch.setattr(masks, "load_models", lambda p: masks.Models(None, None))
    monkeypatch.setattr(masks, "detect", detect)
    monkeypatch.setattr(masks, "segment", segment)
    return asked


def go(paths, **parameters):
    """Run the stage; return masks.parquet and funnel.parquet."""
    run_stage(Mask(**parameters), paths)
    return read_parquet(paths["masks.parquet"]), read_parquet(paths["funnel.parquet"])


def test_each_row_gets_its_mask_or_its_reason(paths, fake):
    write_inputs(paths, [
        (png(1), "cat 0,0,10,10 20,0,30,10"), (png(1), None), (png(2), "dog"), (png(3), "sky 0,0,40,20"),
        (png(4), "line 3,3,3,9"), (b"no image", "cat 0,0,10,10"), (png(5)[:60], "cat 0,0,10,10"),
        (png(6, (402, 2)), "line 0,0,9,2"),
    ])  # fmt: skip
    table, counts = go(paths)
    expected = ["", "no_keyword", "no_box", "mask_too_large", "empty_mask", "image_unreadable", "image_unreadable",
                "image_too_thin"]  # fmt: skip
    assert table["drop_reason"].fillna("").tolist() == expected
    saved = read_parquet(paths["masks.parquet"])
    assert saved.columns.tolist() == masks.SCHEMA.names and len(saved) == 8
    first = saved.iloc[0]
    mask = rle.decode_mask(first.rle_counts, int(first.width), int(first.height))
    truth = np.zeros((20, 40), bool)
    truth[:10, :10] = truth[:10, 20:30] = True
    assert (mask == truth).all() and first.area_fraction == truth.mean()
    assert [list(box) for box in first.boxes] == [[0, 0, 10, 10], [20, 0, 30, 10]]
    assert saved["rle_counts"].notna().tolist() == [True] + [False] * 7
    assert saved["area_fraction"][3] == 1.0
    by_reason = dict(zip(counts["reason"], counts["n"], strict=True))
    assert by_reason["image_unreadable"] == 2 and by_reason["no_box"] == 1
    assert counts.iloc[0].n == 8 == counts.iloc[1:].n.sum() and counts.iloc[-1].n == 1
    assert counts.iloc[0].step == "rows in" and counts.iloc[-1].step == "kept"


def test_one_image_and_keyword_is_looked_at_once(paths, fake):
    boxes = "0,0,9,9"
    rows = [(png(7), f"cat {boxes}"), (png(8), f"dog {boxes}"), (png(7), f"cat {boxes}"), (png(7), f"Cat {boxes} "),
            (png(7), f"hat {boxes}")]  # fmt: skip
    write_inputs(paths, rows)
    table, _ = go(paths, batch_size=1)
    assert sorted(a for a in fake if a[0] == "detect") == [
        ("detect", 7, f"cat {boxes}."), ("detect", 7, f"hat {boxes}."), ("detect", 8, f"dog {boxes}.")]  # fmt: skip
    assert sorted(a for a in fake if a[0] == "segment") == [("segment", 7, 2), ("segment", 8, 1)]
    assert table["rle_counts"].nunique() == 1 and table["rle_counts"].notna().all()


def test_top1_takes_the_best_box_alone(paths, fake):
    write_inputs(paths, [(png(1), "cat 0,0,10,10 20,0,30,10")])
    table, _ = go(paths, boxes="top1")
    row = table.iloc[0]
    assert len(row.boxes) == len(row.scores) == 1
    assert rle.decode_mask(row.rle_counts, 40, 20).sum() == 100


def test_the_batch_size_changes_nothing(paths, fake):
    write_inputs(paths, [(png(i), f"cat 0,0,{i + 1},5") for i in range(7)])
    tables = [go(paths, batch_size=size)[0] for size in (1, 3, 50)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    pd.testing.assert_frame_equal(tables[0], tables[2])


def test_a_row_that_the_data_lack_is_one_sentence(paths, fake):
    write_inputs(paths, [(png(1), "cat 0,0,5,5")])
    write_parquet(read_parquet(paths["keywords.parquet"]).assign(row_id="000009"), paths["keywords.parquet"])
    with pytest.raises(UserError, match="000009"):
        go(paths)
    assert not paths["masks.parquet"].exists() and not paths["funnel.parquet"].exists()


def test_the_funnel_counts_rows_with_images_of_the_benchmark(paths, fake):
    write_inputs(paths, [(png(1), "cat 0,0,5,5"), (png(2), None), (png(3), None)])
    table = read_parquet(paths["keywords.parquet"])
    table.loc[1, "drop_reason"] = "benchmark_image"
    write_parquet(table, paths["keywords.parquet"])
    found, counts = go(paths)
    assert found["drop_reason"].fillna("").tolist() == ["", "benchmark_image", "no_keyword"]
    assert counts.set_index("reason").n[["benchmark_image", "no_keyword"]].tolist() == [1, 1]
    assert counts.iloc[0].n == counts.iloc[1:].n.sum() == 3


def test_nothing_is_loaded_or_looked_at_where_nothing_changed(paths, fake, monkeypatch):
    """Was: opening the notebook again looked at every image again."""
    write_inputs(paths, [(png(1), "cat 0,0,5,5")])
    first, _ = go(paths)
    fake.clear()
    monkeypatch.setattr(masks, "load_models", lambda p: pytest.fail("a model was loaded"))
    pd.testing.assert_frame_equal(first, go(paths, device="cpu", run="another")[0])
    assert fake == []
    write_inputs(paths, [(png(1), "cat 0,0,6,6")])
    with pytest.raises(pytest.fail.Exception):
        go(paths)


def test_other_thresholds_are_a_second_look(paths, fake, monkeypatch):
    """Formerly another threshold cost hours of GPU: only the mask of the boxes above the old one was kept."""
    write_inputs(paths, [(png(1), "cat 0,0,10,10 20,0,30,10"), (png(2), "sky 0,0,40,20"), (png(3), None)])
    first, _ = go(paths)
    assert first["drop_reason"].fillna("").tolist() == ["", "mask_too_large", "no_keyword"]
    monkeypatch.setattr(masks, "load_models", lambda p: pytest.fail("a model was loaded"))
    strict, _ = go(paths, box_threshold=0.6, max_area_fraction=1.0)  # the fake scores are 0.9 and 0.5
    assert strict["drop_reason"].fillna("").tolist() == ["", "", "no_keyword"]
    assert [len(boxes) for boxes in strict["boxes"]] == [1, 1, 0]
    assert rle.decode_mask(strict["rle_counts"][0], 40, 20).sum() == 100
    none, counts = go(paths, box_threshold=0.95)
    assert counts.set_index("reason").n["no_box"] == 2 and none["rle_counts"].isna().all()
    pd.testing.assert_frame_equal(go(paths)[0], first)
    with pytest.raises(pytest.fail.Exception):
        go(paths, text_threshold=0.3)  # it changes what the models return
    with pytest.raises(ValueError, match="above box_threshold, 0.1"):
        Mask(box_threshold=0.1)


@pytest.mark.parametrize("change", ["another image of the same size", "another order", "another answer"])
def test_rows_that_are_not_what_they_were_are_noticed(paths, fake, change):
    """Formerly every mask landed on another image, in silence."""
    write_inputs(paths, [(png(1), "cat 0,0,5,5"), (png(2), "dog 0,0,5,5")])
    if change == "another answer":
        rows = [rlaif_row(0, png(1)), rlaif_row(1, png(2), chosen="No.")]
        expected = "Row 000001 has another question or answer"
    else:
        images = (png(9), png(2)) if "same size" in change else (png(2), png(1))
        rows = [rlaif_row(i, image) for i, image in enumerate(images)]
        expected = "image of row 000000 is not the one that notebook 01_extract read"
    write_rlaif_v(paths["data/rlaif_v/train.parquet"], rows)
    with pytest.raises(UserError, match=expected):
        go(paths)
    assert not paths["masks.parquet"].exists()


def test_the_commonest_keywords_of_each_reason_are_listed():
    table = pd.DataFrame({"keyword": ["cat", "cat", "dog", "sky", None], "drop_reason": [None, None, None, "no_box",
                                                                                        "no_keyword"]})  # fmt: skip
    listed = masks.commonest(table).set_index("reason")
    assert listed["commonest keywords"].to_dict() == {"kept": "cat (2), dog (1)", "no_box": "sky (1)", "no_keyword": ""}
    assert listed["rows"].tolist() == [3, 1, 1]


def test_no_row_with_a_keyword_is_no_error(paths, fake):
    write_inputs(paths, [(png(1), None), (png(2), None)])
    _, counts = go(paths)
    assert counts.set_index("reason").n["no_keyword"] == 2
    assert read_parquet(paths["masks.parquet"])["rle_counts"].isna().all()


@given(arrays.arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30))))
@settings(max_examples=50, deadline=None)
def test_a_mask_survives_its_encoding(mask):
    assert (rle.decode_mask(rle.encode_mask(mask), mask.shape[1], mask.shape[0]) == mask).all()


@pytest.fixture(scope="module")
def models():
    return masks.load_models(Mask(grounding_dino=str(ASSETS / "grounding_dino"), sam=str(ASSETS / "sam")))


def test_photographs_pass_through_the_tiny_models(paths, models, monkeypatch):
    """Of any size and mode; what the tiny models see in them is another question."""
    narrow = png(9, (900, 30))
    rows = [(file.read_bytes(), word) for file in photographs() for word in ("star", "person")]
    write_inputs(paths, [*rows, (narrow, "sky")])
    monkeypatch.setattr(masks, "load_models", lambda p: models)
    table, counts = go(paths, box_threshold=0.0, least_score=0.0)  # all boxes, so that SAM is asked as well
    assert set(table["drop_reason"].dropna()) <= {"mask_too_large", "empty_mask"}
    for row in table.itertuples():
        assert 0 <= np.min(list(row.boxes)) and np.max(list(row.boxes)) <= max(row.width, row.height)


def test_the_shipped_models_find_what_is_there(models):
    """A sample of the quality that MANIFEST.json states, through the stage's own path."""
    from csp_utils.tiny_world.models.sam import iou
    from csp_utils.tiny_world.world.scenes import draw_scene

    scenes = [draw_scene("test", 5000 + i) for i in range(8)]
    pictures = [Image.fromarray(scene.image) for scene in scenes]
    wanted = [scene.nouns for scene in scenes]
    overlaps = []
    for scene, results in zip(scenes, masks.look(models, pictures, wanted, Mask(), 0.35), strict=True):
        for noun, result in zip(scene.nouns, (masks.decide(one, Mask()) for one in results), strict=True):
            truth = np.any([t.mask for t in scene.find(noun)], axis=0)
            mine = rle.decode_mask(result.rle_counts, 112, 112) if result.rle_counts else np.zeros_like(truth)
            overlaps.append(iou(mine, truth))
    assert np.mean(overlaps) > 0.75


def test_one_keyword_for_most_rows_stops_before_the_boxes():
    """A model that gives "answer" for half of the rows; formerly, hours of boxes were computed for it."""
    words = ["answer"] * 110 + [f"thing {i}" for i in range(90)]
    keywords = pd.DataFrame({"keyword": words})
    with pytest.raises(UserError, match="'answer' has 55% of the rows .* raise most_share"):
        masks.check_shares(keywords, 0.2)
    masks.check_shares(keywords, 0.6)
    masks.check_shares(keywords.head(100), 0.2)  # few rows say nothing about a model
