"""Read ms-swift's logs: the table of updates, the lines to print, and the error that ended a training."""

import ast
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csp_utils.base.errors import GPU_FULL, UserError
from csp_utils.base.files import read_jsonl
from csp_utils.base.process import ended_by, signal_of

AGAIN = "run the same command again (with save_steps it goes on from its last checkpoint)."
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)
SMALLER = "lower batch_size (and raise gradient_accumulation_steps), dataloader_workers or max_pixels"
MACHINE_FULL = re.compile("can't allocate memory|Cannot allocate memory|^MemoryError|"
                          "DataLoader worker .*(killed by signal: (Killed|Terminated)|exited unexpectedly)")
SHARED_FULL = re.compile("DataLoader worker .*killed by signal: Bus|out of shared memory|/dev/shm")
FULL = re.compile("|".join(pattern.pattern for pattern in (GPU_FULL, MACHINE_FULL, SHARED_FULL)))
"""What exceptions say about a GPU, a machine or /dev/shm without enough memory."""


def read_logging(path: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Read ms-swift's logging.jsonl.

    Returns:
        the updates in order, one dict of numbers each (``step``, ``loss``, ..., and ``eval_loss`` after some updates of
        a training with held-out rows); and a summary with seconds, parameters (ms-swift's sentence), steps (number of
        updates), seconds_per_step, and the last eval_loss.

    Raises UserError if the file has no update.
    """
    steps: dict[int, dict[str, float]] = {}
    validation: dict[int, float] = {}
    summary: dict[str, Any] = {}
    for entry in read_jsonl(path):
        if "loss" in entry:
            step = int(entry["global_step/max_steps"].split("/")[0])
            numbers = {name: float(value) for name, value in entry.items() if isinstance(value, int | float)}
            steps[step] = {"step": step, **numbers}
        elif "eval_loss" in entry:
            validation[int(entry["global_step/max_steps"].split("/")[0])] = float(entry["eval_loss"])
        elif "train_runtime" in entry:
            summary["seconds"] = entry["train_runtime"]
        elif "model_parameter_info" in entry:
            summary["parameters"] = entry["model_parameter_info"]
    table = [steps[step] | ({"eval_loss": validation[step]} if step in validation else {}) for step in sorted(steps)]
    if not table:
        raise UserError(f"{path} holds no training step; use more rows.")
    summary |= {"steps": table[-1]["step"], "seconds_per_step": table[-1]["train_speed(s/it)"]}
    if validation:
        summary["eval_loss"] = validation[max(validation)]
    return table, summary


def sparse(lines: int = 12) -> Callable[[str], str | None]:
    """Return a filter for :func:`csp_utils.base.process.stream` that shows about ``lines`` updates, and all errors.

    The filter never raises. A line that it cannot parse is still in swift.log.
    """

    def show(line: str) -> str | None:
        if re.match(r"\[ERROR|(\w+\.)*\w*Error: ", line):  # warnings are too many; swift.log has them
            return line[:300]
        if "model_parameter_info:" in line:
            return "model: " + line.split("model_parameter_info:")[1].strip()
        if not line.lstrip().startswith("{") or "'loss'" not in line:
            return None
        try:
            return _update(line, lines)
        except Exception:  # for example nan, which is not a Python literal; a log line must not end a training
            return line.strip()[:300]

    return show


def _update(line: str, lines: int) -> str | None:
    """Return the text to print for an update's line in ms-swift's log; None if the line is skipped."""
    entry = ast.literal_eval(line.strip())
    step, last = map(int, entry["global_step/max_steps"].split("/"))
    if step not in (1, last) and step % max(1, last // lines):
        return None
    margin = f"  margin {entry['rewards/margins']:+.3f}" if "rewards/margins" in entry else ""
    return (f"step {step:>4}/{last}  loss {entry['loss']:.4f}{margin}  learning rate {entry['learning_rate']:.2e}"
            f"  {entry['elapsed_time']} gone, {entry['remaining_time']} to go")  # fmt: skip


def why_it_ended(text: str, sign: signal.Signals | None = None) -> str | None:
    """Say, as the rest of a sentence after "ms-swift", what ended a training and what to do; None if nothing tells.

    Args:
        text: the whole log.
        sign: the signal that ended the process that was started. Of several processes torchrun reports it in the log.
    """
    root = re.search(r"Root Cause \(first observed failure\).*?exitcode\s*:\s*(-?\d+)", text, re.DOTALL)
    sign = sign or (signal_of(int(root[1])) if root else None)
    if sign in FROM_OUTSIDE:
        return f"{ended_by(sign)}; {SMALLER}, train in fewer processes, or use a machine with more memory, and {AGAIN}"
    errors = exceptions(text)  # of several processes, one has too little memory, and the others lose it
    cause = next((error for error in errors if FULL.search(error)), last_error(text))
    if cause is None:
        return f"{ended_by(sign)}; {AGAIN}" if sign else None
    if GPU_FULL.search(cause):
        return (f"stopped: the GPU has too little memory ({cause.partition('. ')[0][:300]}); lower batch_size (and "
                "raise gradient_accumulation_steps) or max_pixels, set gradient_checkpointing: true or tuner_type: "
                "lora, or use more GPUs (processes, deepspeed: zero2 or zero3).")  # fmt: skip
    if SHARED_FULL.search(cause):
        return (f"stopped: {cause[:300]}; the memory that processes share (/dev/shm) is too small: set "
                "dataloader_workers: 0, or enlarge it (docker run --shm-size).")  # fmt: skip
    if MACHINE_FULL.search(cause):
        return f"stopped: the machine has too little memory ({cause[:300]}); {SMALLER}, or use a machine with more."
    return f"stopped: {cause[:500]}; mend the cause and run the notebook again."


def exceptions(text: str) -> list[str]:
    """Return the exception lines of a log, without the number of the process that torchrun puts before them."""
    line = r"^(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)$"
    return re.findall(line, text, re.MULTILINE)


def last_error(text: str) -> str | None:
    """Return the last exception line of a log, with the exception's own message; None if there is no traceback.

    The last one of torchrun says only that a process failed, and is taken only if there is no other.
    """
    errors = exceptions(text)
    return next((error for error in reversed(errors) if "ChildFailedError" not in error), (errors or [None])[-1])
