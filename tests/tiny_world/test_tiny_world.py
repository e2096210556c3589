"""The tiny world's scenes, their truth, the questions about them, and the files that hold them."""

from functools import partial

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from csp_utils.base.run import RunPaths
from csp_utils.data.benchmarks import read_amber, read_pope
from csp_utils.data.rlaif_v import read_rlaif_v
from csp_utils.tiny_world.models import grounding_dino, keyword_lm, sam, vlm_training
from csp_utils.tiny_world.models.fit import Settings
from csp_utils.tiny_world.world import scenes
from csp_utils.tiny_world.world.data import write_world
from csp_utils.tiny_world.world.grain import add_grain, lost_things
from csp_utils.tiny_world.world.questions import (
    ROW_KINDS,
    amber_attribute,
    amber_relation,
    pope_questions,
    rlaif_rows,
)
from csp_utils.tiny_world.world.scenes import COLORS, HELD_OUT, NOUNS, SIZE, SPLITS, draw_scene

TRAIN = {"keyword_lm": keyword_lm.train, "grounding_dino": grounding_dino.train, "sam": sam.train,
         "vlm": partial(vlm_training.train, tower_steps=1)}  # fmt: skip

SCENES = [draw_scene("benchmark", i) for i in range(40)]


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["train", "dev", "test", "benchmark", "models"]), st.integers(0, 10_000), st.integers(0, 5))
def test_a_scene_depends_on_its_arguments_alone(split, index, seed):
    one, two = draw_scene(split, index, seed), draw_scene(split, index, seed)
    assert np.array_equal(one.image, two.image) and one.touching == two.touching
    assert [t.noun for t in one.things] == [t.noun for t in two.things]
    other = draw_scene(split, index + 1, seed)
    assert not np.array_equal(one.image, other.image)


def test_boxes_are_those_of_the_visible_masks_and_masks_do_not_overlap_where_solid():
    for scene in SCENES:
        solid = np.zeros((SIZE, SIZE), int)
        for thing in scene.things:
            ys, xs = np.nonzero(thing.mask)
            assert thing.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            solid += thing.mask & (thing.opacity > 0.5)
        assert solid.max() <= 1


def test_training_never_shows_the_held_out_pairs_and_the_benchmark_does():
    train = {(t.noun, t.color) for i in range(120) for t in draw_scene("train", i).things}
    assert not train & HELD_OUT
    assert len(train) > 90
    assert {(t.noun, t.color) for i in range(120) for t in draw_scene("benchmark", i).things} & HELD_OUT


def test_touching_is_what_the_masks_say():
    seen = set()
    for scene in SCENES:
        for i, a in enumerate(scene.things):
            away = ndimage.distance_transform_edt(~a.mask)
            for j, b in enumerate(scene.things[i + 1 :], start=i + 1):
                far = away[b.mask].min()
                seen.add((i, j) in scene.touching)
                if (i, j) not in scene.touching:
                    assert far > 1.5
    assert seen == {True, False}


def test_rows_of_one_scene_differ_and_speak_of_their_keyword():
    for scene in SCENES:
        rows = rlaif_rows(scene, 4)
        assert len({row["question"] for row in rows}) == 4
        for row in rows:
            assert row["keyword"] in row["question"] and row["chosen"] != row["rejected"]
            present = row["keyword"] in scene.nouns
            assert present == (row["kind"] != "existence_no")
    kinds = [row["kind"] for scene in SCENES for row in rlaif_rows(scene, 4)]
    assert set(kinds) == set(ROW_KINDS)  # the seed differs from scene to scene


def test_chosen_colors_are_true_and_rejected_ones_are_not():
    for scene in SCENES:
        for row in rlaif_rows(scene, 6):
            if row["kind"] == "color_open":
                color = scene.find(row["keyword"])[0].color
                assert f"is {color}." in row["chosen"] and f"is {color}." not in row["rejected"]
                assert any(f"is {c}." in row["rejected"] for c in COLORS)


