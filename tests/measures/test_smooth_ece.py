"""Smooth calibration error against its definition, and against relplot where that follows it."""

import numpy as np
import pytest
import relplot
from known_answers import stream

from csp_utils.measures.calibration import histogram
from csp_utils.measures.smooth_ece import STEPS, smece


def test_smooth_ece_equals_relplots_where_both_follow_the_definition() -> None:
    rng = np.random.default_rng(0)
    for seed, n in enumerate((50, 500, 5000)):
        percent = rng.integers(1, 100, n)  # without 0 and 100
        # The last three are under- or overconfident everywhere: their width is above 0.15, and no matter.
        for chance in (percent / 100, 0.25 + percent / 200, np.minimum(percent / 100 + 0.2, 1), percent / 200, 0):
            p, y, counts = stream(percent, chance, seed)
            assert smece(counts) == pytest.approx(relplot.smECE(p, y), abs=1e-3)


def smooth_error(counts: np.ndarray, sigma: float) -> float:
    """The definition, by a fine sum: every pair is a Gaussian, folded into [0, 1] at both ends."""
    t, out = (np.arange(4000) + 0.5) / 4000, 0.0
    for c in np.flatnonzero(counts.sum(0)):
        at = c / 100
        folded = sum(np.exp(-(((t - z) / sigma) ** 2) / 2) for k in range(-3, 4) for z in (2 * k + at, 2 * k - at))
        out = out + (counts[1, c] - counts[:, c].sum() * at) * folded / (sigma * np.sqrt(2 * np.pi))
    return float(np.abs(out).mean() / counts.sum())


def defined_smooth_ece(counts: np.ndarray) -> float:
    """The definition at the narrowest width, in 1 / STEPS, that is not below it."""
    low, high = 1, STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if smooth_error(counts, middle / STEPS) > middle / STEPS else (low, middle)
    return smooth_error(counts, high / STEPS)


@pytest.mark.parametrize(("error", "narrowest", "widest"), [
    (0.004, 3, 7), (0.006, 5, 8), (0.02, 9, 25), (0.06, 26, 80), (0.2, 81, 250), (0.5, 201, 400)])  # fmt: skip
def test_smooth_ece_is_the_definitions_at_every_width(error: float, narrowest: int, widest: int) -> None:
    """Over- and underconfident percents side by side: how much they cancel depends on the kernel's width and shape."""
    percent, sign = np.array([0, 5, 30, 35, 60, 70, 71, 90, 95, 100]), np.array([1, 1, 1, -1, 1, 1, 1, -1, -1, -1])
    right = 100 * np.clip(percent / 100 + error * sign, 0, 1)
    counts = np.zeros((2, 101))
    counts[0, percent], counts[1, percent] = 100 - right, right
    expected = defined_smooth_ece(counts)
    assert narrowest <= expected * STEPS <= widest
    assert smece(counts) == pytest.approx(expected, abs=1e-5)


def test_smooth_ece_is_the_value_at_its_own_width() -> None:
    percent = np.random.default_rng(2).integers(0, 21, 400) * 5
    for chance in (percent / 100, 0.5, 1 - percent / 100):
        _, _, counts = stream(percent, chance)
        assert smece(counts) == pytest.approx(defined_smooth_ece(counts), abs=1e-3)


def test_relplot_gives_zero_and_hundred_percent_half_their_weight() -> None:
    """Half of the pairs say 100 % and are right half of the time, the others 60 % and are calibrated: 0.5 * 0.5."""
    percent, y = np.array([100] * 50 + [60] * 50), np.array([1] * 25 + [0] * 25 + [1] * 30 + [0] * 20)
    assert smece(histogram(percent, y)) == pytest.approx(0.25, abs=1e-3)
    assert relplot.smECE(percent / 100, y) == pytest.approx(0.5 * 0.5 * 0.5 / 0.75, abs=2e-3)
    percent[percent == 100] = 99  # one percent lower relplot is right
    assert relplot.smECE(percent / 100, y) == pytest.approx(0.5 * 0.49, abs=2e-3)
    assert smece(histogram(percent, y)) == pytest.approx(0.5 * 0.49, abs=1e-3)


def test_relplot_cuts_wide_kernels_off() -> None:
    """10 % is always right and 90 % never: the two smooth each other out, but not in relplot."""
    percent = np.array([10, 90] * 50)
    counts = histogram(percent, (percent < 50).astype(int))
    assert smece(counts) == pytest.approx(defined_smooth_ece(counts), abs=1e-3)
    assert relplot.smECE(percent / 100, (percent < 50).astype(int)) > smece(counts) + 0.2
