"""Other ways to get a confidence: their values for known replies, and recalibration across halves of the images."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_answers import table
from scipy.special import logit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score

from csp_utils.asking.tables import DTYPES
from csp_utils.measures.methods import METHODS, confidences_by_method, missing_methods
from csp_utils.measures.metrics import METHOD_MEASURES, SPOKEN, Protocol, compute, compute_measures, compute_methods
from csp_utils.measures.recalibration import fit_isotonic, fit_platt, fit_temperature, image_halves
from csp_utils.show import style
from csp_utils.show.figures import fig_metrics

NOTHING = pd.DataFrame(columns=list(DTYPES)).astype(DTYPES)


def answers(n: int = 40, seed: int = 0, variant: str = "base") -> pd.DataFrame:
    """Make overconfident but informative answers, with probabilities of many digits; four questions an image."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        truth = rng.random() < 0.5
        percent = np.clip(rng.normal(80, 9, 2) + (12, -12) * np.array(1 if truth else -1), 0, 100).round()
        internal = float(np.clip(rng.normal(0.7 if truth else 0.3, 0.15), 0.01, 0.99))
        rows.append((*map(int, percent), "yes" if truth else "no", i // 4, internal, "Yes"))
    return table(rows, variant)


def elicited(rows: list[tuple], responses: pd.DataFrame) -> pd.DataFrame:
    """Make elicitations of the first question from (prompt, method, draw, candidate, value)."""
    one = responses.iloc[0]
    shared = {name: one[name] for name in ("model", "variant", "split", "question_id", "image", "question")}
    return pd.DataFrame([shared | dict(zip(("prompt", "method", "draw", "candidate", "value"), row, strict=True))
                         for row in rows], columns=list(DTYPES)).astype(DTYPES)  # fmt: skip


def of_first(scored: pd.DataFrame, method: str) -> dict[str, float]:
    part = scored[scored["method"] == method]
    part = part[part["question_id"] == scored["question_id"].iloc[0]]
    return dict(zip(part["candidate"], part["verbalized"], strict=True))


# ----------------------------------------------------------------------------------------------- what a method makes


def test_every_method_reads_what_was_elicited() -> None:
    responses = answers(4)
    rows = [("third_person", "expected", None, "Yes", 71.5), ("third_person", "expected", None, "No", 20.0)]
    rows += [("third_person", "sampled", i, "Yes", value) for i, value in enumerate((90, 80, None))]
    rows += [("p_true", "first_token", None, "Yes", 66.25), ("answer_then_confidence", "greedy", None, "No", 70)]
    rows += [("plain", "sampled", i, said, None) for i, said in enumerate(("Yes", "Yes", "No", None, "Yes"))]
    rows += [("plain", "blurred", i, "No", None) for i in range(3)]
    scored = confidences_by_method(responses, elicited(rows, responses))
    nan = pytest.approx(np.nan, nan_ok=True)
    assert of_first(scored, "expected") == {"Yes": 71.5, "No": 20}
    assert of_first(scored, "mean_of_draws") == {"Yes": 85, "No": nan}  # the draw that says nothing has no part
    assert of_first(scored, "p_true") == {"Yes": 66.25, "No": nan}
    assert of_first(scored, "own_answer") == {"Yes": 30, "No": 70}
    assert of_first(scored, "self_consistency") == {"Yes": 75, "No": 25}  # of the four that say yes or no
    assert of_first(scored, "agreement") == {"Yes": 0, "No": 100}
    assert set(missing_methods(scored)) == {"first_person", "few_shot"}
    # The other questions have no value, and are counted as such.
    values = compute_methods(scored, Protocol(), 3)[0].set_index(["method", "metric"])["value"]
    assert values["agreement", "parse_failure_rate"] == 3 / 4 and values["p_true", "parse_failure_rate"] == 7 / 8


def test_what_was_not_elicited_is_left_out_with_what_it_needs() -> None:
    scored = confidences_by_method(answers(8), NOTHING)
    assert set(scored["method"]) == {SPOKEN, "token_probability", "temperature", "platt", "isotonic"}
    assert missing_methods(scored)["agreement"] == "blurs"
    assert all(needs for needs in missing_methods(scored).values())
    assert all(len(method.source) > 10 for method in METHODS.values())


def test_spoken_is_the_evaluation_itself() -> None:
    responses = answers()
    own = compute_methods(confidences_by_method(responses, NOTHING), Protocol(), 20)[0]
    own = own[own["method"] == SPOKEN].set_index("metric")[["value", "ci_low", "ci_high"]]
    known = pd.concat([compute(responses, Protocol(), 20)[0], compute_measures(responses, Protocol(), 20)[0]])
    known = known.set_index("metric")[["value", "ci_low", "ci_high"]].loc[list(METHOD_MEASURES)]
    pd.testing.assert_frame_equal(own, known)


# ------------------------------------------------------------------------------------------ numbers that are not whole


def test_the_order_of_fine_probabilities_is_kept() -> None:
    responses = answers(60)
    responses["internal"] = 0.9 + responses["internal"] / 100  # all of them round to 90 or 91 %
    values = compute_methods(confidences_by_method(responses, NOTHING), Protocol(), 3)[0]
    found = values[values["method"] == "token_probability"].set_index("metric")["value"]
    assert found["auc"] == pytest.approx(roc_auc_score(responses["label"], responses["internal"]))
    pairs = responses.pivot(index="question_id", columns="candidate", values="internal")
    truth = responses[responses["candidate"] == "Yes"].set_index("question_id")["label"].reindex(pairs.index)
    assert found["acc"] == pytest.approx(((pairs["Yes"] > pairs["No"]) == (truth == 1)).mean())
    assert found["tie_rate"] == 0
    brier = ((responses["internal"].mul(100).round() / 100 - responses["label"]) ** 2).mean()
    assert found["brier"] == pytest.approx(brier)


def test_many_levels_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = confidences_by_method(answers(30), NOTHING)
    whole = compute_methods(scored, Protocol(), 25)
    monkeypatch.setattr("csp_utils.measures.metrics.WIDEST", 150)
    for one, two in zip(whole, compute_methods(scored, Protocol(), 25), strict=True):
        pd.testing.assert_frame_equal(one, two)


def test_a_method_is_compared_with_the_spoken_confidence_on_the_same_images() -> None:
    scored = confidences_by_method(pd.concat([answers(), answers(seed=1, variant="csp")]), NOTHING)
    same = scored[scored["method"] == SPOKEN].assign(method="agreement")
    values, differences = compute_methods(pd.concat([scored, same]), Protocol(), 50)
    assert set(differences["variant"]) == {"base", "csp"} and SPOKEN not in set(differences["method"])
    equal = differences[differences["method"] == "agreement"]
    assert (equal["diff"].dropna() == 0).all() and (equal["p"].dropna() == 1).all()
    found = values.set_index(["variant", "method", "metric"])["value"]
    found_differences = differences.set_index(["variant", "method", "metric"])["diff"]
    expected = found["csp", "token_probability", "auc"] - found["csp", SPOKEN, "auc"]
    assert found_differences["csp", "token_probability", "auc"] == pytest.approx(expected)


# ------------------------------------------------------------------------------------------------------ recalibration


def test_halves_are_halves_of_the_images() -> None:
    images = pd.Series([f"{i % 9}.png" for i in range(100)])
    half = image_halves(images, 0)
    assert half.groupby(images).nunique().eq(1).all()
    assert half.groupby(images).first().sum() == 4
    order = np.random.default_rng(0).permutation(100)
    assert (image_halves(images.iloc[order], 0).sort_index() == half).all()
    assert any((image_halves(images, seed) != half).any() for seed in (1, 2, 3))


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_no_answer_has_a_part_in_its_own_recalibration(method: str) -> None:
    responses = answers(60)
    half = image_halves(responses["image"], 0)
    known = confidences_by_method(responses, NOTHING).query("method == @method")["verbalized"].to_numpy()
    turned = responses.assign(label=np.where(half == 0, 1 - responses["label"], responses["label"]))
    other = confidences_by_method(turned, NOTHING).query("method == @method")["verbalized"].to_numpy()
    assert np.array_equal(known[half == 0], other[half == 0])  # its own labels are turned round, to no effect
    assert not np.array_equal(known[half == 1], other[half == 1])


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_recalibration_mends_overconfidence(method: str) -> None:
    values = compute_methods(confidences_by_method(answers(400), NOTHING), Protocol(), 3)[0]
    found = values.set_index(["method", "metric"])["value"]
    assert found[method, "log_score"] < 0.95 * found[SPOKEN, "log_score"]
    if method != "temperature":  # one number that keeps 50 % where it is cannot move a mean of 80 % to 50 %
        assert found[method, "ece"] < 0.2 * found[SPOKEN, "ece"] and found[method, "brier"] < found[SPOKEN, "brier"]


def test_platt_is_scikit_learns_sigmoid() -> None:
    class LogOdds(ClassifierMixin, BaseEstimator):
        """A classifier whose score is the log odds of the spoken confidence."""

        def fit(self, percent: np.ndarray, label: np.ndarray) -> "LogOdds":
            self.classes_ = np.array([0, 1])
            return self

        def predict(self, percent: np.ndarray) -> np.ndarray:
            return (percent[:, 0] > 50).astype(int)

        def decision_function(self, percent: np.ndarray) -> np.ndarray:
            return logit(np.clip(percent[:, 0] / 100, 0.005, 0.995))

    rows = answers(50)
    percent, label = rows["verbalized"].to_numpy(float), rows["label"].to_numpy()
    fitted = FrozenEstimator(LogOdds().fit(percent, label))
    theirs = CalibratedClassifierCV(fitted, method="sigmoid").fit(percent[:, None], label)
    grid = np.arange(101.0)
    assert fit_platt(percent, label)(grid) == pytest.approx(100 * theirs.predict_proba(grid[:, None])[:, 1], abs=0.05)


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=4, max_size=40))
@settings(max_examples=30, deadline=None)
def test_recalibrated_numbers_are_percents_in_the_same_order(rows: list[tuple[int, bool]]) -> None:
    percent, label = np.array([p for p, _ in rows], float), np.array([int(r) for _, r in rows])
    if len(set(label)) < 2:
        return
    grid = np.arange(101.0)
    for fit in (fit_temperature, fit_isotonic):
        values = fit(percent, label)(grid)
        assert (values >= -1e-9).all() and (values <= 100 + 1e-9).all() and (np.diff(values) >= -1e-9).all()
    assert fit_temperature(percent, label)(np.array([50.0]))[0] == pytest.approx(50)


