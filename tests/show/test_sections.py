"""Sentences and tables of the report say what the numbers say, good or bad; examples show every kind of question."""

import re

import pandas as pd
import pytest
from finished_run import responses

from csp_utils.measures.metrics import RESPONSE_COLUMNS, Protocol, compute
from csp_utils.show import sections, tables


def differences(**how) -> pd.DataFrame:
    return compute(responses(**how), Protocol(), 60)[2]


def words(**how) -> str:
    change = sections.change(differences(**how), "tiny-qwen2-vl", "base", "csp")
    return "\n".join([change.lead, *change.items])


def test_a_gain_is_called_a_gain_and_a_loss_a_loss() -> None:
    good, bad = words(), words(better=False)
    assert "AUC: better on all 5 splits (+0." in good and "ECE: better on all 5 splits (−0." in good
    assert "AUC: worse on all 5 splits (−0." in bad and "AUC: better" not in bad
    assert "Brier score: worse on all 5 splits (+0." not in good
    assert "No clear change on any split: accuracy of the plain answers." in good


def test_the_counts_of_the_first_sentence_are_those_of_the_table() -> None:
    table = differences()
    judged = tables.verdicts(table, "base", "csp")
    better, worse = ((judged["verdict"] == v).sum() for v in ("better", "worse"))
    said = sections.change(table, "tiny-qwen2-vl", "base", "csp").lead
    assert f"of {len(judged)} comparisons" in said and f"{better} are better, {worse} are worse" in said


@pytest.mark.parametrize(
    ("metric", "low", "high", "verdict"),
    [("auc", 0.1, 0.2, "better"), ("auc", -0.2, -0.1, "worse"), ("ece", -0.2, -0.1, "better"),
     ("ece", 0.1, 0.2, "worse"), ("acc", -0.1, 0.2, "unclear"), ("acc", 0.0, 0.2, "unclear"),
     ("f1", None, None, "undefined")],
)  # fmt: skip
def test_only_an_interval_without_zero_decides(metric: str, low: float, high: float, verdict: str) -> None:
    row = {"model": "m", "variant_a": "base", "variant_b": "csp", "split": "pope_random", "metric": metric,
           "diff": None if low is None else (low + high) / 2, "ci_low": low, "ci_high": high, "n": 9}  # fmt: skip
    assert tables.verdicts(pd.DataFrame([row]), "base", "csp")["verdict"].tolist() == [verdict]


def test_the_base_models_failure_is_told_in_its_numbers() -> None:
    said = responses()
    metrics = compute(said, Protocol(), 5)[0]
    told = "\n".join(sections.failure(said, metrics, "tiny-qwen2-vl"))
    often = 100 * (said[said["variant"] == "base"]["verbalized"] == 95).mean()
    assert f"“95%” in {often:.1f} % of its replies" in told
    ties = 100 * metrics.query("variant == 'base' and metric == 'tie_rate'")["value"].astype(float)
    assert f"{ties.min():.1f} to {ties.max():.1f} %" in told


def test_the_papers_numbers_stand_beside_ours_and_are_marked() -> None:
    metrics = compute(responses(), Protocol(), 5)[0]
    (here, ours), (printed, theirs) = tables.beside_paper(metrics, ["acc"])[0].cells()
    assert here == "measured here" and "printed in the paper" in printed
    value = metrics.query("variant == 'base' and split == 'pope_random' and metric == 'acc'")["value"].item()
    assert ours[0][1].text.startswith(f"{value:.3f} → ")
    row = next(row for row in theirs if row[0].text == "Qwen2-VL-7B-Instruct")
    assert row[3].text == "0.04 → 0.72" and all(cell.kind == "paper" for cell in row)


def test_the_direction_is_compared_cell_by_cell() -> None:
    models, names = ("tiny-qwen2-vl", "Qwen2-VL-7B-Instruct"), ["acc", "f1", "ece"]
    good, bad = (sections.direction(differences(better=it), *models, names) for it in (True, False))
    assert "Of the 15 cells" in good and "clearly in the other in 0" in good
    assert int(re.search(r"same direction in (\d+)", good)[1]) > int(re.search(r"same direction in (\d+)", bad)[1])


def asked(n_yes: int = 6, n_no: int = 6) -> pd.DataFrame:
    """Questions that alternate Yes and No as POPE's do; csp is right, tied, wrong in turn, and base always says 95."""
    rows = []
    for variant in ("base", "csp"):
        for i in range(n_yes + n_no):
            right, outcome = ("Yes", "No")[i % 2], i // 2 % 3
            for candidate in ("Yes", "No"):
                surer = 90 if (candidate == right) == (outcome == 0) else 10
                number = 95 if variant == "base" or outcome == 1 else surer
                rows.append(("m", variant, "pope_random", str(i), f"{i}.png", f"Question {i}?", int(candidate == right),
                             candidate, f"{number}%", number, 0.5, "Yes"))  # fmt: skip
    return pd.DataFrame(rows, columns=RESPONSE_COLUMNS).astype({"verbalized": "Int64"})


@pytest.mark.parametrize("seed", range(3))
def test_the_examples_show_every_outcome_of_yes_and_of_no_questions(seed: int) -> None:
    table = tables.examples(asked(), "m", "pope_random", seed)
    groups = {name: rows for name, rows in table.cells()}
    assert list(groups) == ["SFT + SimPO right", "SFT + SimPO tied", "SFT + SimPO wrong"]
    for outcome, rows in enumerate(groups.values()):
        assert [row[1].text for row in rows] == ["Yes", "No"]  # an even stride over POPE showed Yes questions only
        for row in rows:
            number = int(re.search(r"\d+", row[0].text)[0])
            assert number // 2 % 3 == outcome and ("Yes", "No")[number % 2] == row[1].text
            pair = {0: ("90 %", "10 %"), 1: ("95 %", "95 %"), 2: ("10 %", "90 %")}[outcome]
            assert row[3].text == " / ".join(pair if row[1].text == "Yes" else pair[::-1])
            assert row[4].text == "2 of 6"


def test_the_examples_are_drawn_by_the_seed() -> None:
    shown = {seed: str(tables.examples(asked(60, 60), "m", "pope_random", seed).cells()) for seed in range(5)}
    assert len(set(shown.values())) > 1
    assert shown == {seed: str(tables.examples(asked(60, 60).sample(frac=1, random_state=1), "m", "pope_random",
                                               seed).cells()) for seed in range(5)}  # fmt: skip


def test_replies_that_were_not_parsed_are_an_outcome_of_their_own() -> None:
    replies = asked()
    replies.loc[(replies["variant"] == "csp") & (replies["question_id"] == "1"), "verbalized"] = None
    name, rows = tables.examples(replies, "m", "pope_random", 0).cells()[-1]
    assert name == "SFT + SimPO not parsed" and [row[3].text for row in rows] == ["– / –"]
