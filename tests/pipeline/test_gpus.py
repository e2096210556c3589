"""Test that each GPU is reserved for one notebook at a time, and that Snakemake reserves the right numbers."""

import os
import shutil
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
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def holder(number: int) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HOLD, str(number)], env={**os.environ, "PYTHONPATH": str(ROOT)},
                            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip


MIG = "MIG-GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f/1/2"  # the form of drivers before 470


@pytest.mark.parametrize(("variable", "names"), [
    ("", []), ("-1", []), ("2", ["2"]), ("0, 1", ["0", "1"]), (f"{MIG},MIG-5c89", [MIG, "MIG-5c89"]),
    ("0,-1,1", ["0"]), ("NoDevFiles", []), ("0,x,1", ["0"]),  # CUDA stops at the first that is none
])  # fmt: skip
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
    second.kill()  # like a killed notebook
    assert sorted(waiting.stdout.readline().strip().split(",")) == sorted(taken[1])
    for process in (first, waiting):
        process.communicate("\n", timeout=30)
    second.communicate()


def test_what_was_set_comes_back_and_none_is_none(three):
    with gpus.held(0) as mine:
        assert mine == [] and os.environ["CUDA_VISIBLE_DEVICES"] == ""
    with gpus.held(None) as mine:  # a notebook that is started by hand
        assert len(mine) == 3 and os.environ["CUDA_VISIBLE_DEVICES"] == "0,GPU-5f,7"
    with gpus.held(1, "cuda:1") as mine:  # the user's choice: its index stays valid
        assert mine == ["GPU-5f"] and os.environ["CUDA_VISIBLE_DEVICES"] == "0,GPU-5f,7"
    with pytest.raises(UserError, match=r"device is 'cuda:3', and 3 GPUs can be used here \(0, GPU-5f, 7\); set"):
        with gpus.held(1, "cuda:3"):
            pass
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
    assert graph.threads([*steps.values()], 32, steps["02_mask"]) == 8  # so that four can run in parallel
    assert graph.threads([*steps.values()], 32, steps["03_perturb"]) == 8


def test_a_slurm_job_has_its_gpus_for_itself(three, monkeypatch):
    """Under control groups every job numbers its GPUs from 0, so locks by number would block unrelated jobs."""
    process = holder(3)
    process.stdout.readline()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with gpus.held(3) as mine:
        assert mine == ["0", "GPU-5f", "7"]
    process.communicate("\n", timeout=30)


def locks(folder) -> set[str]:
    return {file.name for file in folder.rglob("*.lock")}


@pytest.mark.parametrize("names", [("4", "5"), ("GPU-5f1c2a", "GPU-77aa01"), (MIG, MIG[:-1] + "3"), ("1", "0")])
@pytest.mark.parametrize("number", [0, 1])
def test_a_training_gets_the_gpu_that_is_locked(monkeypatch, tmp_path, names, number):
    """Formerly, cuda:1 in a shell with CUDA_VISIBLE_DEVICES=4,5 locked GPU 5 and trained on GPU 1, somebody else's."""
    import torch

    from csp_utils.training import command

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(names))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    p = Sft(device=f"cuda:{number}")
    with gpus.held(1, p.device) as mine:
        assert mine == [names[number]] and locks(tmp_path) == {f"{names[number].replace('/', '_')}.lock"}
        variables = command.environment(p, "assets/tiny_world/vlm", tmp_path)
    assert variables["CUDA_VISIBLE_DEVICES"] == names[number]


# ------------------------------------------------------------------------------------------------ where the locks are


@pytest.fixture
def places(monkeypatch, tmp_path):
    """The folders that may hold the locks: runtime, cache, temporary; each exists."""
    for name, variable in (("runtime", "XDG_RUNTIME_DIR"), ("cache", "CSP_CACHE"), ("tmp", "TMPDIR")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path


def refused(folder) -> None:
    """Make a place that cannot hold a folder, also for root."""
    shutil.rmtree(folder)
    folder.write_text("a file")


def test_the_locks_are_in_a_folder_of_the_user(places):
    assert gpus.lock_folder().parent == places / "runtime" and gpus.lock_folder().stat().st_mode & 0o777 == 0o700
    refused(places / "runtime")
    assert gpus.lock_folder().parent == places / "cache"
    refused(places / "cache")
    assert gpus.lock_folder().parent == places / "tmp"
    refused(places / "tmp")
    with pytest.raises(UserError, match="^The GPUs' locks can be written to none of .*; set CSP_CACHE to a folder"):
        gpus.lock_folder()


def test_a_runtime_folder_of_another_user_is_not_used(places, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(UserError, match="is not a folder that only you can write.*set CSP_CACHE"):
        gpus.lock_folder()
    assert not any((places / "runtime").iterdir())


@pytest.mark.parametrize("trap", ["link", "writable"])
def test_a_guessed_folder_is_not_followed(places, trap):
    """Formerly, a folder that another user had put there decided where the locks were written."""
    refused(places / "runtime")
    refused(places / "cache")
    guessed = places / "tmp" / f"csp-gpus-{os.getuid()}"
    if trap == "link":
        (places / "elsewhere").mkdir()
        guessed.symlink_to(places / "elsewhere")
    else:
        guessed.mkdir()
        guessed.chmod(0o777)
    with pytest.raises(UserError, match=f"^{guessed} is not a folder that only you can write"):
        gpus.lock_folder()
    assert not list(places.rglob("*.lock"))


def test_a_user_without_a_home_gets_locks(places, monkeypatch):
    refused(places / "runtime")
    monkeypatch.delenv("CSP_CACHE")
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert gpus.lock_folder().parent == places / "tmp"