def test_one_image_has_nothing_to_be_recalibrated_by() -> None:
    scored = confidences_by_method(answers(4), NOTHING)  # all of one image
    assert scored.loc[scored["method"] == "platt", "verbalized"].isna().all()
    values = compute_methods(scored, Protocol(), 3)[0].set_index(["method", "metric"])
    assert values["value"]["platt", "parse_failure_rate"] == 1 and pd.isna(values["value"]["platt", "ece"])


# -------------------------------------------------------------------------------------------------------- the figure


def test_the_figure_and_its_caption_show_the_table(tmp_path) -> None:
    scored = confidences_by_method(pd.concat([answers(), answers(seed=1, variant="csp")]), NOTHING)
    values = compute_methods(scored, Protocol(), 20)[0]
    figure = fig_metrics.methods(values, "pope_random")
    assert len(figure.axes) == len(fig_metrics.METHOD_METRICS)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][:2] == [
        "spoken (the paper's)", "token probability"]
    text = fig_metrics.methods_caption(values, "pope_random")
    ece = values.set_index(["method", "metric", "variant"])["value"].sort_index()["platt", "ece"]
    assert f"ECE {ece['base']:.2f} / {ece['csp']:.2f}" in text and "40 questions" in text
    for path in style.save(figure, tmp_path, "methods", text):
        assert path.stat().st_size > 300
