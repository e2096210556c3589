"""Test branches: what each changes and shares in a params file, and how the pipeline runs them."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import MASKS_PARAMS as PARAMS
from conftest import PARAMS as MINI
from conftest import ROOT

from csp_utils.base.errors import UserError
from csp_utils.pipeline import branches, graph, params_file

MORE = PARAMS + """
each:
  rlaif_v: outputs/{branch}/rows.csv
  02_mask: {box_threshold: 0.5, boxes: top1, grounding_dino: models/dino, sam: models/sam}
seeds: [3, 4]
branches:
  plain:
  loose: {02_mask: {box_threshold: 0.1}}
  masks_only: {seeds: [9], 01_extract: {keyword_model: some/other}, 02_mask: null}
"""


def expanded(text: str) -> list[dict]:
    return branches.expand(params_file.yaml.safe_load(text), "x.yaml")


def test_branches_lay_their_changes_over_what_each_shares() -> None:
    main, *others = expanded(MORE)
    assert main["run"] == "mini" and not set(branches.KEYS) & set(main)
    assert [run["run"] for run in others] == ["mini.plain.3", "mini.plain.4", "mini.loose.3", "mini.loose.4",
                                              "mini.masks_only.9"]  # fmt: skip
    assert [run["seed"] for run in others] == [3, 4, 3, 4, 9]
    assert others[0]["02_mask"] == {"box_threshold": 0.5, "boxes": "top1", "grounding_dino": "models/dino",
                                    "sam": "models/sam"}  # fmt: skip
    assert others[2]["02_mask"] == others[0]["02_mask"] | {"box_threshold": 0.1}
    assert "02_mask" not in others[4] and others[4]["01_extract"] == {"keyword_model": "some/other"}
    assert others[0]["rlaif_v"] == "outputs/plain/rows.csv" and main["rlaif_v"] == "rows.csv"


def test_a_shared_key_reaches_only_branches_that_have_a_use_for_it() -> None:
    text = MORE.replace("each:\n", "each:\n  box_threshold: 0.3\n  no_such_key: 1\n")
    assert ["box_threshold" in run for run in expanded(text)[1:]] == [True] * 4 + [False]  # without 02_mask
    assert all("no_such_key" in run for run in expanded(text)[1:])


def test_a_file_without_branches_is_one_run() -> None:
    assert expanded(PARAMS) == [params_file.yaml.safe_load(PARAMS)]


@pytest.mark.parametrize(("old", "new", "message"), [
    ("branches:", "branch:", r"'each' stands at the top of x.yaml, but no 'branches'"),
    ("  plain:", "  a/b: {}", r"branch 'a/b' of x.yaml has a name that is no folder's"),
    ("  plain:", "  plain: 3", r"branch 'plain' of x.yaml is 3, not keys with values"),
    ("[3, 4]", "[3, 3]", r"seeds of branch 'plain' of x.yaml are \[3, 3\]"),
    ("[3, 4]", "5", r"seeds of branch 'plain' of x.yaml are 5"),
    ("[9]", "[]", r"seeds of branch 'masks_only' of x.yaml are \[\]"),
])
def test_a_wrong_form_is_one_sentence(old: str, new: str, message: str) -> None:
    assert MORE.count(old) == 1
    with pytest.raises(UserError, match=message):
        expanded(MORE.replace(old, new))


def test_a_branch_may_read_what_another_run_makes_and_nothing_else(here: Path) -> None:
    text = PARAMS + "each:\n  03_perturb: {masks_file: outputs/mini/masks.parquet}\nbranches: {a: {}}\n"
    Path("p.yaml").write_text(text)
    main, branch = params_file.load("p.yaml")
    assert list(main) == ["01_extract", "02_mask"] and branch["03_perturb"].run == "mini.a.0"
    Path("p.yaml").write_text(text.replace("mini/masks", "other/masks"))
    with pytest.raises(UserError, match="reads outputs/other/masks.parquet, which does not exist: check the path"):
        params_file.load("p.yaml")


@pytest.mark.slow
def test_the_pipeline_runs_every_branch_into_its_folder(project) -> None:
    project.params.write_text(MINI + "each:\n  20_count: {}\nseeds: [0, 1]\n"
                              "branches: {few: {20_count: {n_rows: 1}}, many: {20_count: {n_rows: 2}}}\n")
    said = project.run()
    assert said.returncode == 0, said.stdout
    for branch, n in (("few", 1), ("many", 2)):
        for seed in (0, 1):
            assert (project.folder / f"outputs/mini.{branch}.{seed}/count.txt").read_text() == str(n)
    assert re.search(r"\[\d/6\] few\.1 20_count", said.stdout) and "6 of 6 notebooks run" in said.stdout
    assert "nothing to do" in project.run().stdout
    assert "1 of 6 notebooks run" in project.run("--forcerun", "notebook_20_count_many_1").stdout


def test_notebooks_that_need_not_wait_for_each_other_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSP_GPUS", "0")
    plan = graph.steps(ROOT / "params/tiny.yaml")
    found = {step.name: graph.threads(plan, 8, step) for step in plan}
    assert found == dict.fromkeys(found, 8) | dict.fromkeys(("06_eval", "07_correlation", "08_stress"), 4)
    assert graph.threads(plan, 1, next(step for step in plan if step.name == "06_eval")) == 1
    in_shards = replace(plan[2], shards=3)
    assert graph.threads([*plan[:2], in_shards, *plan[3:]], 8, in_shards) == 2


def test_side_by_side_runs_take_a_core_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CSP_GPUS", "0")
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    Path("rows.csv").write_text("a")
    for model in ("dino", "sam"):
        Path("models", model).mkdir(parents=True)
    Path("p.yaml").write_text(PARAMS)
    (*_, step), cores = graph.steps("p.yaml"), 8
    assert graph.threads([step], cores, step) == 8
    Path("p.yaml").write_text(PARAMS + "each: {01_extract: {keyword_model: some/model}}\nbranches: {a: {}, b: {}}\n")
    plan = graph.steps("p.yaml")
    assert graph.threads(plan, 8, plan[0]) == 1 and len({step.rule for step in plan}) == len(plan) == 4
