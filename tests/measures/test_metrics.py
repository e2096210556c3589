"""Metrics against scikit-learn and scipy, against numbers worked by hand, and against what must not matter."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from csp_utils.base.errors import UserError
from csp_utils.measures import bootstrap as intervals
from csp_utils.measures import calibration, metrics
from csp_utils.measures.metrics import Protocol, compute

percents = st.integers(0, 100)
answers = st.tuples(
    st.one_of(st.none(), percents),  # c(Yes)
    st.one_of(st.none(), percents),  # c(No)
    st.sampled_from(["yes", "no"]),  # the truth
    st.integers(0, 3),  # image
    st.floats(0, 1, width=16),  # internal probability of Yes
    st.sampled_from(["Yes", "No", None]),  # plain answer
)


def table(rows: list[tuple], variant: str = "base", split: str = "pope_random") -> pd.DataFrame:
    out = []
    for i, (c_yes, c_no, truth, image, p_yes, plain) in enumerate(rows):
        for candidate, percent, p in (("Yes", c_yes, p_yes), ("No", c_no, 1 - p_yes)):
            label = int(candidate.lower() == truth)
            raw = "?" if percent is None else f"{percent}%"
            question = f"Is there a {i}?"
            out.append(
                ("tiny", variant, split, str(i), f"{image}.png", question, label, candidate, raw, percent, p, plain)
            )
    frame = pd.DataFrame(out, columns=metrics.RESPONSE_COLUMNS)
    return frame.astype({"verbalized": "Int64"})


def values(frame: pd.DataFrame, **protocol) -> pd.Series:
    return compute(frame, Protocol(**protocol), 2)[0].set_index("metric")["value"]


# ------------------------------------------------------------------------------------------------ calibration error


@pytest.mark.parametrize("edges", ["right", "left"])
@pytest.mark.parametrize("n_bins", [1, 3, 7, 10, 15, 100])
def test_a_perfectly_calibrated_stream_has_no_calibration_error(edges: str, n_bins: int) -> None:
    grid = np.arange(101)
    counts = np.stack([100 - grid, grid]).astype(float)  # of 100 answers at c %, c are right
    assert calibration.ece(counts, n_bins, edges) == 0
    for percent in grid:  # and at every grid point alone
        alone = np.zeros((2, 101))
        alone[:, percent] = 100 - percent, percent
        assert calibration.ece(alone, n_bins, edges) == 0


@pytest.mark.parametrize(
    ("percent", "right", "left"),
    [(0, 0, 0), (1, 0, 0), (9, 0, 0), (10, 0, 1), (11, 1, 1), (30, 2, 3), (60, 5, 6), (70, 6, 7), (90, 8, 9),
     (99, 9, 9), (100, 9, 9)],
)  # fmt: skip
def test_bin_edges(percent: int, right: int, left: int) -> None:
    """30, 60 and 70 are where floating-point bins go wrong; 100 must not open a bin of its own."""
    assert calibration.bin_of_percent(10, "right")[percent] == right
    assert calibration.bin_of_percent(10, "left")[percent] == left


def test_the_edge_convention_changes_the_error_where_confidences_sit_on_edges() -> None:
    counts = np.zeros((2, 101))
    counts[1, 80], counts[0, 85] = 1, 1
    assert calibration.ece(counts, edges="right") == pytest.approx((0.2 + 0.85) / 2)  # apart
    assert calibration.ece(counts, edges="left") == pytest.approx(abs(1 - 1.65) / 2)  # together


def test_the_papers_nearly_constant_confidence() -> None:
    """Qwen-VL on AMBER attribute prints ECE 0.4732 and Brier 0.4731: a constant p over pairs with base rate 1/2."""
    p = 0.973
    rows = [(97 if i % 10 < 7 else 98,) * 2 + ("yes" if i % 2 else "no", i % 5, 0.9, "Yes") for i in range(1000)]
    got = values(table(rows))
    assert got["ece"] == pytest.approx(p - 0.5, abs=1e-12) and got["ece"] == pytest.approx(0.4732, abs=5e-4)
    assert got["brier"] == pytest.approx((p**2 + (1 - p) ** 2) / 2, abs=5e-5)
    assert got["acc"] == 0 and got["f1"] == 0 and got["tie_rate"] == 1


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
    assert calibration.ece(calibration.histogram(percent, label), 10, edges) == pytest.approx(total, abs=1e-12)


@given(st.lists(st.tuples(percents, st.integers(0, 1)), min_size=1, max_size=60), st.sampled_from(["right", "left"]))
def test_the_reliability_table_adds_up_to_the_error(pairs: list[tuple[int, int]], edges: str) -> None:
    percent, label = np.array(pairs).T
    counts = calibration.histogram(percent, label)
    diagram = calibration.reliability(counts, 10, edges)
    gaps = (diagram["accuracy"] - diagram["confidence"]).abs().fillna(0) * diagram["n"]
    assert gaps.sum() / diagram["n"].sum() == pytest.approx(calibration.ece(counts, 10, edges), abs=1e-12)
    assert ((diagram["confidence"] * 100 <= diagram["high"] + 1e-9) | diagram["n"].eq(0)).all()


# --------------------------------------------------------------------------------------------- other implementations


@given(st.lists(answers, min_size=1, max_size=25))
@settings(max_examples=40, deadline=None)
def test_scikit_learn_agrees(rows: list[tuple]) -> None:
    frame = table(rows)
    got = values(frame)
    parsed = frame.dropna(subset="verbalized")
    p, y = parsed["verbalized"].to_numpy(float) / 100, parsed["label"].to_numpy(int)
    if len(y):
        assert got["brier"] == pytest.approx(np.mean((p - y) ** 2), abs=1e-12)
        assert got["brier"] == pytest.approx(sk.brier_score_loss(y, p, pos_label=1), abs=1e-12)
    else:
        assert pd.isna(got["brier"]) and pd.isna(got["ece"])
    if 0 < y.sum() < len(y):
        assert got["auc"] == pytest.approx(sk.roc_auc_score(y, p), abs=1e-12)
        curve = calibration.roc(calibration.histogram(parsed["verbalized"].to_numpy(int), y))
        assert sk.auc(curve["fpr"], curve["tpr"]) == pytest.approx(got["auc"], abs=1e-12)
    else:
        assert pd.isna(got["auc"])
    said = [0 if a is None or b is None or a == b else (1 if a > b else -1) for a, b, *_ in rows]
    truth = [1 if row[2] == "yes" else -1 for row in rows]
    assert got["acc"] == pytest.approx(sk.accuracy_score(truth, said))
    assert got["plain_acc"] == pytest.approx(np.mean([str(r[5]).lower() == r[2] for r in rows]))
    for positive, sign in (("yes", 1), ("no", -1)):
        f1 = values(frame, positive=positive)["f1"]
        if sign in truth or sign in said:
            ours = sk.f1_score([t == sign for t in truth], [s == sign for s in said], zero_division=0)
            assert f1 == pytest.approx(ours)
        else:
            assert pd.isna(f1)


weighted = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=30)


@given(weighted)
def test_rank_correlations_equal_scipys_on_the_repeated_rows(rows: list[tuple[int, int, int]]) -> None:
    x, y, w = np.array(rows, dtype=float).T
    rx, ry = np.repeat(x, w.astype(int)), np.repeat(y, w.astype(int))
    rho, tau = (f(x, y, w[None])[0] for f in (intervals.spearman, intervals.kendall))
    if len(set(rx)) < 2 or len(set(ry)) < 2:
        assert np.isnan(rho) and np.isnan(tau)
    else:
        assert rho == pytest.approx(stats.spearmanr(rx, ry).statistic, abs=1e-9)
        assert tau == pytest.approx(stats.kendalltau(rx, ry).statistic, abs=1e-9)


# ------------------------------------------------------------------------------------------------ what must not matter


@given(st.lists(answers, min_size=1, max_size=12), st.randoms(), st.sampled_from(["wrong", "random"]))
@settings(max_examples=15, deadline=None)
def test_the_order_of_rows_and_the_names_do_not_matter(rows: list[tuple], random, ties: str) -> None:
    frame = table(rows)
    order = list(range(len(frame)))
    random.shuffle(order)
    pd.testing.assert_series_equal(values(frame, ties=ties), values(frame.iloc[order], ties=ties))
    names = {str(i): f"q{len(rows) - i:03d}" for i in range(len(rows))}
    renamed = frame.assign(question_id=frame["question_id"].map(names))
    pd.testing.assert_series_equal(values(frame, ties=ties), values(renamed, ties=ties))


@given(st.lists(answers, min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_asking_everything_twice_changes_no_value(rows: list[tuple]) -> None:
    pd.testing.assert_series_equal(values(table(rows)), values(table(rows + rows)), atol=1e-12)


@given(st.lists(answers, min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_swapping_yes_and_no_everywhere_changes_only_the_positive_class(rows: list[tuple]) -> None:
    other = {"yes": "no", "no": "yes", "Yes": "No", "No": "Yes", None: None}
    swapped = [(b, a, other[t], i, 1 - p, other[plain]) for a, b, t, i, p, plain in rows]
    one, two = values(table(rows)), values(table(swapped), positive="no")
    pd.testing.assert_series_equal(one, two, atol=1e-12)


# ----------------------------------------------------------------------------------------------------- ties and nulls


def test_ties_are_no_prediction_unless_asked_for() -> None:
    rows = [(95, 95, "yes", 0, 0.9, "Yes"), (95, 95, "no", 1, 0.9, "Yes")]
    assert values(table(rows), ties="wrong")["acc"] == 0
    assert values(table(rows), ties="first")["acc"] == 0.5
    many = table([(95, 95, "yes", i % 4, 0.9, "Yes") for i in range(400)])
    assert 0.4 < values(many, ties="random")["acc"] < 0.6
    assert values(many, ties="random", seed=1)["acc"] != values(many, ties="random", seed=2)["acc"]


def test_an_unparsed_confidence_is_counted_and_never_guessed() -> None:
    rows = [(90, None, "yes", 0, 0.9, "Yes"), (80, 20, "yes", 1, 0.8, None)]
    got = compute(table(rows), Protocol(ties="first"), 5)[0].set_index("metric")
    assert got["value"]["acc"] == 0.5 and got["value"]["parse_failure_rate"] == 0.25
    assert got["n"][["acc", "brier", "ece", "auc", "parse_failure_rate"]].tolist() == [2, 3, 3, 3, 4]
    assert got["value"]["brier"] == pytest.approx((0.1**2 + 0.2**2 + 0.2**2) / 3)
    assert got["value"]["tie_rate"] == 0 and got["value"]["plain_acc"] == 0.5


def test_an_undefined_metric_is_null_with_a_reason() -> None:
    got = compute(table([(None, None, "no", 0, 0.5, None), (None, None, "no", 1, 0.5, "No")]), Protocol(), 5)[0]
    got = got.set_index("metric")
    for metric in ("f1", "auc", "brier", "ece", "spearman", "kendall"):
        assert pd.isna(got["value"][metric]) and pd.isna(got["ci_low"][metric]) and got["reason"][metric]
    assert got["reason"][["acc", "tie_rate", "plain_acc"]].isna().all()


# ---------------------------------------------------------------------------------------------------------- intervals


def test_intervals_are_seeded_and_hold_the_value() -> None:
    rng = np.random.default_rng(0)
    rows = [(int(rng.integers(101)), int(rng.integers(101)), "yes", i // 6, rng.random(), "Yes") for i in range(300)]
    one, two, other = (compute(table(rows), Protocol(seed=s), 200)[0] for s in (3, 3, 4))
    pd.testing.assert_frame_equal(one, two)
    assert not one["ci_low"].equals(other["ci_low"])
    known = one[~one["metric"].isin(["tie_rate", "parse_failure_rate", "plain_acc"])].dropna(subset="value")
    assert ((known["ci_low"] <= known["value"]) & (known["value"] <= known["ci_high"])).all()
    acc = one.set_index("metric").loc["acc"]
    assert acc["ci_high"] - acc["ci_low"] == pytest.approx(4 * np.sqrt(0.25 / 300), rel=0.4)


def test_images_are_resampled_not_questions() -> None:
    """Ten equal questions an image: the interval is as wide as that of one question an image."""
    rng = np.random.default_rng(1)
    rows = [(90, 10, "yes" if rng.random() < 0.7 else "no", i, 0.5, "Yes") for i in range(60)]
    width = {}
    for times in (1, 10):
        acc = compute(table(rows * times), Protocol(), 400)[0].set_index("metric").loc["acc"]
        width[times] = acc["ci_high"] - acc["ci_low"]
    assert width[10] == pytest.approx(width[1])


def test_one_image_has_no_interval() -> None:
    got = compute(table([(90, 10, "yes", 0, 0.5, "Yes")]), Protocol(), 50)[0].set_index("metric")
    assert got["value"]["acc"] == 1 and pd.isna(got["ci_low"]["acc"])


def test_differences_are_paired() -> None:
    """csp is right wherever base is, and once more in every image: the difference has no spread at all."""
    base = [(90, 10, "yes" if i % 3 == 0 else "no", i // 3, 0.5, "Yes") for i in range(30)]
    csp = [(10, 90, t, im, p, a) if i % 3 == 1 else (90, 10, t, im, p, a) for i, (_, _, t, im, p, a) in enumerate(base)]
    both = pd.concat([table(base), table(csp, "csp")])
    differences = compute(both, Protocol(), 100)[2].set_index("metric")
    acc = differences.loc["acc"]
    assert acc["variant_a"] == "base" and acc["variant_b"] == "csp"
    assert (acc["diff"], acc["ci_low"], acc["ci_high"]) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_five_thousand_questions_cost_seconds() -> None:
    rng = np.random.default_rng(0)
    rows = [(*map(int, rng.integers(0, 101, 2)), "yes", i // 6, rng.random(), "Yes") for i in range(1500)]
    compute(table(rows), Protocol(), 50)  # the suite's time limit is the test


# --------------------------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.drop(columns="raw"), "lacks the columns raw"),
        (lambda t: t.iloc[:0], "no rows"),
        (lambda t: t.assign(verbalized=101), "whole percent"),
        (lambda t: t.assign(verbalized=-1), "whole percent"),
        (lambda t: t.assign(verbalized=50.5), "whole percent"),
        (lambda t: t.assign(internal=1.5), "not a probability"),
        (lambda t: t.assign(label=2), "label is neither"),
        (lambda t: t.assign(label=1), "exactly one right candidate"),
        (lambda t: t.assign(candidate="Maybe"), "neither Yes nor No"),
        (lambda t: pd.concat([t, t]), "stands twice"),
        (lambda t: t.iloc[1:], "lacks one of its two candidates"),
    ],
)
def test_a_table_that_breaks_the_contract_is_refused(change, sentence: str) -> None:
    good = table([(90, 10, "yes", 0, 0.5, "Yes"), (80, 30, "no", 1, 0.5, "No")])
    assert metrics.check_responses(good) is good
    with pytest.raises(UserError, match=sentence):
        metrics.check_responses(change(good))


def test_variants_must_answer_the_same_questions() -> None:
    rows = [(90, 10, "yes", 0, 0.5, "Yes"), (80, 30, "no", 1, 0.5, "No")]
    with pytest.raises(UserError, match="different questions"):
        compute(pd.concat([table(rows), table(rows[:1], "csp")]), Protocol(), 2)
