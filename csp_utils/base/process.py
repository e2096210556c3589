"""Run subprocesses, print their output while they run, and end them with this process."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.files import whole_file


def die_with_parent() -> None:
    """Ask Linux, in the child, to end it when its parent dies, so that a killed kernel leaves no training behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG


def kill_after(processes: list, seconds: float) -> None:
    """Wait ``seconds`` for psutil processes to end, then kill those that still run."""
    import psutil

    _, left = psutil.wait_procs(processes, timeout=seconds)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass


def _end_group(process: subprocess.Popen) -> None:
    """End a subprocess and all its child processes with SIGTERM, and after five seconds with SIGKILL."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue


def stream(
    command: Sequence[str],
    log_path: Path | str,
    env: Mapping[str, str] | None = None,
    show: Callable[[str], str | None] = lambda line: line,
    failed: Path | str | None = None,
) -> None:
    """Run ``command``, print its output line by line while it runs, and write all of it to ``log_path``.

    On an interrupt (Ctrl-C, the stop button) the command and all its child processes end.

    Args:
        env: variables that are added to the environment.
        show: returns the text to print for a line, or None to print nothing. A progress bar that redraws its line
            (carriage return) is printed at most every five seconds.
        failed: log of a command that fails; None for ``<name>.failed.log`` beside ``log_path``.

    Raises UserError with the last 15 lines if the command fails.
    """
    log_path = Path(log_path)
    failed = Path(failed) if failed else log_path.with_suffix(".failed.log")
    log_path.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=15)
    try:
        with whole_file(log_path) as temporary:
            with temporary.open("wb") as log:
                status = _run(command, env, log, show, last)
            if status:
                os.replace(temporary, failed)
                raise UserError(f"{' '.join(command[:2])} ended with status {status}; its whole log is {failed}; "
                                "its last lines:\n" + "\n".join(last))
    finally:
        sys.stdout.flush()
    failed.unlink(missing_ok=True)


def _run(command: Sequence[str], env: Mapping[str, str] | None, log: Any, show: Callable[[str], str | None],
         last: deque[str]) -> int:
    """Run the command and return its exit status; write its output to ``log``, show it, keep the last lines."""
    try:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}, start_new_session=True,
            preexec_fn=die_with_parent,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} cannot be started: it is not installed here; run ./run_all.sh, "
                        "which makes the environment.") from error  # fmt: skip
    printed = -5.0
    try:
        for line, redrawn in _lines(process, log):
            if line.strip():
                last.append(line)
            if redrawn and time.monotonic() - printed < 5:
                continue
            text = show(line)
            if text is not None:
                print(text, flush=True)
                printed = time.monotonic()
        return process.wait()
    finally:
        if process.poll() is None:
            _end_group(process)


def _lines(process: subprocess.Popen, log: Any) -> Iterable[tuple[str, bool]]:
    """Yield each line of a process's output and whether a carriage return ended it; write every byte to ``log``."""
    assert process.stdout is not None
    rest = b""
    while chunk := os.read(process.stdout.fileno(), 65536):
        log.write(chunk)
        log.flush()
        parts = re.split(rb"(\r\n|\n|\r)", rest + chunk)
        rest = parts.pop()
        for text, end in zip(parts[0::2], parts[1::2], strict=True):
            yield text.decode(errors="replace"), end == b"\r"
    if rest:
        yield rest.decode(errors="replace"), False
