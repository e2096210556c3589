"""Runs ms-swift's training as a subprocess and keeps what it leaves.

The weights come to safety first. As soon as ms-swift has ended well they are in ``checkpoint.unchecked``; only then is
compared what it recorded. Whatever goes wrong from there on, the same command goes on from these weights.
"""

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.files import portable, read_jsonl, write_json, write_jsonl, write_parquet, write_text
from csp_utils.base.params import Training
from csp_utils.base.process import stream
from csp_utils.base.run import RunPaths
from csp_utils.models import checkpoints
from csp_utils.noise.rendered import is_rendered
from csp_utils.results.origin import RECORD, Origin, code_and_libraries, read_record, write_record
from csp_utils.results.stage import Job
from csp_utils.training import command as training
from csp_utils.training.log import last_error, read_logging, sparse
from csp_utils.training.results import COMPUTED_BY, PLUGIN_FILES, UNCHECKED, WORK, rows_file

TRAIN = "train.jsonl"


def start_model(p: Training, paths: RunPaths) -> str:
    """Return the folder or hub id that training starts from: the parameter's, or this run's SFT checkpoint."""
    return portable(paths["sft/checkpoint"]) if p.model is None else p.model


def read_rows(path: Path, n_rows: int | None) -> list[dict[str, Any]]:
    """Return the first ``n_rows`` (None: all) training rows of a JSON lines file.

    Raises UserError if there is none, or if an image of theirs is missing.
    """
    rows = read_jsonl(path)[:n_rows]
    if not rows:
        raise UserError(f"{path} holds no rows, so there is nothing to train on; run 03_perturb with more rows.")
    for number, row in enumerate(rows, 1):
        for image in row["images"]:
            if not Path(image).is_file() and not is_rendered(image):
                raise UserError(f"Image {image} of line {number} of {path} is missing; run notebook 03_perturb again.")
    return rows


def prepare(p: Training, paths: RunPaths) -> tuple[list[str], dict[str, str], list[dict[str, Any]]]:
    """Return command line, environment and training rows, before anything runs.

    Raises UserError for data or a device that are missing, or a model that does not fit the parameters.
    """
    folder, data = paths[p.folder], rows_file(p, paths)
    rows, model = read_rows(data, p.n_rows), start_model(p, paths)
    if p.model_type == "qwen_vl" and any(is_rendered(row["images"][0]) for row in rows[:1]):
        raise UserError("Qwen-VL-Chat opens image files itself, so they cannot be drawn; set images: files in the "
                        "section 03_perturb that made the rows, and run that notebook again.")  # fmt: skip
    used = data if p.n_rows is None else folder / TRAIN
    words = training.command(p, model, portable(used), portable(folder / WORK))
    return words, training.environment(p, model, folder / WORK), rows


def train(job: Job, show: Callable[[str], str | None] | None = None) -> None:
    """Train, and leave :data:`csp_utils.training.results.FILES` under the training's folder in ``job.out``.

    A training that fails or is interrupted leaves ``swift.failed.log``. If ``extra_args`` asked for checkpoints with
    the optimizer's state (``--save_only_model false --save_strategy steps --save_steps N``), the same command goes on
    from the last one. A training that ended, but whose bookkeeping failed, is not repeated: its weights are taken from
    ``checkpoint.unchecked``.

    Args:
        show: what to print of a log line; default :func:`csp_utils.training.log.sparse`.

    Raises:
        UserError: ms-swift stopped, recorded something else than was asked for, or an interrupted training was one of
            other rows or of another start model.
    """
    p, folder = job.p, job.paths[job.p.folder]
    words, variables, rows = prepare(p, job.paths)
    text, unchecked = training.shell(words, variables), folder / UNCHECKED
    weights, recorded = weights_origin(job), read_record(unchecked / RECORD)
    if recorded and not recorded[0].differences(weights):
        job.say(f"{unchecked} holds the weights of this training; it is not repeated, only checked.")
    else:
        if recorded:
            reasons = "; ".join(recorded[0].differences(weights))
            job.say(f"{unchecked} holds the weights of another training ({reasons}); this one will take its place.")
        _run(job, weights, words, variables, rows, show or sparse())
        shutil.rmtree(unchecked, ignore_errors=True)
        os.replace(folder / WORK, unchecked)
    try:
        _check_and_keep(p, unchecked, job.out / p.folder, text, len(rows))
    except BaseException as error:
        job.say(f"The weights are safe in {unchecked}, but unchecked.")
        if isinstance(error, UserError):
            raise UserError(f"{error} The trained weights are in {unchecked}: mend the cause and run the same command "
                            "again, nothing is trained a second time.") from error  # fmt: skip
        raise


def weights_origin(job: Job) -> Origin:
    """Return what the weights are made from: of this package's code, only what writes the command and the plugins.

    The bookkeeping after a training is not among it: mending it must not cost a training.
    """
    command = [f"{training.__name__}:{name}" for name in ("command", "environment")]
    code, libraries = code_and_libraries(command, PLUGIN_FILES, COMPUTED_BY)
    return Origin(f"weights of {job.stage.name}", job.origin.parameters, job.origin.inputs, code, libraries)


