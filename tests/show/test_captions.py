"""A caption gives the numbers of the tables that its figure is drawn from, and what is undefined or was left out."""

import re
from collections.abc import Iterable

import pandas as pd
import pytest
from known_answers import noisy_answers

from csp_utils.measures.metrics import Protocol, compute, compute_measures, correlations, risk_coverage_table
from csp_utils.show.figures.fig_calibration import calibration_caption, correlation_caption, token_probabilities_caption
from csp_utils.show.figures.fig_metrics import bars_caption, plain_answers_caption, risk_coverage_caption

SPLIT = "pope_adversarial"
NAMES = {"base": "base", "sft": "SFT", "csp": "SFT + SimPO"}
ANSWERS = noisy_answers()
METRICS, PLAIN, _ = compute(ANSWERS, Protocol(), 20)


def after(caption: str, lead: str, until: str = ";") -> str:
    """Return the part of a caption from the words ``lead`` to the next semicolon, or to the end of the sentence."""
    return re.search(rf"(?:^|[;.,] ){re.escape(lead)} (.*?)(?:{until}|\. |\.?$)", caption)[1]


def numbers(text: str) -> list[float]:
    """Read the numbers with three decimals of a text, in order."""
    return [float(found.replace("−", "-")) for found in re.findall(r"[−-]?\d+\.\d{3}", text)]


def words(text: str) -> list[str]:
    """Return what stands before each value of a text such as "base 0.1 [0.0, 0.2], SFT 0.3"."""
    return [found.strip() for found in re.findall(r"(?:^|, )([^\[\],/]+?) [−-]?\d+\.\d{3}", text)]


def rounded(values: Iterable[float]) -> object:
    """Return what equals these values to three decimals."""
    return pytest.approx(list(values), abs=5.1e-4)


def cells(table: pd.DataFrame, keys: Iterable[tuple], split: str = SPLIT) -> list[float]:
    """Return value and both ends of the interval of each (variant, metric) of a split."""
    rows = table[table["split"] == split].set_index(["variant", "metric"])[["value", "ci_low", "ci_high"]]
    return [float(x) for key in keys for x in rows.loc[key]]


def test_calibration_has_the_three_numbers_of_every_variant_and_what_they_are_of() -> None:
    caption = calibration_caption(ANSWERS, METRICS, SPLIT, 15, "left")
    for variant, name in NAMES.items():
        part = after(caption, f"{name}:")
        assert words(part) == ["AUC", "ECE", "Brier score"]
        assert numbers(part) == rounded(cells(METRICS, [(variant, metric) for metric in ("auc", "ece", "brier")]))
    # Base says 95 % of right and of wrong answers, whatever the resample: 1/2, 0.95 - 0.5, and (0.95^2 + 0.05^2) / 2.
    assert ("In brackets: 95 % bootstrap intervals over images. base: AUC 0.500 [0.500, 0.500], "
            "ECE 0.450 [0.450, 0.450], Brier score 0.453 [0.453, 0.453]; SFT: AUC 0.") in caption  # fmt: skip
    for sentence in ("as figures 3 and 7 to 10 of the paper", "Calibration of tiny on POPE adversarial",
                     "in 15 bins of equal width that contain their left edge", "40 questions about 10 images, two "
                     "candidates each; all their confidences were parsed."):  # fmt: skip
        assert sentence in caption


def test_bars_have_every_number_that_is_drawn_and_which_way_is_better() -> None:
    caption = bars_caption(METRICS, SPLIT)
    names = {"acc": "accuracy (n = 40)", "f1": "F1 (n = 40)", "auc": "AUC (n = 80)", "brier": "Brier score (n = 80)",
             "ece": "ECE (n = 80)", "tie_rate": "ties (n = 40)"}  # fmt: skip
    for metric, name in names.items():
        part = after(caption, f"{name}:")
        assert words(part) == list(NAMES.values())
        assert numbers(part) == rounded(cells(METRICS, [(variant, metric) for variant in NAMES]))
    assert "ties (n = 40): base 1.000 [1.000, 1.000], SFT 0." in caption  # base ties always, so it is never right
    assert "accuracy (n = 40): base 0.000 [0.000, 0.000], SFT 0." in caption
    assert "higher is better for accuracy, F1 and AUC, and lower is better for Brier score, ECE and ties" in caption
    assert "figure 4 of the paper" in caption
    assert "Ties are" not in bars_caption(METRICS, SPLIT, ("acc", "f1"))


def test_plain_answers_have_all_four_numbers_of_every_split() -> None:
    caption = plain_answers_caption(PLAIN)
    for split, name in (("pope_adversarial", "POPE adversarial"), ("amber_attribute", "AMBER attribute")):
        part = after(caption, f"{name} (n = 40):")
        assert words(part) == list(NAMES.values())
        of = PLAIN[PLAIN["split"] == split].set_index(["variant", "metric"])["value"]
        expected = []
        for variant in NAMES:
            expected += cells(PLAIN, [(variant, "accuracy")], split)
            expected += [of[variant, metric] for metric in ("precision", "recall", "f1")]
        assert numbers(part) == rounded(expected)
    share = (ANSWERS.query(f"variant == 'base' and split == '{SPLIT}' and candidate == 'Yes'")["label"]).mean()
    assert f"base {share:.3f} [" in caption  # every plain answer is Yes
    assert "figure 5 of the paper" in caption and "Neither Yes nor No" not in caption


