"""The tables of further measures: values and reasons; their figure and their part of the report."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_answers import counts_of, percents, table

from csp_utils.base.run import RunPaths
from csp_utils.measures import metrics
from csp_utils.measures.bootstrap import DEBIASED
from csp_utils.measures.calibration import ece
from csp_utils.measures.metrics import MEASURES, Protocol, compute, compute_measures, risk_coverage_table
from csp_utils.measures.smooth_ece import smece
from csp_utils.show import sections, style, tables
from csp_utils.show.figures import fig_metrics
from csp_utils.show.page import section
from csp_utils.show.saved import Saved
from csp_utils.stages.report import Report


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
    """But the AURC, a mean over the first 1, 2, 3 ... questions; and what depends on the number of pairs."""
    changed = ("aurc", "adaptive_ece", *DEBIASED)
    names = [name for name in MEASURES if name not in changed]
    once, twice = everything(rows), everything(rows + rows)
    pd.testing.assert_series_equal(once[names], twice[names], atol=1e-6)  # smece is in single precision
    if not pd.isna(once["adaptive_ece"]):
        assert twice["adaptive_ece"] == pytest.approx(once["adaptive_ece"], abs=1e-12)


# -------------------------------------------------------------------------------------------------- values and reasons


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
    frame = pd.concat([table([(90 - i, 10, "yes", 0, 0.5, "Yes")] * 4, v) for i, v in enumerate(("base", "csp"))])
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
    assert (cells[3].kind, cells[3].note) == ("better", "p = 0.027")  # 2 / (99 + 1), of 40 images
    assert rows["accuracy at 80 % ↑"][4].kind == "better" and rows["underconfidence ↓"][4].kind == "worse"
    assert rows["signed error"][4].text == "−0.300" and rows["signed error"][4].kind == ""  # neither way is better
    for name in ("MCE ↓", "smECE ↓", "Brier: reliability ↓", "Brier: resolution ↑"):
        assert not rows[name][4].kind and "; no verdict: " in rows[name][0].small
    assert "Brier: reliability, Brier: resolution, smECE and MCE get no verdict" in shown.caption
    assert rows["Brier: resolution, debiased ↑"][4].kind == "better" and rows["smECE ↓"][2].small
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
    assert row["diff"] == 0.75 and adversarial[1].text == "+0.750" and adversarial[1].note == "p = 0.035"
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
