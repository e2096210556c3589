"""Runs ms-swift's training as a subprocess and keeps what it leaves, whole or not at all."""

import ast
import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.files import portable, write_json, write_jsonl, write_parquet, write_text
from csp_utils.base.params import Sft, Simpo
from csp_utils.base.process import stream
from csp_utils.base.run import RunPaths
from csp_utils.models import checkpoints
from csp_utils.noise.rendered import is_rendered
from csp_utils.training import command as training

WORK = ".work"
TRAIN = "train.jsonl"


def start_model(p: Sft | Simpo, paths: RunPaths) -> str:
    """Folder or hub id that training starts from."""
    return portable(paths.sft_checkpoint) if p.model is None else p.model


def read_rows(path: Path, n_rows: int | None) -> list[dict[str, Any]]:
    """The first ``n_rows`` (None: all) training rows of a JSON lines file.

    Raises UserError if there is none, or if an image of theirs is missing.
    """
    lines = path.read_text(encoding="utf-8").splitlines()[:n_rows]
    rows = [json.loads(line) for line in lines]
    if not rows:
        raise UserError(f"{path} holds no rows, so there is nothing to train on; run 03_perturb with more rows.")
    for number, row in enumerate(rows, 1):
        for image in row["images"]:
            if not Path(image).is_file() and not is_rendered(image):
                raise UserError(f"Image {image} of line {number} of {path} is missing; run notebook 03_perturb again.")
    return rows


def prepare(p: Sft | Simpo, paths: RunPaths) -> tuple[list[str], dict[str, str], list[dict[str, Any]]]:
    """Command line, environment and training rows, before anything runs.

    Raises UserError for data or a device that are missing, or a model that does not fit the parameters.
    """
    folder, data = (paths.simpo, paths.simpo_jsonl) if isinstance(p, Simpo) else (paths.sft, paths.sft_jsonl)
    data = Path(p.rows_file) if p.rows_file else data
    work = folder / WORK
    rows, model = read_rows(data, p.n_rows), start_model(p, paths)
    if p.model_type == "qwen_vl" and any(is_rendered(row["images"][0]) for row in rows[:1]):
        raise UserError("Qwen-VL-Chat opens picture files itself, so they cannot be drawn; set images: files in the "
                        "section 03_perturb that made the rows, and run that notebook again.")  # fmt: skip
    used = data if p.n_rows is None else folder / TRAIN
    words = training.command(p, model, portable(used), portable(work))
    return words, training.environment(p, model, work), rows


def train(p: Sft | Simpo, paths: RunPaths, show: Callable[[str], str | None] | None = None) -> dict[str, Any]:
    """Trains; leaves checkpoint, command.txt, args.json, log.parquet, swift.log in ``outputs/<run>/sft`` or ``simpo``.

    The checkpoint comes last: if it is there, all of it is there. A training that fails or is interrupted leaves only
    ``swift.failed.log``, unless ``extra_args`` asked for checkpoints with the optimizer's state
    (``--save_only_model false --save_strategy steps --save_steps N``): then the same command goes on from the last one.

    Args:
        p: parameters of notebook 04 or 05.
        paths: of the run.
        show: what to print of a log line; default :func:`sparse`.

    Returns:
        rows (trained on), steps, seconds, seconds_per_step (updates of the weights), parameters (ms-swift's sentence).
    """
    folder = paths.simpo if isinstance(p, Simpo) else paths.sft
    work, log = folder / WORK, folder / paths.sft_swift_log.name
    words, variables, rows = prepare(p, paths)
    text = training.shell(words, variables)
    state = work / "command.txt"
    resume = _resumable(work) if state.is_file() and state.read_text() == text else None
    if resume is None:
        shutil.rmtree(work, ignore_errors=True)
    write_text(text, state)
    if p.n_rows is not None:
        write_jsonl(rows, folder / TRAIN)  # stays: command.txt names it
    words += ["--resume_from_checkpoint", str(resume)] if resume else []
    try:
        _stream(words, log, variables | _meeting_point(p), show or sparse())
        result = _keep(p, folder, work, log, training.shell(words, variables), len(rows))
    except BaseException:  # Ctrl-C as well
        if _resumable(work) is None:
            shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return result


