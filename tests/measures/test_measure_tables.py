"""The tables of measures: values, reasons, p-values, resamples, and the benchmarks' own scores."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_measures import counts_of, percents
from test_metrics import table

from csp_utils.base.params import Report
from csp_utils.base.run import RunPaths
from csp_utils.measures import bootstrap as intervals
from csp_utils.measures import metrics
from csp_utils.measures.calibration import ece
from csp_utils.measures.metrics import MEASURES, Protocol, compute, compute_measures
from csp_utils.measures.selective import risk_coverage_table
from csp_utils.measures.smooth import smece
from csp_utils.show import fig_metrics, sections, style, tables
from csp_utils.show.page import section
from csp_utils.show.saved import Saved
from csp_utils.words.reading import parse_yes_no


def everything(rows: list[tuple], variant: str = "base", n_bootstrap: int = 2, **protocol) -> pd.Series:
    return compute_measures(table(rows, variant), Protocol(**protocol), n_bootstrap)[0].set_index("metric")["value"]


answers = st.lists(
    st.tuples(st.one_of(st.none(), percents), st.one_of(st.none(), percents), st.sampled_from(["yes", "no"]),
              st.integers(0, 3), st.just(0.5), st.sampled_from(["Yes", "No", None])), min_size=1, max_size=12,
)  # fmt: skip


@given(answers, st.randoms())
@settings(max_examples=15, deadline=None)
def test_the_order_of_rows_does_not_matter(rows: list[tuple], random) -> None:
    frame = table(rows)
    order = random.sample(range(len(frame)), len(frame))
    one, two = (compute_measures(part, Protocol(), 2)[0] for part in (frame, frame.iloc[order]))
    pd.testing.assert_frame_equal(one, two)


@given(answers)
@settings(max_examples=15, deadline=None)
def test_asking_everything_twice_changes_no_value(rows: list[tuple]) -> None:
    """But the AURC, a mean over the first 1, 2, 3 ... questions; and there may now be enough pairs for ten bins."""
    names = [name for name in MEASURES if name not in ("aurc", "adaptive_ece")]
    once, twice = everything(rows), everything(rows + rows)
    pd.testing.assert_series_equal(once[names], twice[names], atol=1e-6)  # smece is in single precision
    if not pd.isna(once["adaptive_ece"]):
        assert twice["adaptive_ece"] == pytest.approx(once["adaptive_ece"], abs=1e-12)


# --------------------------------------------------------------------------------------------------- values and reasons


def test_the_values_of_the_table_are_those_of_the_rows() -> None:
    rows = [(90, 10, "yes", 0, 0.5, "Yes"), (80, 80, "no", 0, 0.5, "Yes"), (60, 70, "yes", 1, 0.5, "No"),
            (None, 40, "no", 2, 0.5, "No"), (20, 95, "no", 3, 0.5, "No")]  # fmt: skip
    got, _ = compute_measures(table(rows), Protocol(), 5)
    assert got["metric"].tolist() == list(MEASURES) and got["value"].notna().sum() == len(MEASURES) - 1
    got = got.set_index("metric")
    assert got["reason"]["adaptive_ece"] == "fewer parsed confidences than bins"  # nine of them
    counts = counts_of([(90, 1), (10, 0), (80, 0), (80, 1), (60, 1), (70, 0), (40, 1), (20, 0), (95, 1)])
    assert got["value"]["smece"] == pytest.approx(float(smece(counts)))
    assert got["value"]["ece_15_left"] == pytest.approx(float(ece(counts, 15, "left")))
    # Surest first: 95 right, 90 right, 80 tie (wrong), 70 wrong; the question that was not read has no place.
    assert got["value"]["aurc"] == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)
    assert got["value"]["accuracy_at_80"] == pytest.approx(2 / 3.2)
    assert (got["value"]["precision"], got["value"]["recall"]) == (1, 0.5)  # one yes of two was found
    assert got["n"][["precision", "aurc", "smece"]].tolist() == [5, 4, 9]


def test_the_other_tables_keep_their_columns() -> None:
    frame = pd.concat([table([(90, 10, "yes", i % 3, 0.5, "Yes")] * 4, v) for i, v in enumerate(("base", "csp"))])
    value, plain, differences = compute(frame, Protocol(), 5)
    further, further_differences = compute_measures(frame, Protocol(), 5)
    assert list(value) == list(plain) == list(further)
    assert list(differences) == list(further_differences) and list(differences)[-1] == "p"
    assert set(value["metric"]) == set(metrics.METRICS) and not set(metrics.METRICS) & set(MEASURES)
    assert set(further_differences["metric"]) == set(MEASURES) and set(differences["metric"]) == set(metrics.METRICS)


@pytest.mark.parametrize(
    ("rows", "undefined"),
    [
        ([(None, None, "no", i, 0.5, None) for i in range(3)], set(MEASURES)),
        ([(90, None, "yes", i, 0.5, "Yes") for i in range(12)],  # right candidates alone, no question with both
         {"auprc_right", "auprc_wrong", "precision", "aurc", "accuracy_at_80"}),
        ([(90, 10, "yes", i, 0.5, "Yes") for i in range(3)], {"adaptive_ece"}),  # six confidences for ten bins
        ([(10, 90, "no", i, 0.5, "Yes") for i in range(6)], {"precision", "recall"}),
    ],
    ids=["nothing parsed", "one class", "fewer pairs than bins", "no positive question"],
)  # fmt: skip
def test_an_undefined_measure_is_null_with_a_reason(rows: list[tuple], undefined: set[str]) -> None:
    got = compute_measures(table(rows), Protocol(), 5)[0].set_index("metric")
    assert set(got.index[got["value"].isna()]) == undefined
    for name in undefined:
        assert got["value"][name] is None or pd.isna(got["value"][name])
        assert pd.isna(got["ci_low"][name]) and pd.isna(got["ci_high"][name]) and len(got["reason"][name]) > 10
    assert got.loc[~got.index.isin(undefined), "reason"].isna().all()


def test_an_undefined_difference_is_null_without_a_p_value() -> None:
    rows = [(90, 10, "yes", i, 0.5, "Yes") for i in range(12)]
    silent = [(None, None, *row[2:]) for row in rows]
    differences = compute_measures(pd.concat([table(silent), table(rows, "csp")]), Protocol(), 20)[1]
    assert differences[["diff", "ci_low", "p"]].set_index(differences["metric"]).loc["smece"].isna().all()


# ----------------------------------------------------------------------------------------------- intervals and p-values


def test_a_p_value_is_the_share_of_resamples_beyond_zero() -> None:
    assert intervals.p_value(np.array([1.0, 1, 2, 3, -1])) == pytest.approx(2 * 2 / 5)
    assert intervals.p_value(np.array([1.0, *[2.0] * 999])) == pytest.approx(2 / 1000)  # the least that 999 can give
    assert intervals.p_value(np.zeros(100)) == 1
    assert intervals.p_value(np.array([1.0, np.nan, 2, 3, 3])) == pytest.approx(2 * 1 / 4)
    assert intervals.p_value(np.array([np.nan, 1, 1])) is None and intervals.p_value(np.array([1.0])) is None
    assert intervals.p_value(np.array([1.0, np.nan, np.nan, np.nan, 1])) is None


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


def test_resamples_are_whole_images_drawn_once() -> None:
    weights = intervals.resampled_images(50, 400, 7)
    assert weights is intervals.resampled_images(50, 400, 7) and not weights.flags.writeable
    assert (weights[0] == 1).all() and (weights.sum(1) == 50).all() and (weights % 1 == 0).all()
    assert weights[1:].mean(0) == pytest.approx(np.ones(50), abs=0.3)
    assert weights[1:].var() == pytest.approx(1 - 1 / 50, abs=0.05)  # of a multinomial
    assert (weights != intervals.resampled_images(50, 400, 8)).any()


@given(answers)
@settings(max_examples=5, deadline=None)
def test_a_resample_is_the_table_of_the_drawn_images(rows: list[tuple]) -> None:
    cell = metrics.Cell(table(rows), Protocol())
    weights = intervals.resampled_images(len(cell.images), 3, 0)
    got = cell.measures(cell.resample(weights))
    names = [str(name) for name in cell.images]
    for b, row in enumerate(weights):
        drawn = [r for name, times in zip(names, row, strict=True) for r in rows * int(times) if f"{r[3]}.png" == name]
        expected = everything(drawn)
        for name in MEASURES:
            value = np.nan if expected[name] is None else float(expected[name])
            np.testing.assert_allclose(got[name][b], value, atol=1e-6, err_msg=name)


# -------------------------------------------------------------------------------------------- the benchmarks' own rules


ANSWERS = [  # question id, truth, what a model said
    (1, "yes", "Yes"), (2, "yes", "Yes, there is a dog in the image."), (3, "yes", "No, there is no dog."),
    (4, "no", "No"), (5, "no", "Yes, there is."), (6, "no", "No, it is not in the image."), (7, "yes", "Yes."),
    (8, "no", "Yes"),
]  # fmt: skip


def pope_score(file: Path) -> dict[str, float]:
    """The rule of POPE's evaluate.py (Li et al. 2023): a first sentence with no or not is No; positive is Yes."""
    counts = dict.fromkeys(["tp", "fp", "tn", "fn"], 0)
    for line in file.read_text().splitlines():
        row = json.loads(line)
        words = row["answer"].split(".")[0].replace(",", "").split(" ")
        said = "no" if {"No", "not", "no"} & set(words) else "yes"
        counts[("t" if said == row["label"] else "f") + ("p" if said == "yes" else "n")] += 1
    precision, recall = counts["tp"] / (counts["tp"] + counts["fp"]), counts["tp"] / (counts["tp"] + counts["fn"])
    accuracy = (counts["tp"] + counts["tn"]) / sum(counts.values())
    return {"accuracy": accuracy, "precision": precision, "recall": recall,
            "f1": 2 * precision * recall / (precision + recall)}  # fmt: skip


