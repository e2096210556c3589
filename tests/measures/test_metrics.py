"""Metrics against scikit-learn, against numbers worked by hand, and against what must not matter."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_answers import percents, table
from sklearn import metrics as sk

from csp_utils.base.errors import UserError
from csp_utils.measures import calibration, scores
from csp_utils.measures.metrics import Protocol, check_responses, compute, compute_measures, correlations
from csp_utils.words.answers import amber_rule, pope_rule

answers = st.tuples(
    st.one_of(st.none(), percents),  # c(Yes)
    st.one_of(st.none(), percents),  # c(No)
    st.sampled_from(["yes", "no"]),  # the truth
    st.integers(0, 3),  # image
    st.floats(0, 1, width=16),  # internal probability of Yes
    st.sampled_from(["Yes", "No", None]),  # plain answer
)


def values(frame: pd.DataFrame, **protocol) -> pd.Series:
    return compute(frame, Protocol(**protocol), 2)[0].set_index("metric")["value"]


# -------------------------------------------------------------------------------------------------------------- values


def test_the_papers_nearly_constant_confidence() -> None:
    """Qwen-VL on AMBER attribute prints ECE 0.4732 and Brier 0.4731: a constant p over pairs with base rate 1/2."""
    p = 0.973
    rows = [(97 if i % 10 < 7 else 98,) * 2 + ("yes" if i % 2 else "no", i % 5, 0.9, "Yes") for i in range(1000)]
    got = values(table(rows))
    assert got["ece"] == pytest.approx(p - 0.5, abs=1e-12) and got["ece"] == pytest.approx(0.4732, abs=5e-4)
    assert got["brier"] == pytest.approx((p**2 + (1 - p) ** 2) / 2, abs=5e-5)
    assert got["acc"] == 0 and got["f1"] == 0 and got["tie_rate"] == 1


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
        curve = scores.roc(calibration.histogram(parsed["verbalized"].to_numpy(int), y))
        assert sk.auc(curve["fpr"], curve["tpr"]) == pytest.approx(got["auc"], abs=1e-12)
    else:
        assert pd.isna(got["auc"])
    predicted = [0 if a is None or b is None or a == b else (1 if a > b else -1) for a, b, *_ in rows]
    truth = [1 if row[2] == "yes" else -1 for row in rows]
    assert got["acc"] == pytest.approx(sk.accuracy_score(truth, predicted))
    assert got["plain_acc"] == pytest.approx(np.mean([str(r[5]).lower() == r[2] for r in rows]))
    for positive, sign in (("yes", 1), ("no", -1)):
        f1 = values(frame, positive=positive)["f1"]
        if sign in truth or sign in predicted:
            ours = sk.f1_score([t == sign for t in truth], [s == sign for s in predicted], zero_division=0)
            assert f1 == pytest.approx(ours)
        else:
            assert pd.isna(f1)


@given(st.lists(answers, min_size=1, max_size=10))
@settings(max_examples=20, deadline=None)
def test_correlations_are_the_rows_of_the_metrics_table(rows: list[tuple]) -> None:
    both = pd.concat([table(rows), table([(no, yes, *rest) for yes, no, *rest in rows], "csp")])
    known = compute(both, Protocol(seed=2), 15)[0]
    known = known[known["metric"].isin(["spearman", "kendall"])].reset_index(drop=True)
    # The type of a column without any value depends on the other metrics of the table.
    columns = {"ci_low": float, "ci_high": float, "reason": "str"}
    pd.testing.assert_frame_equal(correlations(both, 15, 2).astype(columns), known.astype(columns))


# ------------------------------------------------------------------------------------------- the benchmarks' own rules


REPLIES = ["Yes", "Yes.", "Yes, there is a dog in the image.", "No", "No.", "No, there is no dog.", "NO", "yes", "",
           "There is no dog in the image.", "The image does not show a dog.", "FINAL ANSWER: No", "I cannot tell."]
ANSWERS = st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(REPLIES)), min_size=1, max_size=12)
"""(truth, reply)."""


def pope_score(answers: list[tuple[str, str]]) -> dict[str, float]:
    """The rule of POPE's evaluate.py (Li et al. 2023): a first sentence with no or not is No; positive is Yes."""
    counts = dict.fromkeys(["tp", "fp", "tn", "fn"], 0)
    for truth, reply in answers:
        words = reply.split(".")[0].replace(",", "").split(" ")
        predicted = "no" if {"No", "not", "no"} & set(words) else "yes"
        counts[("t" if predicted == truth else "f") + ("p" if predicted == "yes" else "n")] += 1
    precision, recall = counts["tp"] / (counts["tp"] + counts["fp"]), counts["tp"] / (counts["tp"] + counts["fn"])
    accuracy = (counts["tp"] + counts["tn"]) / sum(counts.values())
    return {"accuracy": accuracy, "precision": precision, "recall": recall,
            "f1": 2 * precision * recall / (precision + recall)}  # fmt: skip


