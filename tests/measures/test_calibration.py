"""Calibration errors against their definitions, against netcal, torchmetrics and relplot, and on calibrated streams."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import relplot
from hypothesis import given
from hypothesis import strategies as st
from known_answers import counts_of, pairs, percents, stream

from csp_utils.measures.calibration import (
    adaptive_ece,
    bin_of_percent,
    ece,
    histogram,
    mce,
    over_and_underconfidence,
    reliability,
    signed_error,
)
from csp_utils.measures.scores import brier_decomposition
from csp_utils.measures.smooth_ece import smece

# Imported by the tests that ask for them, so that others need not wait when this module is collected: netcal takes 2 s
# of CPU more than torch alone, and torchmetrics, which brings transformers, 7 s.


@pytest.fixture(scope="module")
def netcal() -> ModuleType:
    from netcal.metrics import confidence

    return confidence


@pytest.fixture(scope="module")
def torchmetrics() -> Callable[..., float]:
    """A binary measure, by its name, of confidences 0..1 in double precision and labels."""
    import torch
    from torchmetrics import classification

    def value(name: str, p: np.ndarray, y: np.ndarray, **options: int | str) -> float:
        return float(getattr(classification, f"Binary{name}")(**options)(torch.from_numpy(p), torch.from_numpy(y)))

    return value


# ------------------------------------------------------------------------------------------------ perfectly calibrated


def test_a_perfectly_calibrated_stream_has_no_error_of_any_kind() -> None:
    grid = np.arange(101)
    whole = np.stack([100 - grid, grid]).astype(float)  # of 100 answers at c %, c are right
    alone = np.zeros((101, 2, 101))
    alone[grid, 0, grid], alone[grid, 1, grid] = 100 - grid, grid
    for counts in (whole[None], alone):  # all together, and at every grid point alone
        for error in (
            *(ece(counts, n, side) for n in (10, 15) for side in ("right", "left")), smece(counts),
            mce(counts), adaptive_ece(counts), signed_error(counts),
            *over_and_underconfidence(counts),
        ):  # fmt: skip
            assert (error == 0).all()
        assert brier_decomposition(counts)[0] == pytest.approx(0, abs=1e-15)


def test_a_large_calibrated_sample_has_an_error_near_zero() -> None:
    percent = np.random.default_rng(0).integers(0, 101, 100_000)
    _, _, counts = stream(percent, percent / 100)
    assert smece(counts) < 0.01 and ece(counts) < 0.01 and adaptive_ece(counts) < 0.01


@pytest.mark.parametrize("edges", ["right", "left"])
@pytest.mark.parametrize("n_bins", [1, 3, 7, 10, 15, 100])
def test_a_perfectly_calibrated_stream_has_no_calibration_error(edges: str, n_bins: int) -> None:
    grid = np.arange(101)
    counts = np.stack([100 - grid, grid]).astype(float)  # of 100 answers at c %, c are right
    assert ece(counts, n_bins, edges) == 0
    for percent in grid:  # and at every grid point alone
        alone = np.zeros((2, 101))
        alone[:, percent] = 100 - percent, percent
        assert ece(alone, n_bins, edges) == 0


@pytest.mark.parametrize(
    ("percent", "right", "left"),
    [(0, 0, 0), (1, 0, 0), (9, 0, 0), (10, 0, 1), (11, 1, 1), (30, 2, 3), (60, 5, 6), (70, 6, 7), (90, 8, 9),
     (99, 9, 9), (100, 9, 9)],
)  # fmt: skip
def test_bin_edges(percent: int, right: int, left: int) -> None:
    """30, 60 and 70 are where floating-point bins go wrong; 100 must not open a bin of its own."""
    assert bin_of_percent(10, "right")[percent] == right
    assert bin_of_percent(10, "left")[percent] == left


def test_the_edge_convention_changes_the_error_where_confidences_sit_on_edges() -> None:
    counts = np.zeros((2, 101))
    counts[1, 80], counts[0, 85] = 1, 1
    assert ece(counts, edges="right") == pytest.approx((0.2 + 0.85) / 2)  # apart
    assert ece(counts, edges="left") == pytest.approx(abs(1 - 1.65) / 2)  # together


@given(st.lists(st.tuples(percents, st.integers(0, 1)), min_size=1, max_size=60), st.sampled_from(["right", "left"]))
def test_ece_equals_the_definition(pairs: list[tuple[int, int]], edges: str) -> None:
    total = 0.0
    for b in range(10):
        low, high = 10 * b, 10 * (b + 1)
        if edges == "right":
            inside = [(p, y) for p, y in pairs if low < p <= high or (b == 0 and p == 0)]
        else:
            inside = [(p, y) for p, y in pairs if low <= p < high or (b == 9 and p == 100)]
        if inside:
            mean = np.mean(inside, axis=0)
            total += len(inside) / len(pairs) * abs(mean[1] - mean[0] / 100)
    percent, label = np.array(pairs).T
    assert ece(histogram(percent, label), 10, edges) == pytest.approx(total, abs=1e-12)


@given(st.lists(st.tuples(percents, st.integers(0, 1)), min_size=1, max_size=60), st.sampled_from(["right", "left"]))
def test_the_reliability_table_adds_up_to_the_error(pairs: list[tuple[int, int]], edges: str) -> None:
    percent, label = np.array(pairs).T
    counts = histogram(percent, label)
    diagram = reliability(counts, 10, edges)
    gaps = (diagram["accuracy"] - diagram["confidence"]).abs().fillna(0) * diagram["n"]
    assert gaps.sum() / diagram["n"].sum() == pytest.approx(ece(counts, 10, edges), abs=1e-12)
    assert ((diagram["confidence"] * 100 <= diagram["high"] + 1e-9) | diagram["n"].eq(0)).all()


# ------------------------------------------------------------------------------------------------- bins: the libraries


def neighbours(c: int) -> list[tuple[int, int]]:
    """c % is right, one percent less is wrong: in one bin the two nearly cancel, in two they do not."""
    return [(c, 1), (c - 1, 0)]


LAST_BIN = [(95, 1), (100, 0)]  # unlike neighbours(100), whose error is the same together and apart


@pytest.mark.parametrize("c", [30, 60, 70])
def test_relplots_binned_ece_misplaces_these(c: int) -> None:
    """30 / 100 / 0.1 is 2.9999999999999996: relplot puts 30 % among 20 to 29 %, and its own convention has it above."""
    percent, y = np.array(neighbours(c)).T
    apart, together = ece(counts_of(neighbours(c)), 10, "left"), ece(counts_of(neighbours(c)), 10, "right")
    assert apart == pytest.approx((1 - c / 100 + (c - 1) / 100) / 2) and together < apart
    assert relplot.metrics.binnedECE(percent / 100, y, 10) == pytest.approx(together)


def test_relplots_binned_ece_opens_a_bin_for_100_percent() -> None:
    percent, y = np.array(LAST_BIN).T
    assert relplot.metrics.binnedECE(percent / 100, y, 10) == pytest.approx((abs(1 - 0.95) + abs(0 - 1)) / 2)
    assert ece(counts_of(LAST_BIN), 10, "left") == ece(counts_of(LAST_BIN), 10, "right") == pytest.approx(0.95 / 2)


@pytest.mark.parametrize("n_bins", [10, 15])
def test_netcal_agrees_but_for_30_60_and_70_percent(netcal: ModuleType, n_bins: int) -> None:
    bad = {30, 60, 70} if n_bins == 10 else set()
    percent = np.random.default_rng(3).choice([c for c in range(101) if c not in bad], 500)
    p, y, counts = stream(percent, 0.6)
    assert ece(counts, n_bins, "left") == pytest.approx(netcal.ECE(n_bins).measure(p, y), abs=1e-12)
    assert mce(counts, n_bins, "left") == pytest.approx(netcal.MCE(n_bins).measure(p, y), abs=1e-12)
    for c in bad:  # its edge 0.3 is 0.30000000000000004
        percent, y = np.array(neighbours(c)).T
        theirs = netcal.ECE(n_bins).measure(percent / 100, y)
        assert theirs == pytest.approx(ece(counts_of(neighbours(c)), n_bins, "right"))
        assert theirs < ece(counts_of(neighbours(c)), n_bins, "left") - 0.2


def test_netcals_bins_of_equal_mass_agree_where_no_percent_has_to_be_split(netcal: ModuleType) -> None:
    p, y, counts = stream(np.repeat(np.arange(100), 7), 0.4)
    for n_bins in (5, 10, 20):
        theirs = netcal.ECE(n_bins, equal_intervals=False).measure(p, y)
        assert adaptive_ece(counts, n_bins) == pytest.approx(theirs, abs=1e-12)
    with pytest.raises(ValueError, match="edge difference"):  # and it has no answer where percents repeat
        netcal.ECE(10, equal_intervals=False).measure(np.array([0.95, 0.9] * 50), np.array([0, 1] * 50))


@pytest.mark.parametrize("n_bins", [10, 15])
def test_torchmetrics_agrees_below_100_but_for_30_percent(torchmetrics: Callable[..., float], n_bins: int) -> None:
    bad = {30} if n_bins == 10 else set()
    percent = np.random.default_rng(4).choice([c for c in range(100) if c not in bad], 500)
    p, y, counts = stream(percent, 0.6)
    for norm, ours in (("l1", ece), ("max", mce)):
        theirs = torchmetrics("CalibrationError", p, y, n_bins=n_bins, norm=norm)
        assert ours(counts, n_bins, "left") == pytest.approx(theirs, abs=1e-12)
    for c in bad:  # its edge 0.3 is 0.30000000000000004
        percent, y = np.array(neighbours(c)).T
        theirs = torchmetrics("CalibrationError", percent / 100, y, n_bins=n_bins)
        assert theirs == pytest.approx(ece(counts_of(neighbours(c)), n_bins, "right"))
        assert theirs < ece(counts_of(neighbours(c)), n_bins, "left") - 0.2


@pytest.mark.parametrize("n_bins", [10, 15])
@pytest.mark.parametrize("side", ["right", "left"])
def test_torchmetrics_opens_a_bin_for_100_percent(
    torchmetrics: Callable[..., float], netcal: ModuleType, n_bins: int, side: str
) -> None:
    """Its issue 3510, not mended in 1.9.0: 100 % belongs to the last bin, and it counts 100 % in a phantom one."""
    percent, y = np.array(LAST_BIN).T
    for norm, theirs in (("l1", 0.525), ("max", 1)):
        assert torchmetrics("CalibrationError", percent / 100, y, n_bins=n_bins, norm=norm) == pytest.approx(theirs)
    for ours, other in ((ece, netcal.ECE), (mce, netcal.MCE)):  # one bin: (0.95 + 1) / 2 said, 1 / 2 right
        assert ours(counts_of(LAST_BIN), n_bins, side) == pytest.approx(0.475)
        assert other(n_bins).measure(percent / 100, y) == pytest.approx(0.475)


@given(pairs, st.integers(1, 12))
def test_adaptive_ece_equals_its_rule(rows: list[tuple[int, int]], n_bins: int) -> None:
    got = adaptive_ece(counts_of(rows), n_bins)
    if len(rows) < n_bins:
        assert np.isnan(got)
        return
    bins: dict[int, list[float]] = {}
    for percent, label in rows:
        below, own = sum(q < percent for q, _ in rows), sum(q == percent for q, _ in rows)
        bins.setdefault((2 * below + own) * n_bins // (2 * len(rows)), []).append(percent / 100 - label)
    assert max(bins) < n_bins
    assert got == pytest.approx(sum(abs(sum(gaps)) for gaps in bins.values()) / len(rows), abs=1e-12)
