"""The fitted schedule: the curve of a model, and that the fit finds a gamma that is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp_utils.base.errors import UserError
from csp_utils.noise import schedule

SIGNALS = [1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003]


def curve(share: dict[float, float], n: int = 200) -> pd.DataFrame:
    """The curve of a model that sees so large a share of the objects at each signal."""
    rows = [(f"{i}", "ox", signal, "Yes" if i < seen * n else "No") for signal, seen in share.items() for i in range(n)]
    return schedule.curve(pd.DataFrame(rows, columns=["row_id", "keyword", "signal", "answer"]))


def test_the_curve_is_made_monotone_and_counts_what_was_not_read() -> None:
    found = curve({1.0: 0.9, 0.5: 0.6, 0.2: 0.7, 0.01: 0.1})
    assert found["signal"].tolist() == [1.0, 0.5, 0.2, 0.01] and (found["n"] == 200).all()
    assert found["fitted"].tolist() == pytest.approx([0.9, 0.65, 0.65, 0.1])
    rows = pd.DataFrame({"row_id": ["0", "1"], "keyword": "ox", "signal": [1.0, 1.0], "answer": ["Yes", None]})
    assert schedule.curve(rows)[["n", "unread", "seen"]].iloc[0].tolist() == [1, 1, 1.0]
    with pytest.raises(UserError, match="no answer could be read as Yes or No"):
        schedule.curve(rows.assign(answer=None))


@given(st.floats(2e-4, 2e-2), st.integers(200, 2000))
@settings(max_examples=20, deadline=None)
def test_a_gamma_that_makes_the_fall_even_is_found(gamma: float, t_max: int) -> None:
    """A model whose sight falls linearly in c under this gamma: the fit gives gamma back."""
    signals = sorted({(1 - gamma) ** (t_max * share) for share in np.linspace(0, 1, 21)}, reverse=True)
    if signals[-1] < 1e-12:
        return
    found = pd.DataFrame({"signal": signals, "fitted": np.linspace(0.9, 0.2, len(signals)), "n": 100})
    fitted = schedule.fit(found, t_max, 0.1)
    assert fitted["gamma"] == pytest.approx(gamma, rel=0.03) and fitted["unevenness"] < 0.01
    assert fitted["unevenness"] <= schedule.unevenness(found, t_max, 0.005) + 1e-6


def test_by_level_falls_with_c_and_meets_both_ends() -> None:
    found = curve(dict(zip(SIGNALS, np.linspace(0.95, 0.05, len(SIGNALS)), strict=True)))
    seen = schedule.by_level(found, 1000, 0.005)
    assert (np.diff(seen) >= 0).all() and seen[100] == pytest.approx(0.95) and seen[0] < 0.15
    assert schedule.by_level(found, 1000, 0.9)[:99].max() == pytest.approx(0.05)  # no signal is left: level, no error


def test_a_model_that_does_not_lose_sight_cannot_be_fitted() -> None:
    with pytest.raises(UserError, match="95% of the time without noise and 92% under the most, a fall"):
        schedule.fit(curve({1.0: 0.95, 0.1: 0.93, 0.01: 0.92}), 1000, 0.1)