def amber_score(answers: list[tuple[str, str]]) -> dict[str, float]:
    """The rule of AMBER's inference.py (Wang et al. 2023) for its yes/no questions: positive is No."""
    predicted = [reply if reply in ("Yes", "No") else "" for _, reply in answers]
    right_no = sum(s == "No" and truth == "no" for s, (truth, _) in zip(predicted, answers, strict=True))
    precision, recall = right_no / predicted.count("No"), right_no / sum(truth == "no" for truth, _ in answers)
    accuracy = sum(s.lower() == truth for s, (truth, _) in zip(predicted, answers, strict=True)) / len(answers)
    return {"accuracy": accuracy, "precision": precision, "recall": recall,
            "f1": 2 * precision * recall / (precision + recall)}  # fmt: skip


@pytest.mark.parametrize(("positive", "score", "rule"), [
    ("yes", pope_score, pope_rule), ("no", amber_score, amber_rule)], ids=["POPE", "AMBER"])
@given(ANSWERS)
@settings(max_examples=25, deadline=None)
def test_plain_answers_score_as_in_the_benchmarks_own_scripts(positive: str, score, rule, answers) -> None:
    # One true positive, so that the benchmarks' scripts divide by no zero.
    answers = [*answers, (positive, positive.capitalize())]
    official = score(answers)
    predicted = [rule(reply) for _, reply in answers]
    # The plain answers, and the same answers as confidences; a tie is neither.
    rows = [{"Yes": (80, 20), "No": (20, 80), None: (50, 50)}[s] + (truth, i, 0.5, s)
            for i, ((truth, _), s) in enumerate(zip(answers, predicted, strict=True))]  # fmt: skip
    protocol = Protocol(positive=positive)
    metrics, plain, _ = compute(table(rows), protocol, 2)
    plain = plain.set_index("metric")["value"]
    by_confidence = pd.concat([metrics, compute_measures(table(rows), protocol, 2)[0]]).set_index("metric")["value"]
    for ours, theirs in official.items():
        assert plain[ours] == pytest.approx(theirs)
        assert by_confidence["acc" if ours == "accuracy" else ours] == pytest.approx(theirs)


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


# ------------------------------------------------------------------------------------------------------ ties and nulls


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


# ---------------------------------------------------------------------------------------------------------- validation


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
    assert check_responses(good) is good
    with pytest.raises(UserError, match=sentence):
        check_responses(change(good))


def test_variants_must_answer_the_same_questions() -> None:
    rows = [(90, 10, "yes", 0, 0.5, "Yes"), (80, 30, "no", 1, 0.5, "No")]
    with pytest.raises(UserError, match="different questions"):
        compute(pd.concat([table(rows), table(rows[:1], "csp")]), Protocol(), 2)


def test_a_difference_counts_what_its_metric_is_computed_from() -> None:
    rows = [(90, 10, "yes", i, 0.5, "Yes") for i in range(12)]
    silent = [(None, *row[1:]) if i < 2 else row for i, row in enumerate(rows)]
    both = pd.concat([table(rows), table(silent, "csp")])
    n = compute(both, Protocol(), 5)[2].set_index("metric")["n"]
    assert n[["acc", "plain_acc", "parse_failure_rate"]].tolist() == [12, 12, 24]
    assert n[["brier", "ece", "auc", "spearman"]].tolist() == [22] * 4  # pairs of which both variants gave a confidence
    n = compute_measures(both, Protocol(), 5)[1].set_index("metric")["n"]
    assert n[["precision", "aurc", "squared_gap_debiased"]].tolist() == [12, 10, 22]


def test_a_constant_confidence_counts_as_a_correlation_of_0_in_differences() -> None:
    rng = np.random.default_rng(0)
    base = [(95, 95, "yes", i // 2, rng.random(), "Yes") for i in range(40)]
    csp = [(int(100 * p), int(100 - 100 * p), t, i, p, said) for _, _, t, i, p, said in base]
    value, _, differences = compute(pd.concat([table(base), table(csp, "csp")]), Protocol(), 50)
    value = value[value["metric"] == "spearman"].set_index("variant")["value"]
    assert pd.isna(value["base"]) and value["csp"] > 0.9
    found = differences.set_index("metric").loc["spearman"]
    assert found["diff"] == value["csp"] and found["ci_low"] > 0
