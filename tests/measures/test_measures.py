"""The measures of counts against scikit-learn, netcal and torchmetrics, their definitions, and what must not matter."""

import itertools
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import relplot
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from csp_utils.measures import scores as measures
from csp_utils.measures.calibration import auc, brier, ece, histogram
from csp_utils.measures.smooth import smece

percents = st.integers(0, 100)
pairs = st.lists(st.tuples(percents, st.integers(0, 1)), min_size=1, max_size=60)
edges = st.sampled_from(["right", "left"])


def counts_of(rows: list[tuple[int, int]]) -> np.ndarray:
    """(2, 101) counts of (percent, label) rows."""
    percent, label = np.array(rows).T
    return histogram(percent, label)


def stream(percent: np.ndarray, chance: np.ndarray | float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences 0..1, labels that are 1 with the given chance, and their counts."""
    label = (np.random.default_rng(seed).random(len(percent)) < chance).astype(int)
    return percent / 100, label, histogram(percent, label)


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


# ------------------------------------------------------------------------------------------------- perfectly calibrated


def test_a_perfectly_calibrated_stream_has_no_error_of_any_kind() -> None:
    grid = np.arange(101)
    whole = np.stack([100 - grid, grid]).astype(float)  # of 100 answers at c %, c are right
    alone = np.zeros((101, 2, 101))
    alone[grid, 0, grid], alone[grid, 1, grid] = 100 - grid, grid
    for counts in (whole[None], alone):  # all together, and at every grid point alone
        for error in (
            *(ece(counts, n, side) for n in (10, 15) for side in ("right", "left")), smece(counts),
            measures.mce(counts), measures.adaptive_ece(counts), measures.signed_error(counts),
            *measures.over_and_underconfidence(counts),
        ):  # fmt: skip
            assert (error == 0).all()
        assert measures.brier_decomposition(counts)[0] == pytest.approx(0, abs=1e-15)


def test_a_large_calibrated_sample_has_an_error_near_zero() -> None:
    percent = np.random.default_rng(0).integers(0, 101, 100_000)
    _, _, counts = stream(percent, percent / 100)
    assert smece(counts) < 0.01 and ece(counts) < 0.01 and measures.adaptive_ece(counts) < 0.01


# --------------------------------------------------------------------------------------------------------- scikit-learn


@given(pairs)
@settings(deadline=None)
def test_scikit_learn_agrees(rows: list[tuple[int, int]]) -> None:
    counts = counts_of(rows)
    percent, y = np.array(rows).T
    p = percent / 100
    assert brier(counts) == pytest.approx(sk.brier_score_loss(y, p, pos_label=1), abs=1e-12)
    clipped = np.clip(p, 0.005, 0.995)
    assert measures.log_score(counts) == pytest.approx(sk.log_loss(y, clipped, labels=[0, 1]), abs=1e-12)
    right, wrong = (measures.average_precision(counts, which) for which in ("right", "wrong"))
    if 0 < y.sum() < len(y):
        assert auc(counts) == pytest.approx(sk.roc_auc_score(y, p), abs=1e-12)
        assert right == pytest.approx(sk.average_precision_score(y, percent), abs=1e-12)
        assert wrong == pytest.approx(sk.average_precision_score(1 - y, 100 - percent), abs=1e-12)
    else:
        assert np.isnan(right) and np.isnan(wrong) and np.isnan(auc(counts))


# --------------------------------------------------------------------------------------------------------- torchmetrics


@given(pairs)
@settings(deadline=None)
def test_torchmetrics_agrees_on_ranking(torchmetrics: Callable[..., float], rows: list[tuple[int, int]]) -> None:
    rows = [*rows, (40, 0), (40, 1), (60, 1)]  # both classes: where one is missing it gives numbers, see below
    counts = counts_of(rows)
    percent, y = np.array(rows).T
    precise = 1e-6  # it counts in single precision
    assert auc(counts) == pytest.approx(torchmetrics("AUROC", percent / 100, y), abs=precise)
    for which, p, label in (("right", percent, y), ("wrong", 100 - percent, 1 - y)):
        theirs = torchmetrics("AveragePrecision", p / 100, label)
        assert measures.average_precision(counts, which) == pytest.approx(theirs, abs=precise)


@pytest.mark.parametrize("label", [0, 1])
def test_torchmetrics_gives_a_ranking_of_one_class_a_number(torchmetrics: Callable[..., float], label: int) -> None:
    rows = [(20, label), (40, label)]
    percent, y = np.array(rows).T
    for name, ours in (("AUROC", auc), ("AveragePrecision", measures.average_precision)):
        if (name, label) == ("AveragePrecision", 1):  # without a warning
            assert torchmetrics(name, percent / 100, y) == 1
        else:
            with pytest.warns(UserWarning, match="No (positive|negative) samples"):
                assert torchmetrics(name, percent / 100, y) == 0
        assert np.isnan(ours(counts_of(rows)))


# -------------------------------------------------------------------------------------------------- bins: the libraries


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
    assert measures.mce(counts, n_bins, "left") == pytest.approx(netcal.MCE(n_bins).measure(p, y), abs=1e-12)
    for c in bad:  # its edge 0.3 is 0.30000000000000004
        percent, y = np.array(neighbours(c)).T
        theirs = netcal.ECE(n_bins).measure(percent / 100, y)
        assert theirs == pytest.approx(ece(counts_of(neighbours(c)), n_bins, "right"))
        assert theirs < ece(counts_of(neighbours(c)), n_bins, "left") - 0.2


def test_netcals_bins_of_equal_mass_agree_where_no_percent_has_to_be_split(netcal: ModuleType) -> None:
    p, y, counts = stream(np.repeat(np.arange(100), 7), 0.4)
    for n_bins in (5, 10, 20):
        theirs = netcal.ECE(n_bins, equal_intervals=False).measure(p, y)
        assert measures.adaptive_ece(counts, n_bins) == pytest.approx(theirs, abs=1e-12)
    with pytest.raises(ValueError, match="edge difference"):  # and it has no answer where percents repeat
        netcal.ECE(10, equal_intervals=False).measure(np.array([0.95, 0.9] * 50), np.array([0, 1] * 50))


@pytest.mark.parametrize("n_bins", [10, 15])
def test_torchmetrics_agrees_below_100_but_for_30_percent(torchmetrics: Callable[..., float], n_bins: int) -> None:
    bad = {30} if n_bins == 10 else set()
    percent = np.random.default_rng(4).choice([c for c in range(100) if c not in bad], 500)
    p, y, counts = stream(percent, 0.6)
    for norm, ours in (("l1", ece), ("max", measures.mce)):
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
    for ours, other in ((ece, netcal.ECE), (measures.mce, netcal.MCE)):  # one bin: (0.95 + 1) / 2 said, 1 / 2 right
        assert ours(counts_of(LAST_BIN), n_bins, side) == pytest.approx(0.475)
        assert other(n_bins).measure(percent / 100, y) == pytest.approx(0.475)


@given(pairs, st.integers(1, 12))
def test_adaptive_ece_equals_its_rule(rows: list[tuple[int, int]], n_bins: int) -> None:
    got = measures.adaptive_ece(counts_of(rows), n_bins)
    if len(rows) < n_bins:
        assert np.isnan(got)
        return
    bins: dict[int, list[float]] = {}
    for percent, label in rows:
        below, own = sum(q < percent for q, _ in rows), sum(q == percent for q, _ in rows)
        bins.setdefault((2 * below + own) * n_bins // (2 * len(rows)), []).append(percent / 100 - label)
    assert max(bins) < n_bins
    assert got == pytest.approx(sum(abs(sum(gaps)) for gaps in bins.values()) / len(rows), abs=1e-12)


# ------------------------------------------------------------------------------------------------- selective prediction


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_selective_prediction_equals_the_mean_over_all_orders_of_ties(rows: list[tuple[int, int]]) -> None:
    areas, accuracies, n = [], [], len(rows)
    for order in itertools.permutations(rows):
        right = [label for percent, label in sorted(order, key=lambda row: -row[0])]  # stable: ties as in the order
        areas.append(np.mean([1 - np.mean(right[:k]) for k in range(1, n + 1)]))
        whole = int(0.8 * n)
        part = right[whole] * (0.8 * n - whole) if whole < n else 0.0
        accuracies.append((sum(right[:whole]) + part) / (0.8 * n))
    assert measures.aurc(counts_of(rows)) == pytest.approx(np.mean(areas), abs=1e-12)
    assert measures.accuracy_at_coverage(counts_of(rows), 0.8) == pytest.approx(np.mean(accuracies), abs=1e-12)


def test_the_risk_coverage_curve_ends_at_the_error_rate_and_has_the_area() -> None:
    percent = np.random.default_rng(0).integers(50, 101, 4000)
    _, label, counts = stream(percent, percent / 100)
    curve = measures.risk_coverage(counts)
    assert curve["risk"].iloc[-1] == pytest.approx(1 - label.mean())
    assert curve["risk"].iloc[79] == pytest.approx(1 - float(measures.accuracy_at_coverage(counts, 0.8)))
    assert curve["risk"].mean() == pytest.approx(float(measures.aurc(counts)), abs=5e-3)
    assert measures.risk_coverage(np.zeros((2, 101)))["risk"].isna().all()


# ----------------------------------------------------------------------------------------------------------- properties


@given(pairs)
@settings(deadline=None)
def test_asking_for_the_opposite_changes_no_score(rows: list[tuple[int, int]]) -> None:
    """Label flipped and confidence 100 - c: the same judgement. What finds the right now finds the wrong."""
    one, two = counts_of(rows), counts_of([(100 - percent, 1 - label) for percent, label in rows])
    np.testing.assert_allclose(
        [auc(one), brier(one), measures.log_score(one), *measures.brier_decomposition(one), smece(one),
         -measures.signed_error(one), measures.average_precision(one, "wrong"), ece(one, 15, "left")],
        [auc(two), brier(two), measures.log_score(two), *measures.brier_decomposition(two), smece(two),
         measures.signed_error(two), measures.average_precision(two, "right"), ece(two, 15, "right")],
        atol=1e-6,
    )  # fmt: skip


@given(pairs, st.sampled_from([1, 10, 15]), edges)
@settings(max_examples=50, deadline=None)
def test_the_parts_add_up(rows: list[tuple[int, int]], n_bins: int, side: str) -> None:
    counts = counts_of(rows)
    reliability, resolution, uncertainty = measures.brier_decomposition(counts)
    assert reliability - resolution + uncertainty == pytest.approx(brier(counts), abs=1e-12)
    assert min(reliability, resolution, uncertainty) >= 0
    over, under = measures.over_and_underconfidence(counts, n_bins, side)
    error, signed = ece(counts, n_bins, side), measures.signed_error(counts)
    assert over + under == pytest.approx(error, abs=1e-12) and over - under == pytest.approx(signed, abs=1e-12)
    assert abs(signed) - 1e-12 <= error <= measures.mce(counts, n_bins, side) + 1e-12
    assert smece(counts) >= abs(signed) - 1e-3  # smoothing cannot cancel more than averaging does


@given(st.lists(pairs, min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_many_samples_at_once_are_each_alone(samples: list[list[tuple[int, int]]]) -> None:
    stack = np.stack([*map(counts_of, samples), np.zeros((2, 101))])
    for measure in (smece, measures.adaptive_ece, measures.mce, measures.aurc, measures.average_precision,
                    measures.log_score, lambda c: measures.accuracy_at_coverage(c, 0.8)):  # fmt: skip
        alone = [float(measure(counts)) for counts in stack]
        np.testing.assert_allclose(measure(stack), alone, atol=1e-6)
        assert np.isnan(alone[-1])  # no count at all