def test_pope_is_balanced_true_and_ever_harder():
    splits = pope_questions(SCENES)
    scenes = {f"{s.name}.png": s for s in SCENES}
    hits = {}
    counts = np.array([sum(n in s.nouns for s in SCENES) for n in NOUNS])
    for split, rows in splits.items():
        assert [r["label"] for r in rows] == ["yes", "no"] * (len(rows) // 2)
        nouns = [next(n for n in NOUNS if f" {n} " in r["text"]) for r in rows]
        assert all((n in scenes[r["image"]].nouns) == (r["label"] == "yes") for n, r in zip(nouns, rows, strict=True))
        asked = [n for n, r in zip(nouns, rows, strict=True) if r["label"] == "no"]
        hits[split] = np.mean([counts[NOUNS.index(n)] for n in asked])
    assert hits["random"] < hits["popular"]
    yes = {k: {(r["image"], r["text"]) for r in v if r["label"] == "yes"} for k, v in splits.items()}
    assert yes["random"] == yes["popular"] == yes["adversarial"]  # as in POPE, the three splits share what is there


def test_scenes_of_models_rows_choices_and_benchmarks_are_disjoint(tmp_path, monkeypatch):
    """Each use draws from a split of its own, and no picture of one split is one of another."""
    used, pictures = {}, {}

    def named(name, image, *rest, make=scenes._scene):
        used[use].add(name.split("_")[0])
        scene = make(name, image, *rest)
        pictures.setdefault(scene.image.tobytes(), set()).add(name)
        return scene

    monkeypatch.setattr(scenes, "_scene", named)
    for use, train in TRAIN.items():
        used[use] = set()
        train(tmp_path / use, Settings(1, 0, 3, lambda line: None))
    use = "a run"
    used[use] = set()
    write_world(RunPaths("t", tmp_path), 20, 1, 20, 0)
    use = "a later test"
    used[use] = set()
    write_world(RunPaths("later", tmp_path), 1, 1, 20, 0, ("benchmark", 20))
    use = "choices"
    used[use] = set()
    write_world(RunPaths("dev", tmp_path), 1, 1, 20, 0, ("dev", 0))
    assert used == dict.fromkeys(TRAIN, {"models"}) | {
        "a run": {"train", "benchmark"}, "a later test": {"train", "benchmark"}, "choices": {"train", "dev"}
    }  # fmt: skip
    assert all(len(names) == 1 for names in pictures.values()) and len(pictures) > 80
    assert len(set(SPLITS.values())) == len(SPLITS)


def test_amber_questions_come_in_opposites():
    for scene in SCENES:
        rows = amber_attribute(scene)
        assert [r["truth"] for r in rows] == ["yes", "no"] * (len(rows) // 2)
        relations = amber_relation(scene)
        yes = sum(r["truth"] == "yes" for r in relations)
        assert len(relations) <= 2 * yes


def test_the_data_on_disk_are_what_the_readers_of_the_real_data_read(tmp_path):
    paths = RunPaths("t", tmp_path)
    world = write_world(paths, n_train_scenes=3, rows_per_scene=2, n_test_scenes=4, seed=1)
    data = read_rlaif_v(paths["data/rlaif_v/train.parquet"])
    assert len(data.rows) == 6
    assert np.array_equal(np.array(data.image("000002")), world["train"][1].image)
    assert set(read_pope(paths["data/pope"])["split"]) == {"pope_random", "pope_popular", "pope_adversarial"}
    assert set(read_amber(paths["data/amber"])["split"]) == {"amber_attribute", "amber_relation"}


def test_grain_stays_inside_its_patches_and_is_seeded():
    noisy, lost = add_grain(SCENES[0], np.random.default_rng(4), share=1.0)
    again = add_grain(SCENES[0], np.random.default_rng(4), share=1.0)
    assert np.array_equal(noisy, again[0]) and np.array_equal(lost, again[1])
    assert 0 < (lost > 0).mean() < 0.9 and lost.min() == 0 and lost.max() <= 1
    assert np.array_equal(noisy[lost == 0], SCENES[0].image[lost == 0])
    many = [add_grain(s, np.random.default_rng(k), share=1.0) for k, s in enumerate(SCENES)]
    lost = np.stack([one[1] for one in many])
    off = np.stack([np.abs(one[0].astype(float) - s.image).mean(axis=2) for one, s in zip(many, SCENES, strict=True)])
    assert off[lost > 0.8].mean() > 2 * off[(lost > 0) & (lost < 0.1)].mean() > 0
    image, lost = add_grain(SCENES[0], np.random.default_rng(4), share=0.0)
    assert np.array_equal(image, SCENES[0].image) and not lost.any()
    half = np.where(SCENES[0].things[0].mask, np.float32(0.5), np.float32(0))
    assert lost_things(SCENES[0], half)[0] == 0.5
