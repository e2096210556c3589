"""Test that a training which ends early says why in one sentence: memory, a signal, or its own error."""

import os
import signal
import sys
from pathlib import Path

import pytest
from stage_tools import run_stage
from test_training import at_the_root, paths  # noqa: F401  (fixtures)

from csp_utils.base.errors import UserError
from csp_utils.base.process import Ended, signal_of, stream
from csp_utils.stages.sft import Sft
from csp_utils.training import command as training
from csp_utils.training import run as training_run
from csp_utils.training.log import why_it_ended

GPU = ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB "
       "of which 1 GiB is free.")  # fmt: skip
TORCHRUN = """\
[rank1]: RuntimeError: [../gloo/transport/tcp/pair.cc:598] Connection closed by peer [127.0.0.1]:4711
E1127 torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
swift/cli/sft.py FAILED
------------------------------------------------------------
Failures:
[1]:
  exitcode  : 1 (pid: 12)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  rank      : 0 (local_rank: 0)
  exitcode  : {status} (pid: 11)
  error_file: <N/A>
  traceback : Signal {signal} received by PID 11
============================================================
"""


@pytest.mark.parametrize("text, said", [
    (f"Traceback\n{GPU}\n", ["the GPU has too little memory (torch.OutOfMemoryError: CUDA out of memory)",
                             "batch_size", "gradient_checkpointing", "max_pixels", "processes"]),
    (f"[rank0]: {GPU}\n[rank1]: torch.distributed.DistBackendError: NCCL\n", ["GPU has too little", "batch_size"]),
    ("RuntimeError: CUDA error: out of memory\n", ["GPU has too little", "batch_size"]),
    ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate()`\n", ["GPU has too little"]),
    ("RuntimeError: [enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to "
     "allocate 99 bytes.\n", ["machine has too little memory", "batch_size", "dataloader_workers"]),
    ("MemoryError\n", ["machine has too little memory"]),
    ("RuntimeError: DataLoader worker (pid 4123) is killed by signal: Killed. \n", ["machine has too little memory",
                                                                                    "dataloader_workers"]),
    ("RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
     "are out of shared memory.\n", ["/dev/shm", "dataloader_workers: 0"]),
    ("ValueError: no such row\n", ["stopped: ValueError: no such row; mend the cause"]),
    (TORCHRUN.format(status=-9, signal="9 (SIGKILL)"), ["was killed from outside (SIGKILL)", "memory", "batch_size"]),
    (TORCHRUN.format(status=-15, signal="15 (SIGTERM)"), ["was ended from outside (SIGTERM)", "save_steps"]),
    (TORCHRUN.format(status=1, signal="-"), ["Connection closed by peer"]),
])  # fmt: skip
def test_a_log_tells_why_a_training_ended(text: str, said: list[str]) -> None:
    found = why_it_ended(text)
    assert found and "\n" not in found and all(part in found for part in said), found


def test_a_log_without_a_reason_tells_none() -> None:
    assert why_it_ended("a\nb\n") is None
    assert "SIGSEGV" in why_it_ended("a\n", signal.SIGSEGV)


@pytest.mark.parametrize("status, name", [
    (-9, "SIGKILL"), (-15, "SIGTERM"), (137, "SIGKILL"), (143, "SIGTERM"), (247, "SIGKILL"), (241, "SIGTERM"),
    (0, None), (1, None), (2, None), (255, None)])  # fmt: skip
def test_a_status_is_a_signal_or_not(status: int, name: str | None) -> None:
    found = signal_of(status)
    assert (found and found.name) == name


@pytest.mark.parametrize("sign, said", [(signal.SIGKILL, "was killed from outside (SIGKILL), most often"),
                                        (signal.SIGTERM, "was ended from outside (SIGTERM)"),
                                        (signal.SIGBUS, "/dev/shm")])  # fmt: skip
def test_a_command_that_was_killed_says_so(tmp_path: Path, sign: signal.Signals, said: str) -> None:
    """Formerly: "ended with status -9; ... its last lines:" and nothing."""
    code = f"import os; os.kill(os.getpid(), {int(sign)})"
    with pytest.raises(Ended) as error:
        stream([sys.executable, "-c", code], tmp_path / "log")
    assert said in str(error.value) and error.value.signal == sign and "last lines" not in str(error.value)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("launched", [False, True])
def test_a_training_that_was_killed_says_what_to_lower(paths, monkeypatch, sign, launched) -> None:  # noqa: F811
    """Also through a launcher, which passes its child's status on as ms-swift's does."""
    kill = f"import os; print('step 1', flush=True); os.kill(os.getpid(), {int(sign)})"
    code = (f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {kill!r}]).returncode)" if launched
            else kill)  # fmt: skip
    monkeypatch.setattr(training, "command", lambda *_, **__: [sys.executable, "-c", code])
    with pytest.raises(UserError) as error:
        run_stage(Sft(device="cpu"), paths)
    told = str(error.value)
    assert sign.name in told and "memory" in told and "batch_size" in told and "\n" not in told
    assert (paths["sft"] / "swift.failed.log").is_file() and str(paths["sft"] / "swift.failed.log") in told
    assert not (paths["sft"] / training_run.WORK).exists() or os.listdir(paths["sft"] / training_run.WORK)
