"""Reads what ms-swift logs: the table of updates, the line that a reader is shown, the error that ended it."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_jsonl


def read_logging(path: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Read ms-swift's logging.jsonl: one dict of numbers for each update (``step``, ``loss``, ...), and a summary.

    Returns:
        the updates in order; seconds, parameters (ms-swift's sentence), steps (updates), seconds_per_step.
    """
    steps: dict[int, dict[str, float]] = {}
    summary: dict[str, Any] = {}
    for entry in read_jsonl(path):
        if "loss" in entry:
            step = int(entry["global_step/max_steps"].split("/")[0])
            numbers = {name: float(value) for name, value in entry.items() if isinstance(value, int | float)}
            steps[step] = {"step": step, **numbers}
        elif "train_runtime" in entry:
            summary["seconds"] = entry["train_runtime"]
        elif "model_parameter_info" in entry:
            summary["parameters"] = entry["model_parameter_info"]
    table = [steps[step] for step in sorted(steps)]
    if not table:
        raise UserError(f"{path} holds no training step; use more rows.")
    summary |= {"steps": table[-1]["step"], "seconds_per_step": table[-1]["train_speed(s/it)"]}
    return table, summary


def sparse(lines: int = 12) -> Callable[[str], str | None]:
    """Return a filter for :func:`csp_utils.base.process.stream`: about ``lines`` updates, and what went wrong.

    The filter never raises: what it cannot read is in swift.log all the same.
    """

    def show(line: str) -> str | None:
        if re.match(r"\[ERROR|(\w+\.)*\w*Error: ", line):  # warnings are many, and in swift.log
            return line[:300]
        if "model_parameter_info:" in line:
            return "model: " + line.split("model_parameter_info:")[1].strip()
        if not line.lstrip().startswith("{") or "'loss'" not in line:
            return None
        try:
            return _update(line, lines)
        except Exception:  # such as nan, which is no literal of Python; a training must not end for a line
            return line.strip()[:300]

    return show


def _update(line: str, lines: int) -> str | None:
    """Return what is shown of an update's line in ms-swift's log; None for one that is left out."""
    entry = ast.literal_eval(line.strip())
    step, last = map(int, entry["global_step/max_steps"].split("/"))
    if step not in (1, last) and step % max(1, last // lines):
        return None
    margin = f"  margin {entry['rewards/margins']:+.3f}" if "rewards/margins" in entry else ""
    return (f"step {step:>4}/{last}  loss {entry['loss']:.4f}{margin}  learning rate {entry['learning_rate']:.2e}"
            f"  {entry['elapsed_time']} gone, {entry['remaining_time']} to go")  # fmt: skip


def last_error(text: str) -> str | None:
    """Return the last line of a log that ends a traceback, with its exception's own words; None if there is none.

    torchrun writes a process's number before its lines, and at the end an error of its own that says nothing.
    """
    line = re.compile(r"^(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)$", re.MULTILINE)
    errors = line.findall(text)
    return next((error for error in reversed(errors) if "ChildFailedError" not in error), (errors or [None])[-1])
