"""The perturbation: exact steps, one distribution for both samplers, untouched pixels outside the mask."""

import json
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from scipy import stats
from stage_tools import run_stage

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_parquet, write_parquet
from csp_utils.base.run import RunPaths
from csp_utils.data.images import image_key
from csp_utils.data.rlaif_v import read_rlaif_v, write_rlaif_v
from csp_utils.data.rle import decode_mask
from csp_utils.noise import diffusion as P
from csp_utils.noise import training_rows as S
from csp_utils.stages.perturb import Perturb

# As drawn by numpy 2.4's Philox on x86-64.
GOLDEN_NOISE = [0.5208934545516968, 1.044359803199768, 0.6547631025314331]
GOLDEN_LEVELS = [48, 6, 83, 37, 77]
GOLDEN_PIXELS = [184, 240, 198, 76, 255, 118, 231, 45, 171]


@given(c=st.integers(0, 100), t_max=st.integers(1, 5000))
def test_steps_are_the_exact_floor(c, t_max):
    assert P.noise_steps(c, t_max) == (t_max * (1 - Fraction(c, 100))).__floor__()


def test_steps_where_floating_point_would_be_one_short():
    assert any(int(1000 * (1 - c / 100)) != P.noise_steps(c, 1000) for c in range(101))  # the trap is real
    assert [P.noise_steps(c, 1000) for c in (100, 90, 42, 0)] == [0, 100, 580, 1000]


@pytest.mark.parametrize("c", [-1, 101])
def test_a_level_outside_of_percent_is_an_error(c):
    with pytest.raises(UserError, match="between 0 and 100"):
        P.noise_steps(c, 1000)


def test_alpha_bar_is_what_the_chain_composes_to():
    for steps, gamma in [(0, 0.005), (1, 0.3), (500, 0.005), (1000, 0.005)]:
        signal, noise = 1.0, 0.0  # variance of the signal's and of the noise's share, step by step
        for _ in range(steps):
            signal, noise = (1 - gamma) * signal, (1 - gamma) * noise + gamma
        assert P.alpha_bar(steps, gamma) == pytest.approx(signal, rel=1e-9)
        assert 1 - P.alpha_bar(steps, gamma) == pytest.approx(noise, rel=1e-9, abs=1e-12)
    paper = [round(P.alpha_bar(P.noise_steps(c, 1000), 0.005), 4) for c in (0, 50, 90, 100)]
    assert paper == [0.0067, 0.0816, 0.6058, 1]


@pytest.mark.parametrize(("steps", "gamma", "value"), [(1, 0.3, 0.5), (7, 0.05, -0.8), (60, 0.005, 1.0)])
def test_closed_form_and_chain_have_one_distribution(steps, gamma, value):
    n = 40_000
    v_0 = np.full(n, value)
    closed = P.diffuse(v_0, steps, gamma, np.random.default_rng(1))
    chain = P.diffuse(v_0, steps, gamma, np.random.default_rng(2), "chain")
    left = P.alpha_bar(steps, gamma)
    mean, sd = left**0.5 * value, (1 - left) ** 0.5
    for drawn in (closed, chain):
        assert drawn.mean() == pytest.approx(mean, abs=5 * sd / n**0.5)
        assert drawn.std() == pytest.approx(sd, rel=5 / (2 * n) ** 0.5)
        assert stats.kstest(drawn, "norm", (mean, sd)).pvalue > 1e-3
    assert stats.ks_2samp(closed, chain).pvalue > 1e-3


def test_the_ks_test_would_see_another_schedule():
    v_0 = np.full(40_000, 0.5)
    right, wrong = (P.diffuse(v_0, steps, 0.02, np.random.default_rng(steps)) for steps in (20, 25))
    assert stats.ks_2samp(right, wrong).pvalue < 1e-3


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    c=st.integers(0, 100),
    seed=st.integers(0, 2**32),
    density=st.floats(0, 1),
    sampler=st.sampled_from(["closed_form", "chain"]),
)
def test_outside_the_mask_nothing_changes(height, width, c, seed, density, sampler):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    mask = rng.random((height, width)) < density
    before = image.copy()
    out = P.perturb_row(image, mask, c, "row", seed, P.Diffusion(30, sampler=sampler))
    assert out.dtype == np.uint8 and out.shape == image.shape
    assert np.array_equal(out[~mask], before[~mask])
    assert np.array_equal(image, before)  # the input is not written to
    everywhere = P.perturb_row(image, None, c, "row", seed, P.Diffusion(30, sampler=sampler))
    rows, columns = P.bounding_box(mask)
    alone = P.perturb_row(image[rows, columns], mask[rows, columns], c, "row", seed, P.Diffusion(30, sampler=sampler))
    assert np.array_equal(out[rows, columns], alone)  # noise is drawn for the bounding box alone
    if c == 100:
        assert np.array_equal(everywhere, before)


