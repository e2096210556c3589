"""The one bootstrap of all tables: against loops written by hand, and what must not matter to it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_answers import partly_right, percents, table
from scipy import stats

from csp_utils.measures import over_seeds, stress_curves
from csp_utils.measures.bootstrap import estimate, image_weights, paired_differences
from csp_utils.measures.counts import Counts, Protocol
from csp_utils.measures.metrics import MEASURES, compute, compute_measures

# --------------------------------------------------------------------------------------- against loops written by hand


def draws_of(n_images: int, n_bootstrap: int, seed: int) -> list[np.ndarray]:
    """List the images, then each resample of them, as arrays of image numbers: the bootstrap written by hand."""
    rng = np.random.default_rng([seed, n_images])
    return [np.arange(n_images), *(rng.integers(n_images, size=n_images) for _ in range(n_bootstrap))]


def by_hand(differences: list[float]) -> tuple[float, float, float, float]:
    """Compute value, 95 % percentile interval and p-value of differences[0] from differences[1:], by hand."""
    value, *resamples = differences
    at = [0.025 * (len(resamples) - 1), 0.975 * (len(resamples) - 1)]
    low, high = np.interp(at, np.arange(len(resamples)), sorted(resamples))
    beyond = min(sum(d <= 0 for d in resamples), sum(d >= 0 for d in resamples))
    return value, low, high, min(1, 2 * (beyond + 1) / (len(resamples) + 1))


def repeated(rows: pd.DataFrame, at: np.ndarray) -> pd.DataFrame:
    """Repeat the rows of each image as often as it is among the images ``at``."""
    images = sorted(rows["image"].unique())
    return pd.concat([rows[rows["image"] == images[i]] for i in at])


def test_differences_of_metrics_are_those_of_a_bootstrap_by_hand() -> None:
    base, csp = partly_right(0.3, 1, "base", 60), partly_right(0.5, 2, "csp", 60)

    def brier(rows: pd.DataFrame) -> float:
        return float(((rows["verbalized"].astype(float) / 100 - rows["label"]) ** 2).mean())

    expected = by_hand([brier(repeated(csp, at)) - brier(repeated(base, at)) for at in draws_of(10, 50, 3)])
    found = compute(pd.concat([base, csp]), Protocol(seed=3), 50)[2].set_index("metric").loc["brier"]
    assert found[["diff", "ci_low", "ci_high", "p"]].tolist() == pytest.approx(expected)


def test_differences_of_the_stress_test_are_those_of_a_bootstrap_by_hand() -> None:
    rng = np.random.default_rng(0)
    rows = [("m", variant, f"{image}.png", "object", c, "right", "Yes", int(np.clip(c + rng.normal(0, noise), 0, 100)))
            for variant, noise in (("base", 60), ("csp", 30)) for image in range(8) for c in (100, 75, 50, 25, 0)]
    columns = ["model", "variant", "image", "condition", "c", "answer", "candidate", "verbalized"]
    table = pd.DataFrame(rows, columns=columns)
    base, csp = (table[table["variant"] == variant] for variant in ("base", "csp"))

    def tau(rows: pd.DataFrame) -> float:
        return stats.kendalltau(rows["c"], rows["verbalized"]).statistic

    expected = by_hand([tau(repeated(csp, at)) - tau(repeated(base, at)) for at in draws_of(8, 40, 0)])
    found = stress_curves.correlations(table, 40, 0)[1].set_index("metric").loc["kendall"]
    assert found[["diff", "ci_low", "ci_high", "p"]].tolist() == pytest.approx(expected)


def test_differences_over_seeds_are_those_of_a_bootstrap_by_hand() -> None:
    runs = {("csp", seed): partly_right(0.3, seed, "csp", 60) for seed in (1, 2, 3)}
    runs["", 0] = partly_right(0.1, 0, "base", 60)

    def acc(rows: pd.DataFrame) -> float:
        right, wrong = (rows.loc[rows["label"] == label, "verbalized"].to_numpy(int) for label in (1, 0))
        return float((right > wrong).mean())

    def gains(at: np.ndarray) -> list[float]:
        return [acc(repeated(runs["csp", seed], at)) - acc(repeated(runs["", 0], at)) for seed in (1, 2, 3)]

    per_seed = [gains(at) for at in draws_of(10, 30, 0)]
    picked = np.random.default_rng([0, 3]).integers(3, size=(3, 30))  # the seeds of each resample
    means = [np.mean(per_seed[0]), *(np.mean([per_seed[b + 1][s] for s in picked[:, b]]) for b in range(30))]
    found = over_seeds.difference(over_seeds.draws(runs, Protocol(), 30), "csp", "base", "pope_random", "acc")
    assert (found.value, found.ci_low, found.ci_high, found.p) == pytest.approx(by_hand(means))
    assert (found.seed_low, found.seed_high) == pytest.approx((min(per_seed[0]), max(per_seed[0])))


# ------------------------------------------------------------------------------------- weights, intervals and p-values


def test_resamples_are_whole_images_drawn_once() -> None:
    weights = image_weights(50, 400, 7)
    assert weights is image_weights(50, 400, 7) and not weights.flags.writeable
    assert (weights[0] == 1).all() and (weights.sum(1) == 50).all() and (weights % 1 == 0).all()
    assert weights[1:].mean(0) == pytest.approx(np.ones(50), abs=0.3)
    assert weights[1:].var() == pytest.approx(1 - 1 / 50, abs=0.05)  # of a multinomial
    assert (weights != image_weights(50, 400, 8)).any()


@given(st.integers(1, 30), st.integers(0, 20), st.integers(0, 3))
def test_every_resample_draws_as_many_images_as_there_are(n_images: int, n_bootstrap: int, seed: int) -> None:
    weights = image_weights(n_images, n_bootstrap, seed)
    assert weights.shape == (1 + n_bootstrap, n_images) and (weights[0] == 1).all()
    assert (weights.sum(1) == n_images).all() and (weights % 1 == 0).all() and (weights >= 0).all()


resampled = st.lists(st.floats(-1, 1) | st.just(np.nan), min_size=1, max_size=40).map(np.array)


@given(resampled)
def test_p_is_symmetric_and_the_interval_is_mirrored(values: np.ndarray) -> None:
    one, two = estimate(values), estimate(-values)
    assert one.p == two.p and (one.p is None) == (one.ci_low is None)
    if one.p is not None:
        assert 0 < one.p <= 1
        assert (one.value, one.ci_low, one.ci_high) == pytest.approx((-two.value, -two.ci_high, -two.ci_low))


@given(resampled, st.floats(-1, 1))
def test_a_constant_difference_has_no_spread(values: np.ndarray, constant: float) -> None:
    of = {"base": {"acc": values}, "csp": {"acc": values + constant}}
    (a, b, metric, found), = paired_differences(of, [("base", "csp"), ("base", "sft")], ["acc"])
    assert (a, b, metric) == ("base", "csp", "acc")
    if found.ci_low is not None:
        assert (found.value, found.ci_low, found.ci_high) == pytest.approx((constant,) * 3, abs=1e-12)


@given(st.lists(st.tuples(percents, percents, percents, percents, st.sampled_from(["yes", "no"]), st.integers(0, 4)),
                min_size=2, max_size=12), st.randoms(use_true_random=False))  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_variants_are_paired_by_image_whatever_the_order_of_their_rows(rows: list[tuple], random) -> None:
    base = table([(yes, no, truth, image, 0.5, "Yes") for yes, no, _, _, truth, image in rows])
    csp = table([(yes, no, truth, image, 0.5, "Yes") for _, _, yes, no, truth, image in rows], "csp")
    shuffled = csp.iloc[random.sample(range(len(csp)), len(csp))]
    one, two = (compute(pd.concat([base, own]), Protocol(), 25)[2] for own in (csp, shuffled))
    pd.testing.assert_frame_equal(one, two)
    # Each resample's difference is that of the tables of its images.
    n_images = base["image"].nunique()
    weights = image_weights(n_images, 25, 0)[: 26 if n_images > 1 else 1]
    acc = [Counts(own, Protocol()).metrics(weights)["acc"] for own in (base, shuffled)]
    found = one.set_index("metric").loc["acc"]
    expected = estimate(acc[1] - acc[0])
    assert found["diff"] == expected.value and (found["p"] == expected.p or expected.p is None)


def test_a_p_value_is_the_share_of_resamples_beyond_zero() -> None:
    assert estimate(np.array([1.0, 1, 2, 3, -1])).p == pytest.approx(2 * 2 / 5)
    assert estimate(np.array([1.0, *[2.0] * 999])).p == pytest.approx(2 / 1000)  # the least that 999 can give
    assert estimate(np.zeros(100)).p == 1
    assert estimate(np.array([1.0, np.nan, 2, 3, 3])).p == pytest.approx(2 * 1 / 4)
    for undefined in ([np.nan, 1, 1], [1.0], [1.0, np.nan, np.nan, np.nan, 1]):
        found = estimate(np.array(undefined))
        assert found.p is None and found.ci_low is None and found.ci_high is None


# ---------------------------------------------------------------------------------------------------- resampled tables


answers = st.lists(
    st.tuples(st.one_of(st.none(), percents), st.one_of(st.none(), percents), st.sampled_from(["yes", "no"]),
              st.integers(0, 3), st.just(0.5), st.sampled_from(["Yes", "No", None])), min_size=1, max_size=12,
)  # fmt: skip


@given(answers)
@settings(max_examples=5, deadline=None)
def test_a_resample_is_the_table_of_the_drawn_images(rows: list[tuple]) -> None:
    counts = Counts(table(rows), Protocol())
    weights = image_weights(len(counts.images), 3, 0)
    got = counts.measures(counts.resample(weights))
    names = [str(name) for name in counts.images]
    for b, row in enumerate(weights):
        resample = [r for name, times in zip(names, row, strict=True) for r in rows * int(times)
                    if f"{r[3]}.png" == name]  # fmt: skip
        expected = compute_measures(table(resample), Protocol(), 2)[0].set_index("metric")["value"]
        for name in MEASURES:
            value = np.nan if expected[name] is None else float(expected[name])
            np.testing.assert_allclose(got[name][b], value, atol=1e-6, err_msg=name)


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


def test_a_clear_change_is_told_from_none() -> None:
    rng = np.random.default_rng(0)
    base = [(95, 95, "yes" if rng.random() < 0.5 else "no", i // 6, 0.5, "Yes") for i in range(240)]
    csp = [(95, 5, *row[2:]) if row[2] == "yes" and rng.random() < 0.8 else (60, 61, *row[2:]) for row in base]
    both = pd.concat([table(base), table(base, "sft"), table(csp, "csp")])
    differences = pd.concat([compute(both, Protocol(), 199)[2], compute_measures(both, Protocol(), 199)[1]])
    differences = differences[differences["variant_a"] == "base"]
    p = {variant: part.set_index("metric")["p"] for variant, part in differences.groupby("variant_b")}
    assert (p["sft"].dropna() == 1).all() and p["sft"].notna().sum() > 20  # the same answers
    assert (p["csp"][["acc", "ece", "smece", "overconfidence", "aurc"]] == 2 / 200).all()


def test_an_undefined_difference_is_null_without_a_p_value() -> None:
    rows = [(90, 10, "yes", i, 0.5, "Yes") for i in range(12)]
    silent = [(None, None, *row[2:]) for row in rows]
    differences = compute_measures(pd.concat([table(silent), table(rows, "csp")]), Protocol(), 20)[1]
    assert differences[["diff", "ci_low", "p"]].set_index(differences["metric"]).loc["smece"].isna().all()
