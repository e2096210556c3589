"""The page of the claims: from tables alone, with every arm, and what was not trained is said."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_claims import said

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_parquet
from csp_utils.base.run import RunPaths
from csp_utils.base.wording import name_of
from csp_utils.measures import arms as claims
from csp_utils.measures import stress_curves, verdicts
from csp_utils.measures.metrics import Protocol
from csp_utils.show import fig_claims, fig_stress, report_claims, saved
from csp_utils.show.report_claims import trainings
from csp_utils.stages.claims import Claims

WORDS = ["ox"]
SHARES = {"csp": 0.8, "simpo_only": 0.05, "global_noise": 0.5, "gamma_0_02": 0.6, "words_left_out": 0.4}


def stress(variant: str, seed: int) -> pd.DataFrame:
    """Replies of a stress test: a model that says c of the right answer, a base that says 95."""
    shown = [("object", 100), ("object", 50), ("object", 0), ("elsewhere", 50), ("elsewhere", 0)]
    rows = [(f"{i}.png", condition, c, candidate, answer, 95 if variant == "base" else c, 0.5, "Yes")
            for i in range(4) for condition, c in shown
            for candidate, answer in (("Yes", "right"), ("No", "wrong"))]  # fmt: skip
    columns = ["image", "condition", "c", "candidate", "answer", "verbalized", "internal", "plain_answer"]
    return pd.DataFrame(rows, columns=columns).assign(model="m", variant=variant).astype({"c": "Int64"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Claims, RunPaths, str]:
    """A run with branches, as notebooks 06, 08 and 11 leave it."""
    outputs = str(tmp_path_factory.mktemp("outputs"))
    paths, names = RunPaths("m", outputs), []

    def asked(share: float, seed: int, variant: str) -> pd.DataFrame:
        rows = said(share, seed, variant, 60)
        rows["question"] = np.where(rows["question_id"].str[-1].isin(list("02468")), "Is there an ox?", "A cow?")
        return pd.concat([rows.assign(split="pope_adversarial"), rows.assign(split="amber_relation")])

    write_parquet(asked(0, 0, "base"), paths["responses.parquet"])
    write_parquet(stress("base", 0), paths["stress.parquet"])
    for branch, share in SHARES.items():
        for seed in (1, 2):
            names.append(f"m.{branch}.{seed}")
            own = RunPaths(names[-1], outputs)
            sft = [asked(share / 2, seed + 5, "sft")] if branch == "csp" else []
            write_parquet(pd.concat([*sft, asked(share, seed, "csp")]), own["responses.parquet"])
            if branch in ("csp", "global_noise"):
                write_parquet(stress("csp", seed), own["stress.parquet"])
    p = Claims(run="m", runs=names, leave_out=WORDS, n_bootstrap=30)
    runs = claims.read_responses("m", 0, names, outputs)
    seeds, drawn = claims.seeds_of(runs), claims.draws(runs, Protocol(), 30)
    pairs = [(arm, versus) for versus in ("base", "csp") for arm in seeds if arm != versus]
    anew = claims.draws(claims.by_words(runs, WORDS), Protocol(), 30)
    judged, checks = verdicts.judge(drawn, seeds)
    values = pd.concat([claims.table(drawn), claims.table(anew)])
    differences = pd.concat([claims.differences(drawn, seeds, pairs), claims.differences(anew, seeds, pairs)])
    curves = stress_curves.curves(claims.read_stress("m", names, outputs), 30, 0)
    for table, path in ((judged, paths["claims.parquet"]), (checks, paths["claim_checks.parquet"]), (values, paths["claim_values.parquet"]),
                        (differences, paths["claim_differences.parquet"]), (curves, paths["claim_curves.parquet"])):  # fmt: skip
        write_parquet(table, path)
    return p, paths, outputs


def test_the_page_shows_all_claims_and_says_what_was_not_trained(run) -> None:
    p, paths, outputs = run
    report_claims.write(p, paths, 10, outputs)
    page = re.sub(r"base64,[^\"]*", "", paths["claims.html"].read_text(encoding="utf-8"))
    for claim in verdicts.claims():
        assert claim.title in page
    assert "were not tested: 8." in page and "NaN" not in page and "None" not in page
    assert page.count("<img") == 3 and "simpo alone" not in page and "SimPO alone" in page
    assert "gamma 0 02" in page and "Does it carry over" not in page  # no executed notebook says what was left out


def test_the_verdicts_and_values_on_the_page_are_those_of_the_tables(run) -> None:
    p, paths, outputs = run
    tables = report_claims.load(paths)
    text = report_claims.tables_of_docs(paths)
    for row in tables.claims.itertuples():
        assert re.search(rf"\| {row.number}. {re.escape(row.title)} .*{row.verdict}", text)
    value = tables.values.set_index(["arm", "split", "metric"])["value"]["csp", "pope_adversarial", "auc"]
    line = next(line for line in text.splitlines() if line.startswith("| SFT + SimPO | 2"))
    assert f"| {value:.3f} [" in line


def test_the_tables_of_the_docs_take_the_place_of_the_old_ones(run, tmp_path: Path) -> None:
    _, paths, _ = run
    path = tmp_path / "claims.md"
    path.write_text(f"before\n{report_claims.BEGIN}\noutdated\n{report_claims.END}\nafter\n")
    report_claims.main([str(paths.root), str(path)])
    once = path.read_text()
    assert once.startswith("before\n") and once.endswith("after\n") and "outdated" not in once and "SimPO alone" in once
    report_claims.main([str(paths.root), str(path)])
    assert path.read_text() == once
    path.write_text("no marks")
    with pytest.raises(UserError, match="lacks the marks"):
        report_claims.main([str(paths.root), str(path)])
    assert path.read_text() == "no marks"


def test_how_an_arm_was_trained_is_what_differs_from_the_whole_method(tmp_path: Path, monkeypatch) -> None:
    from csp_utils.base.params import Perturb, Sft, Simpo

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
    _, paths, _ = run
    t = report_claims.load(paths)
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
