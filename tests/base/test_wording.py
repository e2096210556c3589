"""Names keep their order, numbers and intervals have one format, and a missing value is never a number."""

import math

import numpy as np
import pandas as pd
import pytest

from csp_utils.base import wording
from csp_utils.data.benchmarks import SPLITS
from csp_utils.measures import metrics


def test_the_splits_are_those_of_the_benchmarks_in_their_order() -> None:
    assert tuple(wording.SPLITS) == SPLITS


def test_every_measure_is_explained() -> None:
    entries = {name: entry for group in wording.MEASURES.values() for name, entry in group.items()}
    assert set(entries) == set(metrics.MEASURES)
    assert min(len(entry.explanation) for entry in entries.values()) > 20


def test_known_keys_come_first_in_order_and_unknown_ones_keep_theirs() -> None:
    found = wording.in_order(["noisy", "csp", "base", "csp", "other"], wording.VARIANTS)
    assert found == ["base", "csp", "noisy", "other"]
    assert wording.name_of("noisy") == "noisy" and wording.name_of("csp") == "SFT + SimPO"
    assert wording.heading("brier") == "Brier ↓" and wording.heading("unknown") == "unknown"


@pytest.mark.parametrize(("value", "text"), [(-0.25, "−0.250"), (0.25, "+0.250"), (0.0, "0.000"), (None, "undefined")])
def test_a_signed_number_has_a_sign_only_if_it_is_not_zero(value: float | None, text: str) -> None:
    assert wording.number(value, signed=True) == text


@pytest.mark.parametrize("missing", [None, math.nan, np.nan, pd.NA])
def test_a_missing_value_is_undefined_and_a_missing_interval_is_left_out(missing: object) -> None:
    assert wording.with_interval(missing, 0.1, 0.2) == "undefined"
    assert wording.with_interval(0.5, missing, missing) == "0.500"
    assert wording.p_text(missing) == "" and wording.percent(missing) == "–"


def test_a_table_is_formatted_row_by_row() -> None:
    table = pd.DataFrame({"diff": [-0.125, None], "ci_low": [-0.25, None], "ci_high": [0.0, None]})
    assert wording.rows_with_intervals(table, "diff", signed=True) == ["−0.12 [−0.25, 0.00]", "undefined"]


def test_small_p_values_are_bounds() -> None:
    assert (wording.p_text(0.0004), wording.p_text(0.002)) == ("p < 0.001", "p = 0.002")


def test_lists_and_counts_read_as_sentences() -> None:
    assert wording.listed(["a", "b", "c"]) == "a, b and c" and wording.listed(["a"]) == "a"
    assert wording.counted(1, "image") == "1 image" and wording.counted(2, "image") == "2 images"
