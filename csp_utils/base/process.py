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


class Ended(UserError):
    """A subprocess failed.

    Attributes:
        signal: the signal that ended it from outside, such as SIGKILL; None if it ended by itself.
    """

    def __init__(self, name: str, status: int, log: Path, last: Iterable[str]):
        self.signal = signal_of(status)
        how = f"ended with status {status}" if self.signal is None else ended_by(self.signal)
        lines = "\n".join(last)
        super().__init__(f"{name} {how}; its whole log is {log}" + (f"; its last lines:\n{lines}" if lines else "."))


def signal_of(status: int) -> signal.Signals | None:
    """Return the signal that an exit status stands for, or None.

    It is -N from Python; 128 + N from a shell, and 256 - N from a launcher that passes -N on (but 255 is also -1).
    """
    number = -status if status < 0 else status - 128 if status in range(129, 160) else 0
    number = 256 - status if status in range(225, 255) else number
    return signal.Signals(number) if number in {*signal.Signals} else None


def ended_by(sign: signal.Signals) -> str:
    """Say what a signal that ended a process most often means, as the end of a sentence."""
    if sign == signal.SIGKILL:
        return ("was killed from outside (SIGKILL), most often by the operating system because the machine's memory, "
                "or that of the job or container, was used up (`dmesg` then says \"Out of memory: Killed process\")")
    if sign == signal.SIGTERM:
        return ("was ended from outside (SIGTERM): by somebody, by the time or memory limit of a cluster's job, or by "
                "a guard such as systemd-oomd because the machine's memory was used up")  # fmt: skip
    more = ": /dev/shm, the memory that processes share, may be too small" if sign == signal.SIGBUS else ""
    return f"was ended by the signal {sign.name}{more}"


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

    Raises Ended, with the last 15 lines, if the command fails.
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
                raise Ended(" ".join(command[:2]), status, failed, last)
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
