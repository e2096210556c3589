"""Read ms-swift's logs: the table of updates, the lines to print, and the error that ended a training."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_jsonl


def read_logging(path: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Read ms-swift's logging.jsonl.

    Returns:
        the updates in order, one dict of numbers each (``step``, ``loss``, ...); and a summary with seconds, parameters
        (ms-swift's sentence), steps (number of updates), seconds_per_step.

    Raises UserError if the file has no update.
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


def last_error(text: str) -> str | None:
    """Return the last exception line of a log, with the exception's own message; None if there is no traceback.

    torchrun prefixes lines with the number of a process, and adds a final error of its own without information.
    """
    line = re.compile(r"^(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)$", re.MULTILINE)
    errors = line.findall(text)
    return next((error for error in reversed(errors) if "ChildFailedError" not in error), (errors or [None])[-1])
