"""The stress test: which objects and which noise, and what its tables say of models whose behaviour is known."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from csp_utils.asking import stress
from csp_utils.asking import variants as asking
from csp_utils.base.errors import UserError
from csp_utils.base.wording import name_of
from csp_utils.data.rle import decode_mask, encode_mask
from csp_utils.data.views import open_shown
from csp_utils.measures import stress_curves
from csp_utils.models import masks
from csp_utils.models.vlm.reply import Reply
from csp_utils.show import style
from csp_utils.show.figures import fig_stress
from csp_utils.stages.stress import Stress

P = Stress(levels=[100, 75, 25, 0], regions=["object", "box", "elsewhere", "everywhere"])


def questions(folder: Path) -> pd.DataFrame:
    """Five images; a cat is in the first three and asked about in all, the rest in one split only."""
    rows = []
    for i in range(5):
        path = folder / f"{i}.png"
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
        rows.append(("pope_random", path.name, "Is there a cat in the image?", "yes" if i < 3 else "no", str(path)))
        rows.append(("pope_popular", path.name, "Is there a cat in the image?", "yes" if i < 3 else "no", str(path)))
        rows.append(("pope_random", path.name, f"Is there an ox {i} in the image?", "yes", str(path)))
        rows.append(("pope_random", path.name, f"Are there {i} cows?", "yes", str(path)))
    return pd.DataFrame(rows, columns=["split", "image", "question", "label", "path"])


def objects(folder: Path) -> pd.DataFrame:
    """Every image's object, its mask the upper left corner."""
    chosen = stress.choose(questions(folder), None, 0)
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:20, 5:25] = True
    found = masks.MaskResult(60, 40, [[4.0, 4.0, 26.0, 20.0]], rle_counts=encode_mask(mask))
    return stress.with_masks(chosen, [found] * len(chosen), 0)


# ------------------------------------------------------------------------------------------------ what is asked about


def test_one_present_object_for_each_image_and_an_image_that_lacks_it(tmp_path: Path) -> None:
    table = questions(tmp_path)
    chosen = stress.choose(table, None, 0)
    assert sorted(chosen["image"]) == [f"{i}.png" for i in range(5)]
    truth = table.drop_duplicates(["image", "question"]).set_index(["image", "question"])["label"]
    assert (truth.loc[list(zip(chosen["image"], chosen["question"], strict=True))] == "yes").all()
    assert set(chosen["object"]) <= {"cat", *(f"ox {i}" for i in range(5))}  # "Are there ..." is not POPE's question
    for row in chosen.itertuples():
        if row.object == "cat":
            assert Path(row.other_path).name in ("3.png", "4.png")
        else:
            assert row.other_path is None  # POPE never says that an ox is absent
    # Neither the order of the questions nor how many images are wanted changes a choice.
    again = stress.choose(table.sample(frac=1, random_state=1), 3, 0)
    pd.testing.assert_frame_equal(again, chosen.head(3))
    assert any(not stress.choose(table, None, seed)["question"].equals(chosen["question"]) for seed in (1, 2, 3))