def _meeting_point(p: Sft | Simpo) -> dict[str, str]:
    """A free port where the processes of a training meet: two trainings on one machine would else both take 29500.

    Not in command.txt, as it is another one each time. MASTER_PORT in the shell goes before it, and with NNODES the
    nodes have to agree on one.
    """
    if {"MASTER_PORT", "NNODES"} & set(os.environ) or (p.processes == 1 and p.deepspeed is None):
        return {}
    with socket.socket() as free:
        free.bind(("", 0))
        return {"MASTER_PORT": str(free.getsockname()[1])}


def _stream(words: list[str], log: Path, variables: dict[str, str], show: Callable[[str], str | None]) -> None:
    """Runs the command; an exception inside ms-swift becomes one sentence with the exception's own words."""
    try:
        stream(words, log, env=variables, show=show)
    except UserError:
        failed = log.with_suffix(".failed.log")
        text = failed.read_text(encoding="utf-8", errors="replace") if failed.is_file() else ""
        cause = last_error(text)
        if cause is None:
            raise
        raise UserError(
            f"ms-swift stopped: {cause[:500]} (its whole log is {failed}); mend the cause and run the notebook again."
        ) from None


def last_error(text: str) -> str | None:
    """The last line of a log that ends a traceback, with its exception's own words; None if there is none.

    torchrun writes a process's number before its lines, and at the end an error of its own that says nothing.
    """
    line = re.compile(r"^(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)$", re.MULTILINE)
    errors = line.findall(text)
    return next((error for error in reversed(errors) if "ChildFailedError" not in error), (errors or [None])[-1])


def _keep(p: Sft | Simpo, folder: Path, work: Path, log: Path, text: str, n_rows: int) -> dict[str, Any]:
    """Checks what a finished training left in ``work`` and moves it to ``folder``; the checkpoint last."""
    checkpoint = max(work.glob("checkpoint-*"), key=_step)
    args = json.loads((work / "args.json").read_text(encoding="utf-8"))
    training.recorded(args, p)
    given = re.search(r"train_dataset: Dataset\(\{.*?num_rows: (\d+)", log.read_text(encoding="utf-8"), re.DOTALL)
    if given is None or int(given[1]) != n_rows:
        raise UserError(f"ms-swift trained on {given and given[1]} rows instead of {n_rows}; see {log}.")
    table, summary = read_logging(work / "logging.jsonl")
    write_text(text, folder / "command.txt")
    write_json(args, folder / "args.json")
    write_parquet(table, folder / "log.parquet")
    checkpoints.record_max_pixels(checkpoint, p.max_pixels)
    target, old = folder / "checkpoint", folder / ".checkpoint.old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(checkpoint, target)
    shutil.rmtree(old, ignore_errors=True)
    return {"rows": n_rows, **summary}


def read_logging(path: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """ms-swift's logging.jsonl: one dict of numbers for each update (``step``, ``loss``, ...), and a summary."""
    steps: dict[int, dict[str, float]] = {}
    summary: dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
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


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _resumable(work: Path) -> Path | None:
    """The last checkpoint in ``work`` that holds the optimizer's state as well, if there is one."""
    found = [
        path
        for path in work.glob("checkpoint-*")
        if (path / "trainer_state.json").is_file()
        and ((path / "optimizer.pt").is_file() or any(path.glob("global_step*")))
    ]
    return max(found, key=_step, default=None)


def sparse(lines: int = 12) -> Callable[[str], str | None]:
    """A filter for :func:`csp_utils.base.process.stream` that shows about ``lines`` training steps and what went wrong."""

    def show(line: str) -> str | None:
        if re.match(r"\[ERROR|(\w+\.)*\w*Error: ", line):  # warnings are many, and in swift.log
            return line[:300]
        if "model_parameter_info:" in line:
            return "model: " + line.split("model_parameter_info:")[1].strip()
        if not line.lstrip().startswith("{") or "'loss'" not in line:
            return None
        entry = ast.literal_eval(line.strip())
        step, last = map(int, entry["global_step/max_steps"].split("/"))
        if step not in (1, last) and step % max(1, last // lines):
            return None
        margin = f"  margin {entry['rewards/margins']:+.3f}" if "rewards/margins" in entry else ""
        return (
            f"step {step:>4}/{last}  loss {entry['loss']:.4f}{margin}  learning rate {entry['learning_rate']:.2e}"
            f"  {entry['elapsed_time']} gone, {entry['remaining_time']} to go"
        )

    return show
