"""What surrounds Snakemake when notebooks are Slurm jobs; scripts/try_slurm.sh tries all of it on a real Slurm."""

import shutil
import threading
import time

import pytest
import yaml
from conftest import ROOT

from csp_utils.base.errors import UserError
from csp_utils.pipeline import run_notebook, slurm
from csp_utils.pipeline.graph import Step

SLURM = str(ROOT / "profiles" / "slurm")


@pytest.mark.parametrize(("options", "expected"), [
    (["-n", "--profile", "slurm"], ["-n", "--profile", SLURM]),
    (["--profile=slurm", "-n"], [f"--profile={SLURM}", "-n"]),
    (["--profile", "mine"], ["--profile", "mine"]),  # of the user's own, which Snakemake knows where to find
    (["--profile", "/a/slurm"], ["--profile", "/a/slurm"]),
    (["--forcerun", "slurm"], ["--forcerun", "slurm"]),
    (["--profile"], ["--profile"]),
])
def test_a_profile_of_the_project_is_found_by_its_name(options, expected):
    assert slurm.options_with_profile(options, ROOT) == expected


@pytest.mark.parametrize(("options", "expected"), [
    ([], "local"),
    (["--profile", SLURM], "slurm"),
    ([f"--profile={SLURM}", "--executor", "local"], "local"),  # as in Snakemake, the command line goes before it
    (["--executor=slurm"], "slurm"),
    (["-e", "kubernetes"], "kubernetes"),
    (["--cores", "2", "--forcerun", "notebook_06_eval"], "local"),
])
def test_the_executor_is_that_of_the_command_line_or_of_the_profile(options, expected):
    assert slurm.executor(options) == expected


def test_a_profile_of_the_users_own_is_found_where_snakemake_finds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "snakemake" / "at_home"
    folder.mkdir(parents=True)
    (folder / "config.v8+.yaml").write_text("executor: slurm\njobs: 3\n")
    assert slurm.executor(["--profile", "at_home"]) == "slurm"
    assert slurm.executor(["--profile", "at_home", "--executor", "local"]) == "local"
    assert slurm.executor(["--profile", "not_there"]) == "local"  # Snakemake will say that it is not there
    assert slurm.executor([]) == "local"
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "at_home")
    assert slurm.executor([]) == "slurm"
    assert slurm.executor(["--profile", SLURM, "--executor=local"]) == "local"


def test_the_profile_holds_options_of_snakemake_only():
    from snakemake.cli import get_argument_parser

    known = {name for action in get_argument_parser()._actions for name in action.option_strings}
    keys = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    assert {f"--{key}" for key in keys if not key.startswith("slurm-")} <= known
    assert keys["default-resources"]["nodes"] == 1


def run_of() -> run_notebook.Run:
    """A notebook's run that has reached the third of nine cells."""
    run = run_notebook.Run(Step("02_mask", "notebooks/02_mask.ipynb", "mini", {}), "[2/9] a.0 02_mask")
    run.cell, run.cells, run.heading = 3, 9, "Boxes"
    return run


def test_of_a_job_its_starts_ends_and_failures_are_told_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = run_of()
    run.report("starting")
    print("Building DAG of jobs...\n    threads: 2\n[Sat Nov 21 13:28:56 2026]\nPassed unknown parameter: rlaif_v")
    run.report()  # a heartbeat
    run.error = UserError("The image a.png is truncated; delete it.")
    run.finish()
    print("Error in rule notebook_02_mask:")
    lines = capsys.readouterr().out.splitlines()
    told, inside = slurm.notable(lines, False)
    assert not inside and told[0].endswith("starting") and told[1].endswith("FAILED")
    message = "\n".join(told[2:])
    assert message.startswith("Notebook 02_mask failed in cell 3 of 9") and "a.png is truncated" in message
    assert len(told) == 2 + len(run_notebook.failure(run).strip().splitlines())
    # The same when it comes in two pieces, cut within the message.
    first, inside = slurm.notable(lines[:-4], False)
    assert inside and first + slurm.notable(lines[-4:], True)[0] == told


def test_a_file_is_read_line_by_line_as_it_grows(tmp_path):
    tail = slurm.Tail(tmp_path / "x.log")
    assert tail.lines() == []
    said = []
    for piece in ("one\ntw", "o\n", "", "three"):
        with tail.path.open("a") as file:
            file.write(piece)
        said.append(tail.lines())
    assert said == [["one"], ["two"], [], []]


def test_jobs_are_followed_from_the_line_that_submits_them(tmp_path, capsys):
    log, output = tmp_path / "snakemake.log", tmp_path / "slurm" / "rule_notebook_02_mask" / "17.log"
    over = threading.Event()
    reader = threading.Thread(target=slurm._follow, args=(log, over))
    reader.start()
    try:
        log.write_text(f"Using shell\nJob 3 has been submitted with SLURM jobid 17 (log: {output}).\n")
        time.sleep(1.2)
        output.parent.mkdir(parents=True)
        output.write_text("noise\n[2/9] 02_mask  0:21  done\n")  # just before the end: must not be lost
    finally:
        over.set()
        reader.join()
    said = capsys.readouterr().out.splitlines()
    assert said == [f"Slurm job 17: notebook_02_mask, its output is {output}", "[2/9] 02_mask  0:21  done"]


def test_why_slurm_took_no_job_or_ended_one_is_told(tmp_path, capsys):
    """Text of Snakemake's log under Slurm 22.05: a partition that is not there, then a job ended by scancel."""
    log, over = tmp_path / "snakemake.log", threading.Event()
    log.write_text("""Error in rule notebook_01_extract:
    message: SLURM sbatch failed. The error message was 'sbatch: error: invalid partition specified: nowhere
sbatch: error: Batch job submission failed: Invalid partition name specified'.
    sbatch call:
        sbatch --parsable --job-name csp --wrap="python -m snakemake"
    jobid: 2
Error in rule notebook_02_mask:
    message: SLURM-job '8' failed, SLURM status is: 'CANCELLED'.
    jobid: 3
Shutting down, this might take some time.
""")
    over.set()
    slurm._follow(log, over)
    said = capsys.readouterr().out
    assert "invalid partition specified: nowhere\nsbatch: error: Batch job submission failed" in said
    assert said.endswith("SLURM-job '8' failed, SLURM status is: 'CANCELLED'.\n") and said.count("\n") == 3


def test_without_the_plugin_the_run_stops_with_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="uv pip install snakemake-executor-plugin-slurm=="):
        with slurm.jobs(tmp_path, tmp_path / "snakemake.log"):
            pass


def test_without_slurm_the_run_stops_with_one_sentence_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not shutil.which("squeue")
    with pytest.raises(UserError, match="squeue is not on this machine.*leave out --profile slurm"):
        with slurm.jobs(tmp_path, tmp_path / "snakemake.log"):
            raise AssertionError("it started")
    assert not list(tmp_path.iterdir())
