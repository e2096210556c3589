"""A caption says the numbers of the tables that its figure is drawn from, and what is undefined or was left out."""

import re

import pandas as pd
from test_figures import responses

from csp_utils.base.wording import name_of
from csp_utils.measures.metrics import Protocol, compute, compute_measures, correlations
from csp_utils.measures.selective import risk_coverage_table
from csp_utils.show.fig_calibration import calibration_caption, correlation_caption, token_probabilities_caption
from csp_utils.show.fig_metrics import bars_caption, plain_answers_caption, risk_coverage_caption

SPLIT = "pope_adversarial"
REPLIES = responses()
METRICS, PLAIN, _ = compute(REPLIES, Protocol(), 20)


def told(value: float, low: float | None = None, high: float | None = None) -> str:
    """How a number of a table has to stand in a caption."""
    text = f"{value:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")
    return text.replace("-", "−")


def rows_of(table: pd.DataFrame, *metrics: str, split: str | None = SPLIT) -> list:
    wanted = table["metric"].isin(metrics) & ((table["split"] == split) | (split is None))
    return list(table[wanted].itertuples())


def after(caption: str, variant: str) -> str:
    """The part of a caption from a variant's name to the next semicolon."""
    return re.search(rf"(?:^|[;.] ){re.escape(name_of(variant))}:(.*?)(?:;|\.$)", caption)[1]


def test_calibration_has_the_three_numbers_of_every_variant_and_what_they_are_of() -> None:
    caption = calibration_caption(REPLIES, METRICS, SPLIT, 15, "left")
    for row in rows_of(METRICS, "auc", "ece", "brier"):
        assert f"{name_of(row.metric)} {told(row.value, row.ci_low, row.ci_high)}" in after(caption, row.variant)
    for said in ("figures 3 and 7 to 10 of the paper", "POPE adversarial", "40 questions about 10 images", "15 bins",
                 "left edge", "all their confidences were parsed", "95 % bootstrap intervals"):  # fmt: skip
        assert said in caption


def test_bars_have_every_number_that_is_drawn_and_which_way_is_better() -> None:
    caption = bars_caption(METRICS, SPLIT)
    for row in rows_of(METRICS, "acc", "f1", "auc", "brier", "ece", "tie_rate"):
        part = re.search(rf"{name_of(row.metric)} \(n = {row.n}\): (.*?)(?:;|\.$)", caption)[1]
        assert f"{name_of(row.variant)} {told(row.value, row.ci_low, row.ci_high)}" in part
    assert "higher is better for accuracy, F1 and AUC, and lower is better for Brier score, ECE and ties" in caption
    assert "figure 4 of the paper" in caption
    assert "Ties are" not in bars_caption(METRICS, SPLIT, ("acc", "f1"))


def test_plain_answers_have_all_four_numbers_of_every_split() -> None:
    caption = plain_answers_caption(PLAIN)
    for split, part in PLAIN.groupby("split"):
        said = re.search(rf"{name_of(split)} \(n = 40\): (.*?)(?:;|\.$)", caption)[1]
        for variant, rows in part.groupby("variant"):
            of = rows.set_index("metric")
            first = told(*of.loc["accuracy", ["value", "ci_low", "ci_high"]])
            rest = " / ".join(told(of["value"][name]) for name in ("precision", "recall", "f1"))
            assert f"{name_of(variant)} {first} / {rest}" in said
    assert "figure 5 of the paper" in caption and "Neither Yes nor No" not in caption


def test_plain_answers_that_were_no_answers_are_counted() -> None:
    answers = REPLIES["plain_answer"].where(REPLIES["question_id"] != "7")  # one of 40 questions
    replies = REPLIES.assign(plain_answer=answers)
    caption = plain_answers_caption(compute(replies, Protocol(), 5)[1])
    assert "counts as wrong: base on POPE adversarial 2.5 %, SFT on POPE adversarial 2.5 %" in caption


