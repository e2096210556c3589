"""Proper scores and discrimination against scikit-learn and torchmetrics, and what must not matter to any measure."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_answers import counts_of, pairs
from sklearn import metrics as sk

from csp_utils.measures.calibration import (
    adaptive_ece,
    ece,
    histogram,
    mce,
    over_and_underconfidence,
    signed_error,
)
from csp_utils.measures.scores import (
    auc,
    average_precision,
    brier,
    brier_decomposition,
    debiased_decomposition,
    log_score,
    squared_gap,
)
from csp_utils.measures.selective import accuracy_at_coverage, aurc
from csp_utils.measures.smooth_ece import smece


@pytest.fixture(scope="module")
def torchmetrics() -> Callable[..., float]:
    """A binary measure, by its name, of confidences 0..1 in double precision and labels."""
    import torch
    from torchmetrics import classification

    def value(name: str, p: np.ndarray, y: np.ndarray, **options: int | str) -> float:
        return float(getattr(classification, f"Binary{name}")(**options)(torch.from_numpy(p), torch.from_numpy(y)))

    return value


@given(pairs)
@settings(deadline=None)
def test_scikit_learn_agrees(rows: list[tuple[int, int]]) -> None:
    counts = counts_of(rows)
    percent, y = np.array(rows).T
    p = percent / 100
    assert brier(counts) == pytest.approx(sk.brier_score_loss(y, p, pos_label=1), abs=1e-12)
    clipped = np.clip(p, 0.005, 0.995)
    assert log_score(counts) == pytest.approx(sk.log_loss(y, clipped, labels=[0, 1]), abs=1e-12)
    right, wrong = (average_precision(counts, which) for which in ("right", "wrong"))
    if 0 < y.sum() < len(y):
        assert auc(counts) == pytest.approx(sk.roc_auc_score(y, p), abs=1e-12)
        assert right == pytest.approx(sk.average_precision_score(y, percent), abs=1e-12)
        assert wrong == pytest.approx(sk.average_precision_score(1 - y, 100 - percent), abs=1e-12)
    else:
        assert np.isnan(right) and np.isnan(wrong) and np.isnan(auc(counts))


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
        assert average_precision(counts, which) == pytest.approx(theirs, abs=precise)


@pytest.mark.parametrize("label", [0, 1])
def test_torchmetrics_gives_a_ranking_of_one_class_a_number(torchmetrics: Callable[..., float], label: int) -> None:
    rows = [(20, label), (40, label)]
    percent, y = np.array(rows).T
    for name, ours in (("AUROC", auc), ("AveragePrecision", average_precision)):
        if (name, label) == ("AveragePrecision", 1):  # without a warning
            assert torchmetrics(name, percent / 100, y) == 1
        else:
            with pytest.warns(UserWarning, match="No (positive|negative) samples"):
                assert torchmetrics(name, percent / 100, y) == 0
        assert np.isnan(ours(counts_of(rows)))


# ---------------------------------------------------------------------------------------------------------- properties


@given(pairs)
@settings(deadline=None)
def test_asking_for_the_opposite_changes_no_score(rows: list[tuple[int, int]]) -> None:
    """Label flipped and confidence 100 - c: the same judgement. What finds the right now finds the wrong."""
    one, two = counts_of(rows), counts_of([(100 - percent, 1 - label) for percent, label in rows])
    np.testing.assert_allclose(
        [auc(one), brier(one), log_score(one), *brier_decomposition(one), smece(one),
         -signed_error(one), average_precision(one, "wrong"), ece(one, 15, "left")],
        [auc(two), brier(two), log_score(two), *brier_decomposition(two), smece(two),
         signed_error(two), average_precision(two, "right"), ece(two, 15, "right")],
        atol=1e-6,
    )  # fmt: skip


@given(pairs, st.sampled_from([1, 10, 15]), st.sampled_from(["right", "left"]))
@settings(max_examples=50, deadline=None)
def test_the_parts_add_up(rows: list[tuple[int, int]], n_bins: int, side: str) -> None:
    counts = counts_of(rows)
    reliability, resolution, uncertainty = brier_decomposition(counts)
    assert reliability - resolution + uncertainty == pytest.approx(brier(counts), abs=1e-12)
    assert min(reliability, resolution, uncertainty) >= 0
    over, under = over_and_underconfidence(counts, n_bins, side)
    error, signed = ece(counts, n_bins, side), signed_error(counts)
    assert over + under == pytest.approx(error, abs=1e-12) and over - under == pytest.approx(signed, abs=1e-12)
    assert abs(signed) - 1e-12 <= error <= mce(counts, n_bins, side) + 1e-12
    assert smece(counts) >= abs(signed) - 1e-3  # smoothing cannot cancel more than averaging does


@given(st.lists(pairs, min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_many_samples_at_once_are_each_alone(samples: list[list[tuple[int, int]]]) -> None:
    stack = np.stack([*map(counts_of, samples), np.zeros((2, 101))])
    for measure in (smece, adaptive_ece, mce, aurc, average_precision,
                    log_score, lambda c: accuracy_at_coverage(c, 0.8)):  # fmt: skip
        alone = [float(measure(counts)) for counts in stack]
        np.testing.assert_allclose(measure(stack), alone, atol=1e-6)
        assert np.isnan(alone[-1])  # no count at all


@given(pairs)
def test_the_debiased_parts_are_those_of_ferro_and_fricker_and_add_up(rows: list[tuple[int, int]]) -> None:
    counts = counts_of(rows)
    n = len(rows)
    classical, debiased = brier_decomposition(counts), debiased_decomposition(counts)
    noise = 0.0
    for percent in {percent for percent, _ in rows}:
        labels = [label for said, label in rows if said == percent]
        share = np.mean(labels)
        noise += len(labels) * share * (1 - share) / (len(labels) - 1) / n if len(labels) > 1 else 0
    if n == 1:
        assert np.isnan(debiased[1])
        return
    share = np.mean([label for _, label in rows])
    whole = share * (1 - share) / (n - 1)
    expected = classical[0] - noise, classical[1] - noise + whole, classical[2] + whole
    assert debiased == pytest.approx(expected)
    assert debiased[0] - debiased[1] + debiased[2] == pytest.approx(float(brier(counts)))


def test_debiased_measures_are_right_on_average_where_the_classical_ones_are_not() -> None:
    """Calibrated percents: reliability and squared gap are 0. Random percents: so is resolution."""
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        percent = 10 * rng.integers(0, 11, 300)
        calibrated = histogram(percent, rng.random(300) < percent / 100)
        random = histogram(percent, rng.random(300) < 0.5)
        found.append([*(f(calibrated)[0] for f in (brier_decomposition, debiased_decomposition)),
                      *(f(random)[1] for f in (brier_decomposition, debiased_decomposition)),
                      squared_gap(calibrated)])  # fmt: skip
    reliability, debiased, resolution, unresolved, squares = np.mean(found, 0)
    error = np.std(found, 0, ddof=1) / np.sqrt(300)
    assert reliability > 10 * error[0] and resolution > 10 * error[2]
    assert (np.abs([debiased, unresolved, squares]) < 3 * error[[1, 3, 4]]).all()


def test_the_squared_gap_is_worked_by_hand() -> None:
    counts = counts_of([(90, 1), (90, 1), (90, 0), (90, 1), (20, 0)])
    expected = (4 * (0.9 - 0.75) ** 2 - 4 * 0.75 * 0.25 / 3 + 1 * 0.2**2) / 5
    assert squared_gap(counts) == pytest.approx(expected)
