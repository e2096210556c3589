"""The one bootstrap of all tables: against loops written by hand, and what must not matter to it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_answers import partly_right, percents, table
from scipy import stats

from csp_utils.measures import over_seeds, stress_curves
from csp_utils.measures.bootstrap import Resamples, estimate, image_weights, paired_differences, resamples
from csp_utils.measures.counts import Counts, Protocol
from csp_utils.measures.metrics import MEASURES, compute, compute_measures
from csp_utils.show import tables

# --------------------------------------------------------------------------------------- against loops written by hand


def draws_of(n_images: int, n_bootstrap: int, seed: int) -> list[np.ndarray]:
    """List the images, then each resample of them, as arrays of image numbers: the bootstrap written by hand."""
    rng = np.random.default_rng([seed, n_images])
    return [np.arange(n_images), *(rng.integers(n_images, size=n_images) for _ in range(n_bootstrap))]


def by_hand(differences: list[float], n_images: int) -> tuple[float, float, float, float]:
    """Compute value, expanded 95 % percentile interval and p-value of differences[0] from differences[1:], by hand."""
    value, *others = differences
    wider = np.sqrt(n_images / (n_images - 1))
    tail = stats.norm.cdf(-wider * stats.t.ppf(0.975, n_images - 1))
    at = [tail * (len(others) + 1), (1 - tail) * (len(others) + 1)]
    low, high = np.interp(at, np.arange(1, len(others) + 1), sorted(others))
    beyond = min(sum(d <= 0 for d in others), sum(d >= 0 for d in others))
    share = min(0.5, (beyond + 1) / (len(others) + 1))
    return value, low, high, 2 * stats.t.cdf(stats.norm.ppf(share) / wider, n_images - 1)


def plain(values: np.ndarray, n_images: int = 1000) -> Resamples:
    """Return resamples of a measure that chance does not raise."""
    return resamples("acc", values, n_images)


def repeated(rows: pd.DataFrame, at: np.ndarray) -> pd.DataFrame:
    """Repeat the rows of each image as often as it is among the images ``at``."""
    images = sorted(rows["image"].unique())
    return pd.concat([rows[rows["image"] == images[i]] for i in at])


def test_differences_of_metrics_are_those_of_a_bootstrap_by_hand() -> None:
    base, csp = partly_right(0.3, 1, "base", 60), partly_right(0.5, 2, "csp", 60)

    def brier(rows: pd.DataFrame) -> float:
        return float(((rows["verbalized"].astype(float) / 100 - rows["label"]) ** 2).mean())

    expected = by_hand([brier(repeated(csp, at)) - brier(repeated(base, at)) for at in draws_of(10, 50, 3)], 10)
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

    expected = by_hand([tau(repeated(csp, at)) - tau(repeated(base, at)) for at in draws_of(8, 40, 0)], 8)
    found = stress_curves.correlations(table, 40, 0)[1].set_index("metric").loc["kendall"]
    assert found[["diff", "ci_low", "ci_high", "p"]].tolist() == pytest.approx(expected)


def test_differences_over_seeds_are_those_of_two_variances_by_hand() -> None:
    runs = {("csp", seed): partly_right(0.3, seed, "csp", 60) for seed in (1, 2, 3)}
    runs["", 0] = partly_right(0.5, 0, "base", 60)

    def acc(rows: pd.DataFrame) -> float:
        right, wrong = (rows.loc[rows["label"] == label, "verbalized"].to_numpy(int) for label in (1, 0))
        return float((right > wrong).mean())

    def gains(at: np.ndarray) -> list[float]:
        return [acc(repeated(runs["csp", seed], at)) - acc(repeated(runs["", 0], at)) for seed in (1, 2, 3)]

    per_seed = [gains(at) for at in draws_of(10, 30, 0)]
    value, between = np.mean(per_seed[0]), np.var(per_seed[0], ddof=1) / 3
    covariance = np.cov(np.transpose(per_seed[1:]))
    images = np.mean([covariance[0, 1], covariance[0, 2], covariance[1, 2]])
    quantile = (between * stats.t.ppf(0.975, 2) + images * stats.t.ppf(0.975, 9)) / (between + images)
    mean, reach = np.mean(per_seed[1:]), quantile * np.sqrt(between + images)
    found = over_seeds.difference(over_seeds.draws(runs, Protocol(), 30), "csp", "base", "pope_random", "acc")
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((value, mean - reach, mean + reach))
    assert images > 0 and (found.p < 0.05) == (abs(mean) > reach)
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
    one, two = estimate(plain(values)), estimate(plain(-values))
    assert one.p == two.p and (one.p is None) == (one.ci_low is None)
    if one.p is not None:
        assert 0 < one.p <= 1
        assert (one.value, one.ci_low, one.ci_high) == pytest.approx((-two.value, -two.ci_high, -two.ci_low))


@given(resampled, st.floats(-1, 1))
def test_a_constant_difference_has_no_spread(values: np.ndarray, constant: float) -> None:
    of = {"base": {"acc": plain(values)}, "csp": {"acc": plain(values + constant)}}
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
    both = [Counts(own, Protocol()) for own in (base, shuffled)]
    acc = [own.metrics(own.resample(weights))["acc"] for own in both]
    found = one.set_index("metric").loc["acc"]
    expected = estimate(plain(acc[1] - acc[0], n_images))
    assert found["diff"] == expected.value and (found["p"] == expected.p or expected.p is None)


def test_a_p_value_of_many_images_is_the_share_of_resamples_beyond_zero() -> None:
    def p(*values: float, n_images: int = 10**9) -> float:
        return estimate(plain(np.array(values), n_images)).p

    assert p(1, 1, 2, 3, -1) == pytest.approx(2 * 2 / 5)
    assert p(1, *[2] * 999) == pytest.approx(2 / 1000)  # the least that 999 can give
    assert p(1, *[2] * 999, n_images=5) > 0.02  # five images show less
    assert p(*[0] * 100) == 1
    assert p(1, np.nan, 2, 3, 3) == pytest.approx(2 * 1 / 4)
    for undefined in ([np.nan, 1, 1], [1.0], [1.0, np.nan, np.nan, np.nan, 1]):
        found = estimate(plain(np.array(undefined)))
        assert found.p is None and found.ci_low is None and found.ci_high is None


@given(st.integers(2, 200), st.integers(20, 400), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_an_interval_without_zero_has_a_p_below_5_percent(n_images: int, n_bootstrap: int, seed: int) -> None:
    found = estimate(plain(np.random.default_rng(seed).normal(2, 1, 1 + n_bootstrap), n_images))
    if found.ci_low > 0 and n_bootstrap > 200:  # fewer resamples may not reach the quantile
        assert found.p < 0.0501 + 2 / (n_bootstrap + 1)  # p counts whole resamples, the interval lies between two
    assert found.p >= 2 / (n_bootstrap + 1) - 1e-12


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
    assert known["ci_low"].notna().all()
    assert ((known["ci_low"] <= known["value"]) & (known["value"] <= known["ci_high"])).all()
    acc = one.set_index("metric").loc["acc"]
    assert acc["ci_high"] - acc["ci_low"] == pytest.approx(4 * np.sqrt(0.25 / 300), rel=0.4)


def spoken(rng: np.random.Generator, right: np.ndarray, n: int = 480) -> pd.DataFrame:
    """Answer n questions about n / 6 images: Yes gets a number from ``right``, and is right in so many percent."""
    yes = rng.choice(right, n)
    truth = rng.random(n) < yes / 100
    said = zip(yes.tolist(), truth, strict=True)
    return table([(c, 100 - c, "yes" if t else "no", i // 6, 0.5, "Yes") for i, (c, t) in enumerate(said)])


@pytest.mark.parametrize("seed", range(5))
def test_intervals_of_a_calibrated_stream_hold_their_value_and_the_truth(seed: int) -> None:
    """The ECE of a calibrated model is 0, and above 0 in every sample and even more in every resample."""
    frame = spoken(np.random.default_rng(seed), np.arange(5, 100, 10))
    found = pd.concat([compute(frame, Protocol(), 200)[0], compute_measures(frame, Protocol(), 200)[0]])
    found = found.set_index("metric")
    known = found.dropna(subset=["ci_low", "value"])
    assert ((known["ci_low"] <= known["value"]) & (known["value"] <= known["ci_high"])).all()
    zero = ["ece", "adaptive_ece", "overconfidence", "underconfidence", "squared_gap_debiased", "brier_reliability",
            "brier_reliability_debiased", "signed_error"]  # fmt: skip
    assert (known.loc[zero, "ci_low"] <= 0).all() and (known.loc[zero, "ci_high"] >= 0).all()
    assert found.loc[["smece", "mce"], ["ci_low", "ci_high"]].isna().all(axis=None)


@pytest.mark.parametrize("seed", range(4))
def test_random_numbers_are_no_better_resolved_than_a_constant(seed: int) -> None:
    """A base says 95 about everything, and csp says numbers at random: both have a resolution of 0."""
    rng = np.random.default_rng(seed)
    truth = ["yes" if right else "no" for right in rng.random(480) < 0.5]
    base = [(95, 95, t, i // 6, 0.5, "Yes") for i, t in enumerate(truth)]
    csp = [(int(rng.integers(101)), int(rng.integers(101)), t, i // 6, 0.5, "Yes") for i, t in enumerate(truth)]
    both = pd.concat([table(base), table(csp, "csp")])
    judged = tables.verdicts(compute_measures(both, Protocol(), 999)[1], "base", "csp", MEASURES).set_index("metric")
    resolution = judged.loc[["brier_resolution", "brier_resolution_debiased"]]
    assert (resolution["ci_low"] <= 0).all() and (resolution["ci_high"] >= 0).all()
    assert resolution["verdict"].tolist() == ["none", "unclear"]
    assert resolution["diff"]["brier_resolution"] > 0.015  # what chance makes of a resolution of 0
    assert abs(resolution["diff"]["brier_resolution_debiased"]) < 0.01
    assert judged["verdict"]["overconfidence"] == "better"  # which it is: 95 is too much for half of the answers


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
    assert (p["csp"][["acc", "ece", "squared_gap_debiased", "overconfidence", "aurc"]] < 0.02).all()


def test_an_undefined_difference_is_null_without_a_p_value() -> None:
    rows = [(90, 10, "yes", i, 0.5, "Yes") for i in range(12)]
    silent = [(None, None, *row[2:]) for row in rows]
    differences = compute_measures(pd.concat([table(silent), table(rows, "csp")]), Protocol(), 20)[1]
    assert differences[["diff", "ci_low", "p"]].set_index(differences["metric"]).loc["smece"].isna().all()
