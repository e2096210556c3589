"""Perturbations of images: what each does, and that draws depend on the row alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.vlcal.perturbation import Perturbation, black_pixels, perturb, perturb_row

KINDS = ["patches", "blur", "noise", "grey", "crop"]

GOLDEN = [[1, 1, 1, 0, 1], [0, 1, 0, 1, 0]]


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """A picture of 70 x 45 pixels in which no pixel is black."""
    return Image.fromarray(np.random.default_rng(0).integers(60, 200, (45, 70, 3), np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_size_and_mode_stay_and_the_image_itself_is_not_touched(image, kind):
    before = np.array(image)
    changed = perturb_row(image, Perturbation(kind), 0, "row", "use")
    assert changed.size == image.size and changed.mode == "RGB" and not np.array_equal(np.array(changed), before)
    assert np.array_equal(np.array(image), before)


def test_patches_are_black_squares_of_a_grid_and_the_rest_is_exact(image):
    true, shown = np.array(image), np.array(perturb_row(image, Perturbation(), 0, "row", "use"))
    black = (shown == 0).all(-1)
    assert np.array_equal(shown[~black], true[~black]) and 0 < black.mean() < 1
    for y in range(0, 45, 14):
        for x in range(0, 70, 14):
            assert black[y : y + 14, x : x + 14].all() or not black[y : y + 14, x : x + 14].any()


@settings(max_examples=50)
@given(width=st.integers(1, 60), height=st.integers(1, 60), patch=st.integers(1, 70), share=st.floats(0, 1))
def test_patches_cover_every_size(width, height, patch, share):
    black = black_pixels((width, height), Perturbation(share=share, patch=patch), np.random.default_rng(0))
    assert black.shape == (height, width)
    assert black.all() if share == 1 else not black.any() if share == 0 else True


def test_eighty_percent_of_the_patches_are_black():
    black = black_pixels((14 * 200, 14 * 200), Perturbation(), np.random.default_rng(1))
    assert abs(black.mean() - 0.8) < 0.01  # 40,000 patches: five standard deviations


def test_the_other_perturbations_by_hand(image):
    flat = Image.new("RGB", (40, 40), (10, 200, 100))
    rng = np.random.default_rng(0)
    assert (np.array(perturb(image, Perturbation("grey"), rng)) == 128).all()
    assert np.array_equal(np.array(perturb(flat, Perturbation("blur"), rng)), np.array(flat))
    assert np.array_equal(np.array(perturb(flat, Perturbation("crop"), rng)), np.array(flat))
    quarters = np.zeros((40, 40, 3), np.uint8)
    quarters[10:30, 10:30] = 255  # the centre of half the side
    assert (np.array(perturb(Image.fromarray(quarters), Perturbation("crop", side=0.5), rng)) == 255).all()
    assert np.array_equal(np.array(perturb(image, Perturbation("crop", side=1.0), rng)), np.array(image))
    assert np.array(perturb(image, Perturbation("blur"), rng)).std() < np.array(image).std() / 4


def test_noise_has_its_standard_deviation_where_it_is_not_clipped():
    middle = Image.new("RGB", (200, 200), (128, 128, 128))
    noisy = np.array(perturb(middle, Perturbation("noise", sigma=20), np.random.default_rng(0))).astype(float)
    assert abs(noisy.std() - 20) < 0.5 and abs(noisy.mean() - 128) < 0.5
    strong = np.array(perturb(middle, Perturbation("noise"), np.random.default_rng(0)))
    assert 0.4 < ((strong == 0) | (strong == 255)).mean() < 0.6  # P(|N| > 127.5 / 189) is 0.50


def test_a_draw_is_the_same_on_every_machine():
    """As drawn by numpy 2.4's Philox on x86-64."""
    shown = perturb_row(Image.new("RGB", (70, 28), "white"), Perturbation(share=0.5), 7, "000012", "update 1 reply 0")
    assert (np.array(shown)[::14, ::14, 0] // 255).tolist() == GOLDEN


def test_draws_depend_on_row_seed_use_and_kind_but_not_on_the_order(image):
    def drawn(*key, kind="patches"):
        return np.array(perturb_row(image, Perturbation(kind), *key)).tobytes()

    keys = [(0, "a", "update 1"), (0, "b", "update 1"), (1, "a", "update 1"), (0, "a", "update 2")]
    forward = [drawn(*key) for key in keys]
    assert forward == [drawn(*key) for key in reversed(keys)][::-1] and len(set(forward)) == 4


def test_unknown_kinds_and_numbers_out_of_range_are_said():
    with pytest.raises(UserError, match="did you mean 'patches'"):
        Perturbation("patch")
    for wrong in ({"share": 1.1}, {"side": 0}, {"patch": 0}, {"sigma": -1}, {"radius": -1}):
        with pytest.raises(UserError, match="out of range"):
            Perturbation(**wrong)