@pytest.mark.parametrize("sampler", ["closed_form", "chain"])
def test_stripes_change_nothing_but_the_memory(sampler, monkeypatch):
    """In closed form the same numbers; in the chain other ones of the same distribution."""
    image = np.random.default_rng(0).integers(0, 256, (120, 90, 3), np.uint8)
    whole = P.perturb_row(image, None, 50, "row", 0, P.Diffusion(20, 0.05, sampler=sampler))
    monkeypatch.setattr(P, "STRIPE", 1000)
    striped = P.perturb_row(image, None, 50, "row", 0, P.Diffusion(20, 0.05, sampler=sampler))
    if sampler == "closed_form":
        assert np.array_equal(whole, striped)
    assert stats.ks_2samp(whole.ravel(), striped.ravel()).pvalue > 1e-3


def test_the_noise_of_a_large_image_takes_little_memory():
    """Formerly 16 bytes for each byte of the image; the copy that is returned is one of them."""
    import tracemalloc

    image = np.zeros((2000, 1500, 3), np.uint8)
    tracemalloc.start()
    P.perturb_row(image, None, 50, "row", 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * image.nbytes


def test_random_numbers_are_drawn_for_the_bounding_box_alone():
    class Counting(np.random.Generator):
        drawn = 0

        def standard_normal(self, size=None, dtype=np.float64, out=None):
            Counting.drawn += int(np.prod(size))
            return super().standard_normal(size, dtype, out)

    mask = np.zeros((200, 300), bool)
    mask[20:60, 100:180] = True
    P.perturb(np.zeros((200, 300, 3), np.uint8), mask, 50, Counting(np.random.Philox(1)))
    assert Counting.drawn <= 1.5 * 40 * 80 * 3


def test_noise_in_the_box_leaves_no_outline():
    mask = np.zeros((40, 60), bool)
    mask[10:20, 12:30] = np.tri(10, 18, 4, dtype=bool)
    row = SimpleNamespace(boxes=[[11.4, 9.7, 30.2, 20.0], [-3.0, 0.0, 2.0, 1.0]])
    region = P.region_of(row, mask, "box")
    assert region[9:20, 11:31].all() and region[0:1, 0:2].all() and region.sum() == 11 * 20 + 2
    assert P.region_of(row, mask, "mask") is mask and P.region_of(row, mask, "global") is None


def test_every_grey_value_survives_the_change_of_range():
    values = np.arange(256, dtype=np.uint8)
    image = np.repeat(values[None, :, None], 3, axis=2)
    assert np.array_equal(P.perturb(image, None, 0, np.random.default_rng(0), P.Diffusion(1, 1e-14)), image)


def test_inside_the_mask_the_object_goes():
    image = np.full((64, 64, 3), 250, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    away = [np.abs(P.perturb_row(image, mask, c, "r", 0)[mask].astype(int) - 250).mean() for c in (90, 75, 50, 25, 0)]
    assert away == sorted(away) and away[0] > 20


def test_noise_depends_on_seed_row_and_level_and_on_nothing_else():
    image, mask = np.full((9, 7, 3), 120, np.uint8), np.ones((9, 7), bool)
    keys = [(seed, row, c) for seed in (0, 1) for row in ("000001", "000002") for c in (10, 11)]
    forward = {key: P.perturb_row(image, mask, key[2], key[1], key[0]) for key in keys}
    backward = {key: P.perturb_row(image, mask, key[2], key[1], key[0]) for key in reversed(keys)}
    assert all(np.array_equal(forward[key], backward[key]) for key in keys)
    assert len({image.tobytes() for image in forward.values()}) == len(keys)


def test_random_numbers_have_not_drifted():
    """Goldens: a change here changes every perturbed image of everybody."""
    noise = P.generator(0, "000007", "noise 75").standard_normal(3, dtype=np.float32)
    assert np.allclose(noise, GOLDEN_NOISE, atol=1e-6)
    assert P.draw_levels(0, "000007", 5) == GOLDEN_LEVELS
    grey = np.full((1, 3, 3), 128, np.uint8)
    assert P.perturb_row(grey, None, 75, "000007", 0).ravel().tolist() == GOLDEN_PIXELS


def test_levels_are_uniform_and_do_not_repeat():
    drawn = [P.draw_levels(3, f"{i:06d}", 1)[0] for i in range(5000)]
    counts = np.bincount(drawn, minlength=101)
    assert len(counts) == 101 and stats.chisquare(counts).pvalue > 1e-3
    assert sorted(P.draw_levels(0, "x", 101)) == list(range(101))
    assert P.draw_levels(0, "x", 9)[:3] == P.draw_levels(0, "x", 3)
    assert set(P.draw_levels(0, "x", 2, [5, 95])) == {5, 95}
    with pytest.raises(UserError, match="fewer|only 1 level"):
        P.draw_levels(0, "x", 2, [5])


def world(tmp_path, n=6, size=(20, 16)):
    """RLAIF-V file, its reader and a table like masks.parquet; the last row has no mask."""
    rng = np.random.default_rng(0)
    rows, masks = [], []
    for i in range(n):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
        rows.append({"ds_name": "t", "image": {"bytes": path.read_bytes(), "path": path.name}, "question": f"Q{i}?",
                     "chosen": f"A{i}.", "rejected": "no", "origin_dataset": "t", "origin_split": "{}", "idx": i,
                     "image_path": path.name})  # fmt: skip
        mask = np.zeros(size[::-1], np.uint8, order="F")
        mask[4:12, 5:15] = 1
        last = i == n - 1
        masks.append({"row_id": f"{i:06d}", "question": f"Q{i}?", "answer": f"A{i}.", "keyword": "k",
                      "width": None if last else size[0], "height": None if last else size[1],
                      "rle_counts": None if last else coco.encode(mask)["counts"].decode(),
                      "boxes": [] if last else [[5.0, 4.0, 15.0, 12.0]], "image_sha1": image_key(path.read_bytes()),
                      "drop_reason": "no_box" if last else None})  # fmt: skip
    write_rlaif_v(tmp_path / "train.parquet", rows)
    return read_rlaif_v(tmp_path / "train.parquet"), pd.DataFrame(masks)


def perturbed(masks, tmp_path, run="r", **parameters):
    """Stage 03 on a table like masks.parquet: rows.parquet, and the paths of the run."""
    paths = RunPaths(run, tmp_path / "outputs")
    write_parquet(masks, paths["masks.parquet"])
    run_stage(Perturb(rlaif_v=str(tmp_path / "train.parquet"), **parameters), paths)
    return read_parquet(paths["perturbed/rows.parquet"]), paths


def test_the_written_data_set(tmp_path):
    data, masks = world(tmp_path)
    table, paths = perturbed(masks, tmp_path, levels=[50, 80], draws_per_row=2)
    assert len(table) == 10 and table["row_id"].nunique() == 5
    assert (table["simpo_drop_reason"] == "chosen_equals_rejected").sum() == 5
    sft = [json.loads(line) for line in paths["perturbed/sft.jsonl"].read_text().splitlines()]
    simpo = [json.loads(line) for line in paths["perturbed/simpo.jsonl"].read_text().splitlines()]
    assert len(sft) == 10 and len(simpo) == 5
    for row in simpo:
        assert row["messages"][-1] == {"role": "assistant", "content": "80%"} and row["rejected_response"] == "20%"
        assert row["messages"][0]["content"].startswith("<image>") and "A" in row["messages"][0]["content"]
    assert list(table.columns) == list(S.COLUMNS) and sorted(set(table["c"])) == [50, 80]
    for row, line in zip(table.itertuples(), sft, strict=True):
        image = np.asarray(Image.open(row.image))
        original = np.asarray(data.image(row.row_id))
        own = masks[masks["row_id"] == row.row_id].iloc[0]
        mask = decode_mask(own.rle_counts, own.width, own.height)
        assert line["images"] == [row.image] and line["messages"][1]["content"] == row.r_c == f"{row.c}%"
        assert np.array_equal(image[~mask], original[~mask]) and not np.array_equal(image, original)
    from datasets import load_from_disk

    saved = load_from_disk(paths["perturbed/dataset"])
    assert saved["c"][:] == table["c"].tolist() and saved.num_rows == 10
    assert np.array_equal(np.asarray(saved[3]["image"]), np.asarray(Image.open(table["image"][3])))
    assert [reason is None for reason in saved["simpo_drop_reason"]] == (table["c"] != 50).tolist()


def test_order_of_rows_changes_no_image(tmp_path):
    _, masks = world(tmp_path)
    pixels = []
    for name, rows in (("a", masks), ("b", masks[::-1]), ("c", masks[2:4])):
        table, _ = perturbed(rows, tmp_path, name)
        pixels.append({row.row_id: (row.c, Image.open(row.image).tobytes()) for row in table.itertuples()})
    assert pixels[0] == pixels[1]
    assert pixels[2].items() <= pixels[0].items()


def test_global_noise_reaches_every_corner(tmp_path):
    data, masks = world(tmp_path)
    table, _ = perturbed(masks, tmp_path, noise_region="global", levels=[0])
    image, original = np.asarray(Image.open(table["image"][0])), np.asarray(data.image("000000"))
    assert (image != original).any(axis=2).mean() > 0.9


def test_nothing_half_written_when_it_fails(tmp_path):
    _, masks = world(tmp_path)
    masks.loc[3, "image_sha1"] = "0" * 40
    with pytest.raises(UserError, match=r"image of row 000003 is not the one .*02_mask"):
        perturbed(masks, tmp_path)
    left = [file.name for file in (tmp_path / "outputs" / "r").rglob("*") if file.is_file()]
    assert sorted(left) == ["03_perturb.lock", "masks.parquet"]


def test_no_mask_at_all_is_one_sentence(tmp_path):
    _, masks = world(tmp_path, n=1)
    with pytest.raises(UserError, match="1 no_box"):
        perturbed(masks, tmp_path)


def test_a_second_image_tag_in_the_text_is_refused():
    with pytest.raises(UserError, match="<image>"):
        S.training_rows("What is in <image>?", "A cat.", 70, "x.png")


def test_original_rows_are_rlaif_vs_own(tmp_path):
    """The ablation: unchanged images, the data's own question, preferred and other answer."""
    data, masks = world(tmp_path)
    table, paths = perturbed(masks, tmp_path, answers="original", draws_per_row=3)
    source = data.rows.set_index("row_id")
    assert len(table) == len(S.rows_with_masks(masks))  # one row each, however many levels would be drawn
    for row, line in zip(table.itertuples(), paths["perturbed/sft.jsonl"].read_text().splitlines(), strict=True):
        own, sample = source.loc[row.row_id], json.loads(line)
        assert sample["messages"][0]["content"] == f"<image>{own['question']}" and row.q_c == own["question"]
        assert sample["messages"][1]["content"] == row.r_c == own["answer"]
        assert np.array_equal(np.asarray(Image.open(row.image)), np.asarray(data.image(row.row_id)))
    pairs = [json.loads(line) for line in paths["perturbed/simpo.jsonl"].read_text().splitlines()]
    assert [pair["rejected_response"] for pair in pairs] == [
        source["rejected"][row] for row in table.loc[table["simpo_drop_reason"].isna(), "row_id"]]
    assert S.original_rows("What?", "A cat.", "", "x.png")[1] is None  # no other answer: no preference


@pytest.mark.parametrize(("text", "speaks"), [
    ("Is there an anchor?", True), ("Two ANCHORS.", True), ("It is red.", True), ("An anchorage.", False),
    ("It is reddish.", False), ("", False), (None, False),
])
def test_words_are_left_out_whole(text, speaks):
    assert S.speaks_of(pd.Series([text], dtype=object), ["anchor", "red"]).tolist() == [speaks]
    assert S.speaks_of(pd.Series([text], dtype=object), []).tolist() == [False]


def test_rows_that_speak_of_a_word_are_left_out_wherever_they_say_it(tmp_path):
    _, masks = world(tmp_path)
    masks.loc[0, "question"], masks.loc[1, "answer"], masks.loc[2, "keyword"] = "A gear?", "Gears.", "gear"
    table, _ = perturbed(masks, tmp_path, leave_out=["gear"], levels=[30])
    assert table["row_id"].tolist() == ["000003", "000004"]
    with pytest.raises(UserError, match="Every row speaks of one of Q3, Q4, gear"):
        S.rows_with_masks(masks, ["Q3", "Q4", "gear"])
    with pytest.raises(ValueError, match="not all of them are single words"):
        Perturb(leave_out=["two words"])


def test_a_fitted_schedule_takes_the_place_of_the_parameters(tmp_path):
    path = tmp_path / "schedule.json"
    with pytest.raises(UserError, match="schedule.json is missing"):
        P.scheduled(Perturb(schedule_file=str(path)))
    path.write_text('{"t_max": 500, "gamma": 0.01, "fall": 0.4}')
    p = P.scheduled(Perturb(schedule_file=str(path), draws_per_row=2))
    assert (p.t_max, p.gamma, p.draws_per_row) == (500, 0.01, 2)
    assert P.scheduled(Perturb()) == Perturb()
    for text in ("{}", '{"t_max": 500, "gamma": 7.0}', "no JSON"):
        path.write_text(text)
        with pytest.raises(UserError, match="holds no schedule"):
            P.scheduled(Perturb(schedule_file=str(path)))