def _run(job: Job, origin: Origin, words: list[str], variables: dict[str, str], rows: list[dict[str, Any]],
         show: Callable[[str], str | None]) -> None:
    """Have ms-swift train in the work folder, from the last checkpoint of an interrupted training if there is one."""
    p, folder = job.p, job.paths[job.p.folder]
    work = folder / WORK
    resume = _resumable(work)
    if resume and not _goes_on(work, origin, job.say):
        resume = None
    if resume is None:
        shutil.rmtree(work, ignore_errors=True)
    write_record(work / RECORD, origin)
    if p.n_rows is not None:
        write_jsonl(rows, folder / TRAIN)  # stays: command.txt names it
    words = [*words, *(["--resume_from_checkpoint", str(resume)] if resume else [])]
    try:
        _stream(words, work / "swift.log", variables | _meeting_point(p), show, folder / "swift.failed.log")
    except BaseException:  # Ctrl-C as well
        if _resumable(work) is None:
            shutil.rmtree(work, ignore_errors=True)
        raise


def _goes_on(work: Path, origin: Origin, say: Callable[[str], object]) -> bool:
    """Say whether the interrupted training in ``work`` is this one.

    Raises UserError if its rows or its start model are others now: going on would mix two data sets, and deleting would
    lose what may be hours of work.
    """
    recorded = read_record(work / RECORD)
    if recorded is None:
        say(f"{work} holds an interrupted training of unknown origin; it is trained from the start.")
        return False
    roles = {"rows_file": "the training rows", "images": "their images", "model": "the start model"}
    if changed := [role for role in roles if recorded[0].inputs.get(role) != origin.inputs.get(role)]:
        names = " and ".join(roles[role] for role in changed)
        raise UserError(f"{work} holds an interrupted training, but {names} changed since; bring back what changed to "
                        f"go on with it, or delete {work} to train from the start.")  # fmt: skip
    if reasons := recorded[0].differences(origin):
        say(f"The interrupted training in {work} is not continued ({'; '.join(reasons)}); "
            "it is trained from the start.")  # fmt: skip
        return False
    say(f"The interrupted training in {work} is continued.")
    return True


def _meeting_point(p: Training) -> dict[str, str]:
    """A free port where the processes of a training meet: two trainings on one machine would else both take 29500.

    Not in command.txt, as it is another one each time. MASTER_PORT in the shell goes before it, and with NNODES the
    nodes have to agree on one.
    """
    if {"MASTER_PORT", "NNODES"} & set(os.environ) or (p.processes == 1 and p.deepspeed is None):
        return {}
    with socket.socket() as free:
        free.bind(("", 0))
        return {"MASTER_PORT": str(free.getsockname()[1])}


def _stream(words: list[str], log: Path, variables: dict[str, str], show: Callable[[str], str | None],
            failed: Path) -> None:
    """Run the command; an exception inside ms-swift becomes one sentence with the exception's own words."""
    try:
        stream(words, log, env=variables, show=show, failed=failed)
    except UserError:
        text = failed.read_text(encoding="utf-8", errors="replace") if failed.is_file() else ""
        cause = last_error(text)
        if cause is None:
            raise
        raise UserError(
            f"ms-swift stopped: {cause[:500]} (its whole log is {failed}); mend the cause and run the notebook again."
        ) from None


def _check_and_keep(p: Training, work: Path, out: Path, text: str, n_rows: int) -> None:
    """Check what a finished training left in ``work`` and put the results into ``out``.

    The weights are linked, not moved: if anything fails later, ``work`` still holds them.
    """
    checkpoint = max(work.glob("checkpoint-*"), key=_step)
    args = read_args(work / "args.json")
    training.recorded(args, p)
    log = work / "swift.log"
    given = re.search(r"train_dataset: Dataset\(\{.*?num_rows: (\d+)", log.read_text(encoding="utf-8"), re.DOTALL)
    if given is None or int(given[1]) != n_rows:
        raise UserError(f"ms-swift trained on {given and given[1]} rows instead of {n_rows}; see {log}.")
    table, summary = read_logging(work / "logging.jsonl")
    out.mkdir(parents=True)
    write_text(text, out / "command.txt")
    write_json(args, out / "args.json")
    write_parquet(table, out / "log.parquet")
    write_json({"rows": n_rows, **summary}, out / "summary.json")
    shutil.copyfile(log, out / "swift.log")
    shutil.copytree(checkpoint, out / "checkpoint", copy_function=_link)
    checkpoints.record_max_pixels(out / "checkpoint", p.max_pixels)


def read_args(path: Path) -> dict[str, Any]:
    """Return the arguments that ms-swift recorded. Raises UserError if the file is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"ms-swift has left no readable {path} ({error}).") from error


def _link(source: str, target: str) -> None:
    """Link a file; copy it where the disk knows no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


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