@given(st.integers(0, 30), st.integers(0, 40), st.integers(1, 20), st.integers(1, 30), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_moved_mask_has_its_size_and_leaves_the_object_alone(y: int, x: int, h: int, w: int, seed: int) -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[y : y + h, x : x + w] = True
    moved = stress.moved_mask(mask, seed, "row")
    assert moved is not None and moved.sum() == mask.sum()
    assert (moved & mask).sum() <= stress.MOST_OVERLAP * mask.sum()
    assert np.array_equal(moved, stress.moved_mask(mask, seed, "row"))


def test_an_object_that_fills_the_image_has_no_elsewhere() -> None:
    assert stress.moved_mask(np.ones((8, 8), dtype=bool), 0, "row") is None


def test_the_noise_is_where_its_condition_says(tmp_path: Path) -> None:
    row = next(row for row in objects(tmp_path).itertuples() if row.object == "cat")
    shown = stress.views(row, row.moved, P)
    image = np.asarray(open_shown(shown["object", 100]))
    inside = decode_mask(row.rle_counts, 60, 40)
    for c in (75, 25, 0):
        noised, box, elsewhere, everywhere = (np.array(open_shown(shown[region, c])) for region in stress.REGIONS)
        assert np.array_equal(noised[~inside], image[~inside]) and (noised[inside] != image[inside]).any()
        moved = decode_mask(row.moved, 60, 40)
        assert np.array_equal(elsewhere[~moved], image[~moved]) and (elsewhere[moved] != image[moved]).any()
        assert (everywhere != image).any(axis=2).mean() > 0.9
        assert (box[4:20, 4:26] != image[4:20, 4:26]).any(axis=2).mean() > 0.9  # no outline of the mask is left
        box[4:20, 4:26] = image[4:20, 4:26]
        assert np.array_equal(box, image)
    assert open_shown(shown["removed", None]) is None and shown["swapped", None] == Path(row.other_path)
    assert {c for region, c in shown if region == "object"} == {100, 75, 25, 0}
    assert not any(region == "elsewhere" for region, _ in stress.views(row, None, P))


def test_objects_without_a_mask_are_counted_by_reason(tmp_path: Path) -> None:
    chosen = stress.choose(questions(tmp_path), 2, 0)
    nothing = masks.MaskResult(60, 40, drop_reason="no_box")
    table = stress.with_masks(chosen, [nothing] * 2, 0)
    with pytest.raises(UserError, match=r"No object of POPE's images has a mask \(2 no_box\)"):
        stress.objects_with_masks(table)


# --------------------------------------------------------------------------------------------------------- the tables


class Model:
    """Sees what it is shown: ``obedient`` says c of Yes and 100 - c of No, another one always 95; mute about swaps."""

    engine, why_not_shared = "plain", None

    def __init__(self, obedient: bool):
        self.obedient = obedient

    def ask(self, prompts, *_, **__) -> list[Reply]:
        replies = []
        for shown, text, *_rest in prompts:
            noised = isinstance(shown, stress.NoisyImage)
            hidden = decode_mask(*shown.mask)[6, 6] if noised and shown.mask else noised
            c = shown.c if hidden else 100
            said = (c if "answer was Yes" in text else 100 - c) if self.obedient else 95
            raw = ("Yes" if c > 50 else "No") if "How certain" not in text else f"{said}%"
            replies.append(Reply("I cannot tell." if shown is None else raw, {"Yes": c / 200, "No": (100 - c) / 200}))
        return replies


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """What a base that always says 95 and an obedient csp say; tests must not change it."""
    folder, checkpoints = tmp_path_factory.mktemp("stress"), {"base": "stubborn", "csp": "obedient"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "load_vlm", lambda choice, *_: Model(choice.model == "obedient"))
        table = stress.ask(objects(folder), checkpoints, P, folder / "kept")
        again = stress.ask(objects(folder), checkpoints, P, folder / "kept")  # the kept replies, read back
    pd.testing.assert_frame_equal(table, again)
    return table


def test_the_table_holds_every_reply(asked: pd.DataFrame) -> None:
    sizes = asked.groupby(["variant", "condition"]).size() / 2
    for variant in ("base", "csp"):
        assert sizes[variant, "object"] == 5 * 4 and sizes[variant, "elsewhere"] == 5 * 3
        assert sizes[variant, "removed"] == 5 and 0 < sizes[variant, "swapped"] < 5  # an ox has no other image
    assert asked.loc[asked["condition"] == "removed", "verbalized"].isna().all()
    assert (asked["candidate"].map(stress.ANSWERS) == asked["answer"]).all()
    hidden = asked[(asked["condition"] == "object") & (asked["c"] == 25)]
    assert np.allclose(hidden["internal"], np.where(hidden["candidate"] == "Yes", 0.25, 0.75))
    assert set(hidden["plain_answer"]) == {"No"}


def test_the_curves_are_what_the_models_said(asked: pd.DataFrame) -> None:
    curves = stress_curves.curves(asked, 20, 0)
    found = curves.set_index(["variant", "condition", "quantity", "c"])["value"]
    for c in (100, 75, 25, 0):
        assert found["csp", "object", "right", c] == pytest.approx(c / 100)
        assert found["csp", "everywhere", "wrong", c] == pytest.approx(1 - c / 100)
        assert found["csp", "elsewhere", "right", c] == 1 and found["base", "object", "right", c] == 0.95
        assert found["csp", "object", "plain_yes", c] == (c > 50)
        assert found["csp", "object", "internal_yes", c] == pytest.approx(c / 100)
    mute = curves[(curves["condition"] == "removed") & (curves["quantity"] == "right")]
    assert mute["value"].isna().all() and mute["unread"].tolist() == [5, 5] and mute["n"].tolist() == [0, 0]


def test_the_correlations_tell_the_models_apart(asked: pd.DataFrame) -> None:
    values, differences = stress_curves.correlations(asked, 20, 0)
    found = values.set_index(["variant", "region", "answer", "metric"])["value"]
    assert found["csp", "object", "right", "spearman"] == pytest.approx(1)
    assert found["csp", "object", "wrong", "kendall"] == pytest.approx(-1)
    assert pd.isna(found["csp", "elsewhere", "right", "spearman"])  # always 100 %: there is no order to correlate
    assert values[values["variant"] == "base"]["value"].isna().all()
    against = differences.set_index(["region", "answer", "metric"])["diff"]  # of two variants, a constant one follows 0
    assert against["object", "right", "spearman"] == pytest.approx(1)
    noisy = asked.copy()  # a base that says something else now and then has a correlation, and so a difference
    at = noisy.index[(noisy["variant"] == "base")]
    noisy.loc[at, "verbalized"] = np.random.default_rng(0).integers(80, 100, len(at))
    differences = stress_curves.correlations(noisy, 400, 0)[1].set_index(["region", "answer", "metric"])
    clear = differences.loc[("object", "right", "spearman")]
    assert clear["ci_low"] > 0 and clear["p"] < 0.1


def test_the_order_of_rows_does_not_matter(asked: pd.DataFrame) -> None:
    shuffled = asked.sample(frac=1, random_state=0)
    key = ["variant", "condition", "c", "quantity"]
    one, two = (stress_curves.curves(table, 20, 0).sort_values(key, ignore_index=True) for table in (asked, shuffled))
    pd.testing.assert_frame_equal(one, two)


def test_the_example_is_the_object_that_the_first_variant_is_surest_of(asked: pd.DataFrame, tmp_path: Path) -> None:
    found = objects(tmp_path)
    sure = found["image"].iloc[2]
    at = (asked["variant"] == "base") & (asked["image"] == sure) & (asked["c"] == 100) & (asked["candidate"] == "Yes")
    asked = asked.assign(internal=asked["internal"].mask(asked["variant"] == "base", 0.5).mask(at, 1.0))
    example = stress.example(found, asked, P)
    assert set(example["image"]) == {sure}
    assert list(dict.fromkeys(example["condition"])) == ["object", "box", "everywhere"]
    assert list(dict.fromkeys(example["c"])) == [100, 75, 25, 0] and len(example) == 12
    row = next(row for row in found.itertuples() if row.image == sure)
    for (condition, c), png in example.set_index(["condition", "c"])["png"].items():
        view = stress.views(row, row.moved, P)[("object", 100) if c == 100 else (condition, c)]
        assert np.array_equal(np.asarray(Image.open(BytesIO(png))), np.asarray(open_shown(view)))
    figure = fig_stress.strip(example, asked)
    said = {(axis.get_title(), line) for axis in figure.axes for line in axis.get_xlabel().split("\n")}
    csp = name_of("csp")
    assert {("c = 75 %", "base: 95 %"), ("c = 75 %", f"{csp}: 75 %"), ("c = 0 %", f"{csp}: 0 %")} <= said
    assert len(figure.axes) == 12
    assert "surest before the noise" in fig_stress.strip_caption(example, asked)


def test_the_figure_and_its_caption(asked: pd.DataFrame, tmp_path: Path) -> None:
    curves, correlations = stress_curves.curves(asked, 20, 0), stress_curves.correlations(asked, 20, 0)[0]
    figure = fig_stress.curves(curves)
    assert [axis.get_title() for axis in figure.axes[:4]] == list(fig_stress.REGIONS.values())
    text = fig_stress.caption(curves, correlations)
    assert "on 5 images" in text and "on the object, right answer +1.00" in text
    assert "unchanged 100 %, hidden most 0 %" in text and "no image –" in text
    assert "20 replies could not be read" in text and "undefined (always the same number)" in text
    for path in style.save(figure, tmp_path, "stress", text):
        assert path.stat().st_size > 300
