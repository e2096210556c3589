"""GPUs are handed to one notebook at a time, and counted where Snakemake counts."""

import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from csp_utils.base.errors import UserError
from csp_utils.pipeline import gpus, graph
from csp_utils.stages import stages
from csp_utils.stages.sft import Sft

HOLD = ("import sys, time\nfrom csp_utils.pipeline import gpus\nwith gpus.held(int(sys.argv[1])) as mine:\n"
        "    import os; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.readline()")  # fmt: skip


@pytest.fixture
def three(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-5f,7")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def holder(number: int) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HOLD, str(number)], env={**os.environ, "PYTHONPATH": str(ROOT)},
                            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip


@pytest.mark.parametrize(("variable", "names"), [("", []), ("-1", []), ("2", ["2"]), ("0, 1", ["0", "1"])])
def test_the_variable_says_what_can_be_used(monkeypatch, variable, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert gpus.visible() == names


def test_nvidia_smi_is_asked_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, 81920'\necho '1, 40960'\necho '2, [N/A]'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    gpus.installed.cache_clear()
    try:
        assert gpus.installed() == [("0", 80.0), ("1", 40.0)] and gpus.visible() == ["0", "1"]
    finally:
        gpus.installed.cache_clear()


def test_no_two_get_the_same_one_and_a_dead_one_lets_go(three):
    first, second = holder(1), holder(2)
    taken = [process.stdout.readline().strip().split(",") for process in (first, second)]
    assert sorted(taken[0] + taken[1]) == ["0", "7", "GPU-5f"]
    waiting = holder(2)
    time.sleep(1.5)
    assert waiting.poll() is None
    second.kill()  # as a notebook that is killed
    assert sorted(waiting.stdout.readline().strip().split(",")) == sorted(taken[1])
    for process in (first, waiting):
        process.communicate("\n", timeout=30)
    second.communicate()


def test_what_was_set_comes_back_and_none_is_none(three):
    with gpus.held(0) as mine:
        assert mine == [] and os.environ["CUDA_VISIBLE_DEVICES"] == ""
    with gpus.held(None) as mine:  # started by hand
        assert len(mine) == 3 and os.environ["CUDA_VISIBLE_DEVICES"] == "0,GPU-5f,7"
    with gpus.held(1, "cuda:1") as mine:  # the user's own choice: its index stays right
        assert mine == ["GPU-5f"] and os.environ["CUDA_VISIBLE_DEVICES"] == "0,GPU-5f,7"
    with gpus.held(2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,GPU-5f"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,GPU-5f,7"
    with pytest.raises(UserError, match="4 GPUs are wanted and 3 can be used"), gpus.held(4):
        pass


@pytest.mark.parametrize(("values", "number"), [
    ({}, 1), ({"device": "cpu"}, 0), ({"processes": 4}, 4), ({"processes": 4, "device": "cpu"}, 0)])
def test_what_a_training_takes(values, number):
    assert stages["04_sft"].gpus(Sft(**values)) == number


def test_gpus_are_counted_where_there_are_some(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("CSP_GPUS", raising=False)
    steps = {step.name: step for step in graph.steps("params/tiny.yaml")}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert {graph.gpu(step) for step in steps.values()} == {0}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    using = {name for name, step in steps.items() if graph.gpu(step)}
    assert using == {"01_extract", "02_mask", "04_sft", "05_simpo", "06_eval", "08_stress"}
    assert graph.threads([*steps.values()], 32, steps["02_mask"]) == 8  # so that four can work side by side
    assert graph.threads([*steps.values()], 32, steps["03_perturb"]) == 8


def test_a_slurm_job_has_its_gpus_for_itself(three, monkeypatch):
    """Under control groups every job's GPUs are numbered from 0: a lock by number would keep jobs of others waiting."""
    process = holder(3)
    process.stdout.readline()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with gpus.held(3) as mine:
        assert mine == ["0", "GPU-5f", "7"]
    process.communicate("\n", timeout=30)
