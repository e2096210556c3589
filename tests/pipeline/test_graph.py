"""Test the graph of the notebooks: which waits for which, and what a dry run shows."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from csp_utils.pipeline import graph


def test_a_step_waits_for_the_makers_of_what_it_reads(monkeypatch):
    monkeypatch.chdir(ROOT)
    by_name = {step.name: step for step in graph.steps("params/smoke.yaml")}
    copy = {name: step.copy for name, step in by_name.items()}
    assert by_name["00_tiny_world"].after == []
    assert by_name["02_mask"].after == [copy["00_tiny_world"], copy["01_extract"]]
    assert by_name["04_sft"].after == [copy["03_perturb"]]
    assert set(by_name["06_eval"].after) == {copy[name] for name in ("00_tiny_world", "04_sft", "05_simpo")}


def test_the_report_follows_everything(monkeypatch):
    monkeypatch.chdir(ROOT)
    *earlier, report, claims = graph.steps("params/smoke.yaml")
    assert (report.name, claims.name) == ("09_report", "11_claims")
    assert [step.copy for step in earlier] == report.after


def test_the_claims_follow_every_run_of_the_file(monkeypatch):
    monkeypatch.chdir(ROOT)
    *earlier, claims = graph.steps("params/tiny_claims.yaml")
    assert claims.name == "11_claims" and claims.run == "claims"
    asked = {step.run for step in earlier if step.name == "06_eval"}
    assert set(claims.parameters["runs"]) == asked - {"claims"}
    assert {step.copy for step in earlier} == set(claims.after)
    looked_at = set(map(str, claims.stage.looks_at(claims.p, claims.paths).values()))
    assert {f"outputs/{step.run}/stress.parquet" for step in earlier if step.name == "08_stress"} <= looked_at
    assert len({step.rule for step in [*earlier, claims]}) == len(earlier) + 1


def test_a_plan_file_gives_the_steps_back(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    plan = graph.steps("params/smoke.yaml")
    monkeypatch.setattr(graph, "plan_file", lambda _: tmp_path / "plan.json")
    assert graph.read_plan(graph.write_plan(plan)) == plan


@pytest.mark.slow
@pytest.mark.parametrize("path", ["params/tiny_claims.yaml", "params/paper/all.yaml"])
def test_a_dry_run_shows_every_notebook_and_shard_and_computes_nothing(tmp_path, path):
    for name in ("csp_utils", "notebooks", "params", "assets"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "Snakefile").write_bytes((ROOT / "Snakefile").read_bytes())
    command = [sys.executable, "-m", "snakemake", "--config", f"params={path}", "-n", "--cores", "2",
               "--quiet", "host"]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                         text=True, timeout=300)  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    steps = graph.steps(path)
    expected = {step.rule for step in steps} | {f"{step.rule}_shard" for step in steps if step.shards > 1}
    assert set(re.findall(r"rule (notebook_\w+):", run.stdout + run.stderr)) == expected
    assert {file.name for file in (tmp_path / "outputs").rglob("*") if file.is_file()} == {".plan.json"}
