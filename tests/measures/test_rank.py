"""Rank correlations under weights against scipy's on repeated rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from csp_utils.measures.rank import rank_correlations

weighted = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=30)


@given(weighted)
def test_rank_correlations_equal_scipys_on_the_repeated_rows(rows: list[tuple[int, int, int]]) -> None:
    x, y, w = np.array(rows, dtype=float).T
    rx, ry = np.repeat(x, w.astype(int)), np.repeat(y, w.astype(int))
    rho, tau = (values[0] for values in rank_correlations(x, y, w[None]).values())
    if len(set(rx)) < 2 or len(set(ry)) < 2:
        assert np.isnan(rho) and np.isnan(tau)
    else:
        assert rho == pytest.approx(stats.spearmanr(rx, ry).statistic, abs=1e-9)
        assert tau == pytest.approx(stats.kendalltau(rx, ry).statistic, abs=1e-9)