def amber_score(file: Path) -> dict[str, float]:
    """The rule of AMBER's inference.py (Wang et al. 2023) for its yes/no questions: positive is No."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    said = ["No" if row["answer"].startswith("No") else "Yes" for row in rows]
    right_no = sum(s == "No" and row["label"] == "no" for s, row in zip(said, rows, strict=True))
    precision, recall = right_no / said.count("No"), right_no / sum(row["label"] == "no" for row in rows)
    accuracy = sum(s.lower() == row["label"] for s, row in zip(said, rows, strict=True)) / len(rows)
    return {"accuracy": accuracy, "precision": precision, "recall": recall,
            "f1": 2 * precision * recall / (precision + recall)}  # fmt: skip


@pytest.mark.parametrize(
    ("positive", "score", "precision"), [("yes", pope_score, 3 / 5), ("no", amber_score, 2 / 3)], ids=["POPE", "AMBER"]
)
def test_the_benchmarks_own_scores_of_an_answer_file(positive: str, score, precision: float, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text("\n".join(json.dumps({"question_id": i, "label": t, "answer": a}) for i, t, a in ANSWERS))
    official = score(file)
    assert official["precision"] == precision and official["accuracy"] == 5 / 8
    said = [parse_yes_no(json.loads(line)["answer"]) for line in file.read_text().splitlines()]
    # The plain answers, and the same answers as confidences.
    rows = [((80, 20) if s == "Yes" else (20, 80)) + (t, i, 0.5, s) for (i, t, _), s in zip(ANSWERS, said, strict=True)]
    protocol = Protocol(positive=positive)
    value, plain, _ = compute(table(rows), protocol, 2)
    plain = plain.set_index("metric")["value"]
    by_confidence = pd.concat([value, compute_measures(table(rows), protocol, 2)[0]]).set_index("metric")["value"]
    for ours, theirs in official.items():
        assert plain[ours] == pytest.approx(theirs)
        assert by_confidence["acc" if ours == "accuracy" else ours] == pytest.approx(theirs)


# -------------------------------------------------------------------------------------------------------------- figures


def test_the_risk_coverage_figure_shows_what_the_table_says(tmp_path: Path) -> None:
    rows = [(90 - i, 10, "yes" if i % 4 else "no", i, 0.5, "Yes") for i in range(40)]
    silent = [(None, None, *row[2:]) for row in rows]
    frame = pd.concat([table(rows), table(silent, "csp")])
    curves = risk_coverage_table(frame, Protocol())
    assert set(curves["variant"]) == {"base", "csp"} and len(curves) == 200
    assert curves.query("variant == 'csp'")["risk"].isna().all()
    figure = fig_metrics.risk_coverage(curves, "pope_random")
    (line,) = [line for line in figure.axes[0].lines if len(line.get_ydata())]  # an undefined curve is not drawn
    first, *others = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert first.startswith("base: AURC") and line.get_ydata()[-1] == pytest.approx(0.25)
    assert others == ["SFT + SimPO: no question with two parsed confidences"]
    assert all(path.stat().st_size > 5 for path in style.save(figure, tmp_path, "risk", "a caption"))


def test_the_reports_table_of_measures() -> None:
    """base says 95 of everything, csp 90 of right and 40 of wrong candidates, sft nothing."""
    base = [(95, 95, "yes" if i % 2 else "no", i, 0.5, "Yes") for i in range(40)]
    csp = [((90, 40) if i % 2 else (40, 90)) + row[2:] for i, row in enumerate(base)]
    silent = [(None, None, *row[2:]) for row in base]
    made = compute_measures(pd.concat([table(base), table(silent, "sft"), table(csp, "csp")]), Protocol(), 99)
    shown = tables.measures(*made, "tiny", "pope_random")
    assert list(shown.columns) == ["", "base", "SFT", "SFT + SimPO", "SFT + SimPO − base"]
    rows = {row[0].text: row for _, group in shown.cells() for row in group}
    assert len(rows) == len(MEASURES)
    name, *cells = rows["ECE, 10 bins, right ↓"]
    assert [cell.text for cell in cells] == ["0.450", "undefined", "0.250", "−0.200"]  # (0.1 + 0.4) / 2 against 0.45
    assert cells[1].small == "no confidence was parsed" and "mean gap" in name.small
    assert (cells[3].kind, cells[3].note) == ("better", "p = 0.020")  # 2 / (99 + 1)
    assert rows["accuracy at 80 % ↑"][4].kind == "better" and rows["underconfidence ↓"][4].kind == "worse"
    assert rows["signed error"][4].text == "−0.300" and rows["signed error"][4].kind == ""  # neither way is better
    assert rows["precision ↑"][1].small == "the positive class was never answered"
    alone = tables.measures(made[0], None, "tiny", "pope_random", explained=False)
    assert len(alone.columns) == 4 and all(not row[0].small for _, group in alone.cells() for row in group)


@pytest.fixture(scope="module")
def run() -> Saved:
    """What the report reads of a run in which csp knows three answers in four, and base none."""
    base = [(95, 95, "yes" if i % 2 else "no", i // 2, 0.5, "Yes") for i in range(40)]
    csp = [((90, 40) if i % 2 or i % 4 == 0 else (40, 90)) + row[2:] for i, row in enumerate(base)]
    said = pd.concat([table(rows, v, split) for split in ("pope_random", "pope_adversarial")
                      for v, rows in (("base", base), ("csp", csp))])  # fmt: skip
    value, plain, differences = compute(said, Protocol(), 99)
    curves = risk_coverage_table(said, Protocol())
    return Saved(Report(run="r"), RunPaths("r"), {}, value, said, plain, differences, Protocol(), True, False, 99,
                 *compute_measures(said, Protocol(), 99), curves)  # fmt: skip


def test_the_report_leads_with_the_table_of_differences(run: Saved) -> None:
    values = sections.results(run)
    html = section("report.j2", "results", "", lambda: values).html
    assert re.findall(r'<(p class="lead"|caption)>', html)[:2] == ['p class="lead"', "caption"]
    first = values["changes"][0]["table"]
    assert first.caption in html.unescape().split("</caption>")[0]
    (_, (random, adversarial)), = first.cells()
    assert (random[0].text, adversarial[0].text) == ("POPE random", "POPE adversarial")
    row = run.differences.set_index(["split", "metric"]).loc["pope_adversarial", "acc"]
    assert row["diff"] == 0.75 and adversarial[1].text == "+0.750" and adversarial[1].note == "p = 0.020"
    assert adversarial[1].small == f"[{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"
    older = replace(run, differences=run.differences.drop(columns="p"))  # from before there were p-values
    assert not any(cell.note for cell in sections.results(older)["changes"][0]["table"].cells()[0][1][0])


@pytest.mark.parametrize(("lost", "shown"), [
    (None, "table fold figure"), ("measure_differences", "missing table fold figure"),
    ("risk_coverage", "table fold missing"), ("measures", "missing"),
])  # fmt: skip
def test_of_the_further_measures_only_what_is_missing_is_left_out(run: Saved, lost: str | None, shown: str) -> None:
    part = replace(run, **{lost: None}) if lost else run
    html = section("report.j2", "measures", "", partial(sections.measures, part)).html
    whole = re.sub(r"<details.*?</details>", "<details>", html, flags=re.S)
    names = {'<p class="missing"': "missing", "<table": "table", "<details": "fold", "<figcaption": "figure"}
    assert [names[tag] for tag in re.findall("|".join(names), whole)] == shown.split()
    lines = re.findall(r'<p class="missing">(.*?)</p>', html)
    assert len(lines) == bool(lost) and all(f"{lost}.parquet is not there (notebook 06_eval" in line for line in lines)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, flags=re.S)
    assert all("Risk and coverage of tiny on POPE adversarial" in caption for caption in captions)