def test_token_probabilities_have_the_means_of_right_and_of_wrong_answers() -> None:
    replies = REPLIES.assign(internal=[(7 * i % 40 + 30) / 100 for i in range(len(REPLIES))])
    caption = token_probabilities_caption(replies, SPLIT)
    part = replies[replies["split"] == SPLIT]
    surest = part.loc[part.groupby(["variant", "question_id"])["internal"].idxmax()]
    for variant, rows in surest.groupby("variant"):
        right, wrong = (rows[rows["label"] == label]["internal"] for label in (1, 0))
        assert len(right) and len(wrong)
        assert (f"{name_of(variant)} {told(rows['internal'].mean())} ({len(right)} right: {told(right.mean())}, "
                f"{len(wrong)} wrong: {told(wrong.mean())})") in caption  # fmt: skip
    assert "figure 6 of the paper" in caption and "40 questions about 10 images" in caption


def test_correlation_has_both_of_every_panel_and_says_which_are_undefined() -> None:
    table = correlations(REPLIES, 20)
    caption = correlation_caption(REPLIES, table)
    assert caption.count("base ρ undefined (constant or missing confidence), τ undefined") == 2  # base says 95 always
    for row in rows_of(table, "spearman", split=None):
        if row.variant != "base":
            assert f"{name_of(row.variant)} ρ {told(row.value, row.ci_low, row.ci_high)}, τ " in caption
    for row in rows_of(table, "kendall", split=None):
        assert row.variant == "base" or f"τ {told(row.value)}" in caption


def test_risk_and_coverage_has_the_area_and_both_ends() -> None:
    measures, curves = compute_measures(REPLIES, Protocol(), 20)[0], risk_coverage_table(REPLIES, Protocol())
    caption = risk_coverage_caption(curves, measures, SPLIT)
    names = {"aurc": "AURC", "accuracy_at_80": "accuracy on the surest 80 %"}
    for row in rows_of(measures, *names):
        assert f"{names[row.metric]} {told(row.value, row.ci_low, row.ci_high)}" in after(caption, row.variant)
    ends = curves[(curves["split"] == SPLIT) & (curves["coverage"] == 1)].set_index("variant")["risk"]
    assert f"base {told(ends['base'])}, SFT {told(ends['sft'])}, SFT + SimPO {told(ends['csp'])}" in caption
    assert "n = 40 questions" in caption and "not a figure of the paper" in caption


def test_what_a_model_never_said_is_undefined_and_counted() -> None:
    replies = responses(nulls=True)
    table, measures = compute(replies, Protocol(), 5)[0], compute_measures(replies, Protocol(), 5)[0]
    caption = calibration_caption(replies, table, SPLIT)
    assert "not parsed, and are left out: 80 of 80 of base." in caption
    assert "AUC undefined (no right or no wrong candidate with a confidence)" in after(caption, "base")
    assert "ECE undefined (no confidence was parsed)" in after(caption, "base")
    caption = risk_coverage_caption(risk_coverage_table(replies, Protocol()), measures, SPLIT)
    assert "AURC undefined (no question whose two confidences were parsed)" in after(caption, "base")
    assert "n = base 0, SFT 40, SFT + SimPO 40 questions" in caption and "base undefined, SFT 0." in caption


def test_no_interval_is_invented() -> None:
    replies = REPLIES.assign(image="one.png")  # one image says nothing of how images differ
    table, plain, _ = compute(replies, Protocol(), 20)
    for caption in (calibration_caption(replies, table, SPLIT), bars_caption(table, SPLIT),
                    plain_answers_caption(plain), correlation_caption(replies, table)):  # fmt: skip
        assert "[" not in caption and "interval" not in caption
    assert "about 1 image," in calibration_caption(replies, table, SPLIT)


def test_several_models_are_told_apart() -> None:
    both = pd.concat([REPLIES, REPLIES.assign(model="large")])
    caption = calibration_caption(both, compute(both, Protocol(), 5)[0], SPLIT)
    assert "Calibration of tiny and large on" in caption
    assert "; large, base: AUC 0.500" in caption and " tiny, SFT + SimPO: AUC" in caption
