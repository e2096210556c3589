"""Rank correlations under weights against scipy's on repeated rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from csp_utils.measures import stress_curves
from csp_utils.measures.bootstrap import resamples
from csp_utils.measures.rank import as_compared, rank_correlations

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


def test_a_constant_confidence_orders_nothing_and_a_missing_one_is_undefined() -> None:
    undefined = resamples("spearman", np.full(5, np.nan), 9)
    assert (as_compared(undefined, 4).low == 0).all() and (as_compared(undefined, 4).high == 0).all()
    assert np.isnan(as_compared(undefined, 0).low).all()


def test_a_base_that_always_says_the_same_is_compared_in_the_stress_test() -> None:
    rows = [("m", variant, f"{image}.png", "object", c, "right", "Yes", said)
            for variant in ("base", "csp", "sft") for image in range(6) for c in (100, 50, 0)
            for said in ({"base": 95, "csp": c, "sft": None}[variant],)]  # fmt: skip
    columns = ["model", "variant", "image", "condition", "c", "answer", "candidate", "verbalized"]
    table = pd.DataFrame(rows, columns=columns).astype({"verbalized": "Int64"})
    values, differences = stress_curves.correlations(table, 40, 0)
    value = values[values["metric"] == "spearman"].set_index("variant")["value"]
    assert pd.isna(value["base"]) and value["csp"] == pytest.approx(1) and pd.isna(value["sft"])
    found = differences[differences["metric"] == "spearman"].set_index(["variant_a", "variant_b"])["diff"]
    assert found["base", "csp"] == pytest.approx(1) and pd.isna(found["base", "sft"])  # sft was never read