def test_plain_answers_that_were_no_answers_are_counted() -> None:
    answers = ANSWERS["plain_answer"].where(ANSWERS["question_id"] != "7")  # one of 40 questions
    replies = ANSWERS.assign(plain_answer=answers)
    caption = plain_answers_caption(compute(replies, Protocol(), 5)[1])
    assert "counts as wrong: base on POPE adversarial 2.5 %, SFT on POPE adversarial 2.5 %" in caption


def test_token_probabilities_have_the_means_of_right_and_of_wrong_answers() -> None:
    replies = ANSWERS.assign(internal=[(7 * i % 40 + 30) / 100 for i in range(len(ANSWERS))])
    caption = token_probabilities_caption(replies, SPLIT)
    part = replies[replies["split"] == SPLIT]
    surest = part.loc[part.groupby(["variant", "question_id"])["internal"].idxmax()]
    for variant, name in NAMES.items():
        own = surest[surest["variant"] == variant].groupby("label")["internal"]
        text = re.search(rf"{re.escape(name)} (0\.\d+) \((\d+) right: (0\.\d+), (\d+) wrong: (0\.\d+)\)", caption)
        mean, n_right, right, n_wrong, wrong = map(float, text.groups())
        assert [n_wrong, n_right] == own.size().tolist() and n_right + n_wrong == 40
        assert [wrong, right] == rounded(own.mean())
        assert mean == pytest.approx((n_right * right + n_wrong * wrong) / 40, abs=1e-3)
    assert "figure 6 of the paper" in caption and "40 questions about 10 images" in caption


def test_correlation_has_both_of_every_panel_and_says_which_are_undefined() -> None:
    table = correlations(ANSWERS, 20)
    caption = correlation_caption(ANSWERS, table)
    assert caption.count("base ρ undefined (constant or missing confidence), τ undefined; SFT ρ 0.") == 2
    tau = table[table["metric"] == "kendall"].set_index(["split", "variant"])["value"]
    for split, name in (("pope_adversarial", "POPE adversarial"), ("amber_attribute", "AMBER attribute")):
        panel = after(caption, f"{name} (40 questions about 10 images, n = 80):", until=r"\Z")
        for variant in ("sft", "csp"):
            part = after(panel, NAMES[variant])
            assert words(part) == ["ρ", "τ"]
            assert numbers(part) == rounded([*cells(table, [(variant, "spearman")], split), tau[split, variant]])


def test_risk_and_coverage_has_the_area_and_both_ends() -> None:
    measures, curves = compute_measures(ANSWERS, Protocol(), 20)[0], risk_coverage_table(ANSWERS, Protocol())
    caption = risk_coverage_caption(curves, measures, SPLIT)
    for variant, name in NAMES.items():
        part = after(caption, f"{name}:")
        assert re.sub(r" [\d.]+ \[[\d., ]+\]", "", part) == "AURC, accuracy on the surest 80 %"
        assert numbers(part) == rounded(cells(measures, [(variant, "aurc"), (variant, "accuracy_at_80")]))
    ends = curves[(curves["split"] == SPLIT) & (curves["coverage"] == 1)].set_index("variant")["risk"]
    part = after(caption, "Risk where all of them are answered:")
    assert words(part) == list(NAMES.values()) and numbers(part) == rounded(ends[variant] for variant in NAMES)
    assert part.startswith("base 1.000,")  # always a tie, so never right
    assert "n = 40 questions" in caption and "not a figure of the paper" in caption


def test_what_a_model_never_said_is_undefined_and_counted() -> None:
    replies = noisy_answers(nulls=True)
    table, measures = compute(replies, Protocol(), 5)[0], compute_measures(replies, Protocol(), 5)[0]
    caption = calibration_caption(replies, table, SPLIT)
    assert "not parsed, and are left out: 80 of 80 of base." in caption
    assert "AUC undefined (no right or no wrong candidate with a confidence)" in after(caption, "base:")
    assert "ECE undefined (no confidence was parsed)" in after(caption, "base:")
    caption = risk_coverage_caption(risk_coverage_table(replies, Protocol()), measures, SPLIT)
    assert "AURC undefined (no question whose two confidences were parsed)" in after(caption, "base:")
    assert "n = base 0, SFT 40, SFT + SimPO 40 questions" in caption and "base undefined, SFT 0." in caption


def test_no_interval_is_invented() -> None:
    replies = ANSWERS.assign(image="one.png")  # one image says nothing of how images differ
    table, plain, _ = compute(replies, Protocol(), 20)
    for caption in (calibration_caption(replies, table, SPLIT), bars_caption(table, SPLIT),
                    plain_answers_caption(plain), correlation_caption(replies, table)):  # fmt: skip
        assert "[" not in caption and "interval" not in caption
    assert "about 1 image," in calibration_caption(replies, table, SPLIT)


def test_several_models_are_told_apart() -> None:
    both = pd.concat([ANSWERS, ANSWERS.assign(model="large")])
    caption = calibration_caption(both, compute(both, Protocol(), 5)[0], SPLIT)
    assert "Calibration of tiny and large on" in caption
    assert "; large, base: AUC 0.500" in caption and " tiny, SFT + SimPO: AUC" in caption
