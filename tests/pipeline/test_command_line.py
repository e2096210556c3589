"""The command line of ./run_all.sh: the params file that is meant, options that there are not, the version."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from csp_utils.base.errors import UserError
from csp_utils.pipeline import graph
from csp_utils.pipeline import run as pipeline
from csp_utils.pipeline.graph import Step


@pytest.fixture
def started(monkeypatch):
    """What would have been run: (params file, options)."""
    found = []
    monkeypatch.setattr(pipeline, "run", lambda path, options: found.append((path, options)) or 0)
    monkeypatch.setattr(pipeline.signal, "signal", lambda *_: None)
    monkeypatch.chdir(ROOT)
    return found


# ------------------------------------------------------------------------------------------------- which params file


@pytest.mark.parametrize(("name", "file"), [
    ("tiny", "params/tiny.yaml"), ("tiny.yaml", "params/tiny.yaml"), ("params/tiny.yaml", "params/tiny.yaml"),
    ("paper/all", "params/paper/all.yaml"), ("mine", "params/mine.yml"), ("other.yml", "params/other.yml"),
])
def test_a_bare_name_is_a_file_in_params(tmp_path, monkeypatch, name, file):
    monkeypatch.chdir(tmp_path)
    for one in ("tiny.yaml", "paper/all.yaml", "mine.yml", "other.yml"):
        (tmp_path / "params" / one).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "params" / one).touch()
    assert pipeline.params_path(name, tmp_path) == tmp_path / file


def test_a_file_that_is_there_goes_before_one_in_params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for one in ("tiny.yaml", "params/tiny.yaml"):
        (tmp_path / one).parent.mkdir(exist_ok=True)
        (tmp_path / one).touch()
    assert pipeline.params_path("tiny.yaml", tmp_path) == tmp_path / "tiny.yaml"
    assert pipeline.params_path("tiny", tmp_path) == tmp_path / "params" / "tiny.yaml"
    assert pipeline.params_path("gone", tmp_path) == tmp_path / "gone"  # for the sentence about it
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    assert pipeline.params_path("tiny", tmp_path) == tmp_path / "params" / "tiny.yaml"


@pytest.mark.parametrize(("arguments", "file"), [
    ([], "params/tiny.yaml"), (["-n"], "params/tiny.yaml"), (["smoke", "-n"], "params/smoke.yaml"),
    (["params/demo.yaml"], "params/demo.yaml"), ([str(ROOT / "params" / "demo.yaml")], "params/demo.yaml"),
])
def test_it_is_run_by_its_path_in_the_project(started, arguments, file):
    assert pipeline.main(list(arguments)) == 0
    assert started == [(file, [one for one in arguments if one.startswith("-")])]


def test_a_file_that_is_not_there_is_one_sentence_with_those_that_are(monkeypatch, capsys):
    monkeypatch.setattr(pipeline.signal, "signal", lambda *_: None)
    monkeypatch.chdir(ROOT)
    assert pipeline.main(["params/tinny.yaml"]) == 1
    assert capsys.readouterr().err == (
        "The params file params/tinny.yaml does not exist; did you mean 'params/tiny.yaml'?\n")
    assert pipeline.main(["zzz"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("The params file zzz does not exist; valid are: params/") and "environment.yml" not in said
    assert "params/tiny.yaml" in said and "params/paper/all.yaml" in said and said.count("\n") == 1


# ------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("options", [
    [], ["-n"], ["--dry-run"], ["--plan"], ["--anyway", "--cores", "2"], ["--cores=2"],
    ["--forcerun", "notebook_06_eval"],
    ["-c", "1", "-k"], ["--profile", "slurm"], ["--executor=slurm"], ["--resources", "gpu=2"], ["--unlock"],
    ["--dry"],  # a beginning of an option, which Snakemake takes
])
def test_options_that_there_are_pass(options):
    pipeline.check_options(options)


@pytest.mark.parametrize(("option", "meant"), [
    ("--plann", "--plan"), ("--anyways", "--anyway"), ("--versoin", "--version"), ("--dryrn", "--dryrun"),
    ("--force-run", "--forcerun"), ("--core5=2", "--cores"),
])
def test_an_option_that_there_is_not_is_one_sentence_with_the_nearest(option, meant):
    with pytest.raises(UserError) as error:
        pipeline.check_options(["-n", option])
    name = option.split("=")[0]
    assert str(error.value) == f"There is no option {name}; did you mean '{meant}'? ./run_all.sh --help lists them."


def test_an_option_like_no_other_does_not_list_all_of_snakemakes():
    with pytest.raises(UserError) as error:
        pipeline.check_options(["--qqqqqq"])
    assert str(error.value) == "There is no option --qqqqqq; ./run_all.sh --help lists them."


def test_an_unknown_option_stops_before_anything_starts(started, capsys):
    assert pipeline.main(["--plann"]) == 1 and started == []
    assert re.fullmatch(r"There is no option --plann; .*\n", capsys.readouterr().err)


def test_options_that_are_known_here_do_not_wait_for_snakemake(monkeypatch):
    monkeypatch.setitem(sys.modules, "snakemake.cli", None)
    pipeline.check_options(["--plan", "--anyway", "-n"])


# ------------------------------------------------------------------------------------------------------------- version


def test_version_is_the_projects_with_its_commit(started, capsys):
    assert pipeline.main(["--version"]) == 0 and started == []
    said = capsys.readouterr().out
    number = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert said.startswith(f"csp-reproduction {number}") and said.count("\n") == 1 and "nothing to do" not in said
    if (ROOT / ".git").exists():
        commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
        assert said == f"csp-reproduction {number}, commit {commit[:12]}\n"


def test_version_without_git_is_the_number(monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "9.8.7"\n')
    monkeypatch.setattr(pipeline, "PROJECT", tmp_path)
    assert pipeline.version() == "csp-reproduction 9.8.7"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert pipeline.version() == "csp-reproduction 9.8.7"


@pytest.mark.slow
def test_as_a_program():
    command = [sys.executable, "-m", "csp_utils.pipeline.run"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run([*command, "tiny", "--version"], env=env, capture_output=True, text=True)
    assert told.returncode == 0 and told.stdout.startswith("csp-reproduction ") and told.stderr == ""
    told = subprocess.run([*command, "tiny", "--plann"], env=env, capture_output=True, text=True)
    assert told.returncode == 1 and told.stdout == "" and told.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------------------- targets


def step(name: str, *after: str) -> Step:
    """A step of a plan that waits for others."""
    return Step(name, f"notebooks/{name}.ipynb", "r", {}, [f"outputs/r/notebooks/{one}.ipynb" for one in after])


PLAN = [step("01_extract"), step("02_mask", "01_extract"), step("03_perturb", "02_mask"), step("04_sft", "03_perturb"),
        step("08_stress", "04_sft")]  # fmt: skip


@pytest.mark.parametrize(("options", "expected"), [
    ([], {"01", "02", "03", "04", "08"}),
    (["outputs/r/notebooks/02_mask.ipynb"], {"01", "02"}),
    (["--cores", "1", "outputs/r/notebooks/02_mask.ipynb", "-k"], {"01", "02"}),
    (["notebook_03_perturb"], {"01", "02", "03"}),
    (["--until", "notebook_02_mask"], {"01", "02"}),
    (["--forcerun", "notebook_02_mask"], {"01", "02", "03", "04", "08"}),  # is no target
    (["--omit-from", "notebook_04_sft"], {"01", "02", "03", "04", "08"}),
])
def test_what_a_target_does_not_need_is_not_run(options, expected):
    """Snakemake takes every rule that it is forced to run for a target: all stale ones would be."""
    stale = {one.rule: ["it has not run"] for one in PLAN}
    named, _ = pipeline._without(options, pipeline.FORCE | {"--omit-from"})
    assert {rule.split("_")[1] for rule in graph.only_wanted(PLAN, stale, named)} == expected
    assert graph.only_wanted(PLAN, {}, named) == {}


def test_what_is_needed_is_found_through_all_that_is_between():
    copies = {one.name[:2]: one.copy for one in PLAN}
    assert graph.needed(PLAN, [copies["03"]]) == {copies["01"], copies["02"], copies["03"]}
    assert graph.needed(PLAN, []) == set()
