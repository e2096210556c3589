"""The page of the claims: from tables alone, with every arm, and what was not trained is said."""

import re
from pathlib import Path

import pandas as pd
import pytest
from finished_run import make_run_with_branches

from csp_utils.base.files import write_parquet
from csp_utils.base.run import RunPaths
from csp_utils.base.wording import name_of
from csp_utils.measures import verdicts
from csp_utils.show import report_claims, saved
from csp_utils.show.figures import fig_claims, fig_stress
from csp_utils.show.report_claims import trainings
from csp_utils.stages.claims import Claims, judge
from csp_utils.stages.perturb import Perturb
from csp_utils.stages.sft import Sft
from csp_utils.stages.simpo import Simpo


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Claims, RunPaths]:
    """The parameters of notebook 11, and a run with branches and all tables."""
    return make_run_with_branches(tmp_path_factory.mktemp("outputs"))


def test_the_page_shows_all_claims_and_says_what_was_not_trained(run) -> None:
    p, paths = run
    page = re.sub(r"base64,[^\"]*", "", report_claims.html(p, paths, report_claims.load(paths.root), 10))
    for claim in verdicts.claims():
        assert claim.title in page
    assert "were not tested: 8." in page and "NaN" not in page and "None" not in page
    assert page.count("<img") == 3 and "simpo alone" not in page and "SimPO alone" in page
    assert "gamma 0 02" in page and "Does it carry over" not in page  # no executed notebook says what was left out


def test_the_verdicts_and_values_on_the_page_are_those_of_the_tables(run) -> None:
    p, paths = run
    tables = report_claims.load(paths.root)
    text = report_claims.tables_of_docs(p, paths)
    for row in tables.claims.itertuples():
        assert re.search(rf"\| {row.number}. {re.escape(row.title)} .*{row.verdict}", text)
    value = tables.values.set_index(["arm", "split", "metric"])["value"]["csp", "pope_adversarial", "auc"]
    line = next(line for line in text.splitlines() if line.startswith("| SFT + SimPO | 3"))
    assert f"| {value:.3f} [" in line


def test_how_an_arm_was_trained_is_what_differs_from_the_whole_method(tmp_path: Path, monkeypatch) -> None:
    def executed(paths):
        branch = paths.root.name.split(".")[1]
        p = {"03_perturb": Perturb(gamma=0.02 if branch == "loud" else 0.005), "04_sft": Sft(),
             "05_simpo": Simpo(rows_file="outputs/m.csp.1/x" if branch == "simpo_only" else None)}  # fmt: skip
        return {name: one for name, one in p.items() if branch != "simpo_only" or name == "05_simpo"}

    monkeypatch.setattr(saved, "executed_notebooks", executed)
    monkeypatch.setattr(saved, "parameters", lambda runs, name: runs.get(name))
    assert trainings("m", ["m.csp.1", "m.loud.1", "m.simpo_only.1"]) == {
        "csp": "the whole method", "loud": "03_perturb: gamma = 0.02",
        "simpo_only": "without 03_perturb; without 04_sft; 05_simpo: rows_file = outputs/m.csp./x"}  # fmt: skip


def test_figures_show_every_claim_and_every_arm(run) -> None:
    _, paths = run
    t = report_claims.load(paths.root)
    figure = fig_claims.claims(t.claims, t.checks, t.differences)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert [title.split("  ")[0] for title in titles] == [str(i) for i in range(1, 9)]
    assert "not tested" in titles[7] and all(row.verdict in title for row, title in
                                             zip(t.claims.itertuples(), titles, strict=True))  # fmt: skip
    names = ["base", "csp", "gamma_0_02"]
    rows = [label.get_text() for label in fig_claims.arms(t.values, names).axes[0].get_yticklabels()]
    assert rows == ["base", "SFT + SimPO", "gamma 0 02"]
    assert "base 95 % unchanged, 95 % hidden most" in fig_stress.seeds_caption(t.curves)
    assert f"{name_of('csp')} 100 % unchanged, 0 % hidden most" in fig_stress.seeds_caption(t.curves)


def test_the_axis_of_an_ablation_reaches_a_loss_and_is_the_usual_one_without(run) -> None:
    _, paths = run
    t = report_claims.load(paths.root)
    usual = fig_claims.claims(t.claims, t.checks, t.differences).axes[5]
    assert usual.get_title(loc="left").startswith("6  SimPO alone") and usual.get_xlim() == (-0.25, 1.0)
    differences = t.differences.copy()
    key = {"arm": "simpo_only", "versus": "base", "split": "pope_adversarial", "metric": "acc"}
    lost = (differences[list(key)] == pd.Series(key)).all(axis=1)
    assert lost.sum() == 1
    differences.loc[lost, ["value", "ci_low", "ci_high"]] = -0.6, -0.7, -0.5
    low, high = fig_claims.claims(t.claims, t.checks, differences).axes[5].get_xlim()
    assert low < -0.7 and high == 1.0


def test_captions_say_over_what_an_interval_is(run) -> None:
    _, paths = run
    t = report_claims.load(paths.root)
    several = fig_claims.claims_caption(t.claims, 3, 10)
    assert "over test images and trainings" in several and "over test images only" in several  # the base
    for seeds in (1, 2):
        few = fig_claims.claims_caption(t.claims, seeds, 10)
        assert "over test images only" in few and "images and trainings" not in few and "stay open" in few
    assert "of the base over test images only" in fig_claims.arms_caption(t.values, ["base", "csp"])


def test_two_seeds_are_shown_without_an_interval(run) -> None:
    p, paths = run
    t = report_claims.load(paths.root)
    own = t.differences.query("arm == 'words_left_out' and versus == 'csp' and split == 'pope_adversarial'")
    row = own.set_index("metric").loc["auc"]
    assert pd.isna(row["ci_low"]) and pd.isna(row["p"]) and row["reason"].startswith("an interval over trainings")
    text = report_claims.against_full(t.differences, ["words_left_out"], {}).markdown()
    assert "seeds: " in text and "no interval" in text
    figure = fig_claims.arms(t.values, ["base", "csp", "words_left_out"])  # draws what there is
    assert len(figure.axes[0].collections) > 0


def test_no_bar_of_claim_1_is_outside_its_panel(run) -> None:
    _, paths = run
    t = report_claims.load(paths.root)
    checks = t.checks.copy()
    checks.loc[checks["number"] == 1, ["ci_low", "ci_high"]] = -0.3, 1.4
    low, high = fig_claims.claims(t.claims, checks, t.differences).axes[0].get_xlim()
    assert low < -0.3 and high > 1.4


def test_a_run_with_one_seed_has_a_page_that_claims_nothing_about_trainings(tmp_path: Path) -> None:
    p, paths = make_run_with_branches(tmp_path)
    p = p.model_copy(update={"runs": ["m.csp.1"], "leave_out": []})
    n_images, made = judge(p, str(tmp_path))
    for name, table in made.items():
        write_parquet(table, paths[f"{name}.parquet"])
    t = report_claims.load(paths.root)
    assert t.claims.set_index("number")["verdict"][[1, 2, 6]].tolist() == ["holds", "open", "not tested"]
    page = re.sub(r"base64,[^\"]*", "", report_claims.html(p, paths, t, n_images))
    assert "over test images only" in page and "images and seeds" not in page and "NaN" not in page
