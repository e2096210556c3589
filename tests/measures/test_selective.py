"""Selective prediction against the mean over all orders of equal confidences."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_answers import counts_of, stream

from csp_utils.measures.selective import accuracy_at_coverage, aurc, risk_coverage


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
    assert aurc(counts_of(rows)) == pytest.approx(np.mean(areas), abs=1e-12)
    assert accuracy_at_coverage(counts_of(rows), 0.8) == pytest.approx(np.mean(accuracies), abs=1e-12)


def test_the_risk_coverage_curve_ends_at_the_error_rate_and_has_the_area() -> None:
    percent = np.random.default_rng(0).integers(50, 101, 4000)
    _, label, counts = stream(percent, percent / 100)
    curve = risk_coverage(counts)
    assert curve["risk"].iloc[-1] == pytest.approx(1 - label.mean())
    assert curve["risk"].iloc[79] == pytest.approx(1 - float(accuracy_at_coverage(counts, 0.8)))
    assert curve["risk"].mean() == pytest.approx(float(aurc(counts)), abs=5e-3)
    assert risk_coverage(np.zeros((2, 101)))["risk"].isna().all()
