"""Run ms-swift's training as a subprocess and publish its results.

The weights are saved first. When ms-swift has ended without an error, they are moved to ``checkpoint.unchecked``; only
then are the arguments that it recorded compared. After any later error, the same command resumes from these weights.
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
from csp_utils.models import checkpoints, remote_code
from csp_utils.noise.rendered import is_rendered
from csp_utils.results.origin import RECORD, Origin, code_and_libraries, read_record, write_record
from csp_utils.results.stage import Job
from csp_utils.training import command as training
from csp_utils.training.log import read_logging, sparse, why_it_ended
from csp_utils.training.results import COMPUTED_BY, PLUGIN_FILES, UNCHECKED, WORK, rows_file
from csp_utils.training.rows import Chosen, choose

STATE = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", "global_step*", "latest", "zero_to_fp32.py")
"""Files of a checkpoint that only resuming needs; they are larger than the weights and are not published."""
TRAIN, HELD_OUT = "train.jsonl", "held_out.jsonl"


def start_model(p: Training, paths: RunPaths) -> str:
    """Return the folder or hub id of the start model: the parameter's, or this run's SFT checkpoint."""
    return portable(paths["sft/checkpoint"]) if p.model is None else p.model


def read_rows(path: Path, p: Training) -> Chosen:
    """Return the rows of a JSON lines file that train and that are held out.

    Raises UserError if there is none of either that is asked for, or if an image of theirs is missing.
    """
    rows = read_jsonl(path)
    if not rows:
        raise UserError(f"{path} holds no rows, so there is nothing to train on; run 03_perturb with more rows.")
    chosen = choose(rows, p.n_rows, p.eval_share, p.seed)
    for name, some in (("train", chosen.training), ("held out", chosen.held_out)):
        if not some and (name == "train" or p.eval_share):
            raise UserError(f"With eval_share {p.eval_share} none of the {len(rows)} rows of {path} is "
                            f"{'left to train on' if name == 'train' else name}; change eval_share, or use more rows.")
    used = {id(row) for some in chosen for row in some}
    for number, row in enumerate(rows, 1):
        for image in row["images"] if id(row) in used else []:
            if not Path(image).is_file() and not is_rendered(image):
                raise UserError(f"Image {image} of line {number} of {path} is missing; run notebook 03_perturb again.")
    return chosen


def prepare(p: Training, paths: RunPaths) -> tuple[list[str], dict[str, str], Chosen]:
    """Return command line, environment, and the rows that train and that are held out; run nothing.

    Raises UserError if data or a device is missing, if a model does not fit the parameters, or if it would run code
    that came with its weights and is neither known nor allowed.
    """
    folder, data = paths[p.folder], rows_file(p, paths)
    chosen, model = read_rows(data, p), start_model(p, paths)
    rows = chosen.training
    if commit := remote_code.check(model, p.revision, p.trust_remote_code):
        p = p.model_copy(update={"revision": commit})  # so that what was looked at is what is loaded
    if p.model_type == "qwen_vl" and any(is_rendered(row["images"][0]) for row in rows[:1]):
        raise UserError("Qwen-VL-Chat opens image files itself, so they cannot be drawn; set images: files in the "
                        "section 03_perturb that made the rows, and run that notebook again.")  # fmt: skip
    used = folder / TRAIN if _own_files(p) else data
    held_out = portable(folder / HELD_OUT) if chosen.held_out else None
    words = training.command(p, model, portable(used), portable(folder / WORK), held_out, len(rows))
    return words, training.environment(p, model, folder / WORK), chosen


def _own_files(p: Training) -> bool:
    """Return True if only some of the rows train, which then have a file of their own."""
    return p.n_rows is not None or p.eval_share > 0


def train(job: Job, show: Callable[[str], str | None] | None = None) -> None:
    """Train, and write :data:`csp_utils.training.results.FILES` to the training's folder in ``job.out``.

    A training that fails or is interrupted leaves ``swift.failed.log``. With ``save_steps`` there are checkpoints with
    the optimizer's state, and the same command resumes from the last one. If the training ended but a later step
    failed, the training is not repeated: the weights are read from ``checkpoint.unchecked``.

    Args:
        show: returns the text to print for a log line; default :func:`csp_utils.training.log.sparse`.

    Raises:
        UserError: ms-swift failed, it recorded other arguments than the given ones, or an interrupted training used
            other rows or another start model.
    """
    p, folder = job.p, job.paths[job.p.folder]
    words, variables, chosen = prepare(p, job.paths)
    text, unchecked = training.shell(words, variables), folder / UNCHECKED
    weights, recorded = weights_origin(job), read_record(unchecked / RECORD)
    if recorded and not recorded[0].differences(weights):
        job.say(f"{unchecked} holds the weights of this training; it is not repeated, only checked.")
    else:
        if recorded:
            reasons = "; ".join(recorded[0].differences(weights))
            job.say(f"{unchecked} holds the weights of another training ({reasons}); this one will take its place.")
        _run(job, weights, words, variables, chosen, show or sparse())
        shutil.rmtree(unchecked, ignore_errors=True)
        os.replace(folder / WORK, unchecked)
    try:
        _check_and_keep(p, unchecked, job.out / p.folder, text, chosen, words[words.index("--model") + 1])
    except BaseException as error:
        job.say(f"The weights are safe in {unchecked}, but unchecked.")
        if isinstance(error, UserError):
            raise UserError(f"{error} The trained weights are in {unchecked}: mend the cause and run the same command "
                            "again, nothing is trained a second time.") from error  # fmt: skip
        raise


def weights_origin(job: Job) -> Origin:
    """Return the origin of the weights; its only code is that of this package's command line and plugins.

    The code that runs after a training is not part of it: a correction there must not cost a training.
    """
    command = [f"{training.__name__}:{name}" for name in ("command", "environment")] + [f"{choose.__module__}:choose"]
    code, libraries = code_and_libraries(command, PLUGIN_FILES, COMPUTED_BY)
    return Origin(f"weights of {job.stage.name}", job.origin.parameters, job.origin.inputs, code, libraries)


def _run(job: Job, origin: Origin, words: list[str], variables: dict[str, str], chosen: Chosen,
         show: Callable[[str], str | None]) -> None:
    """Train with ms-swift in the work folder; resume from the last checkpoint of an interrupted training, if any."""
    p, folder = job.p, job.paths[job.p.folder]
    work = folder / WORK
    resume = _resumable(work)
    if resume and not _goes_on(work, origin, job.say):
        resume = None
    if resume is None:
        shutil.rmtree(work, ignore_errors=True)
    write_record(work / RECORD, origin)
    if _own_files(p):  # they are kept, because command.txt names them
        write_jsonl(chosen.training, folder / TRAIN)
    if chosen.held_out:
        write_jsonl(chosen.held_out, folder / HELD_OUT)
    words = resuming(p, words, resume) if resume else words
    try:
        _stream(words, work / "swift.log", variables | _meeting_point(p), show, folder / "swift.failed.log")
    except BaseException:  # Ctrl-C as well
        if _resumable(work) is None:
            shutil.rmtree(work, ignore_errors=True)
        raise


def resuming(p: Training, words: list[str], checkpoint: Path) -> list[str]:
    """Return the command that goes on from a checkpoint with the optimizer's state.

    A whole model is loaded from the checkpoint. transformers' Trainer would load the start model and then the weights
    of the checkpoint by name, but Qwen2-VL's have other names in files than in the module: it warns about missing keys
    and goes on with the weights of the start model.
    """
    words = [*words, "--resume_from_checkpoint", str(checkpoint)]
    if p.tuner_type == "full":
        words[words.index("--model") + 1] = str(checkpoint)
    return words


def _goes_on(work: Path, origin: Origin, say: Callable[[str], object]) -> bool:
    """Return True if the interrupted training in ``work`` can be resumed, because its origin is the same.

    Raises UserError if its rows or its start model have changed: resuming would mix two data sets, and deleting would
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
    """Return a free port for the processes of a training; otherwise two trainings on one machine would both use 29500.

    It is not in command.txt, because it differs each time. MASTER_PORT in the shell has priority, and with NNODES all
    nodes have to agree on one port.
    """
    if {"MASTER_PORT", "NNODES"} & set(os.environ) or (p.processes == 1 and p.deepspeed is None):
        return {}
    with socket.socket() as free:
        free.bind(("", 0))
        return {"MASTER_PORT": str(free.getsockname()[1])}


def _stream(words: list[str], log: Path, variables: dict[str, str], show: Callable[[str], str | None],
            failed: Path) -> None:
    """Run the command; convert what ended ms-swift to one sentence: a signal, or its exception's own message."""
    try:
        stream(words, log, env=variables, show=show, failed=failed)
    except UserError as error:
        text = failed.read_text(encoding="utf-8", errors="replace") if failed.is_file() else ""
        cause = why_it_ended(text, getattr(error, "signal", None))
        if cause is None:
            raise
        raise UserError(f"ms-swift {cause} Its whole log is {failed}.") from None


def _check_and_keep(p: Training, work: Path, out: Path, text: str, chosen: Chosen, model: str) -> None:
    """Check the results of a finished training in ``work`` and write them to ``out``.

    The weights are linked, not moved: after any later error, ``work`` still has them.
    """
    checkpoint = max(work.glob("checkpoint-*"), key=_step)
    args = read_args(work / "args.json")
    if args.get("resume_from_checkpoint"):
        args["model"] = model  # the start model, and not the checkpoint in the work folder, which is deleted
    training.recorded(args, p)
    log, n_rows = work / "swift.log", len(chosen.training)
    given = re.search(r"train_dataset: Dataset\(\{.*?num_rows: (\d+)", log.read_text(encoding="utf-8"), re.DOTALL)
    if given is None or int(given[1]) != n_rows:
        raise UserError(f"ms-swift trained on {given and given[1]} rows instead of {n_rows}; see {log}.")
    table, summary = read_logging(work / "logging.jsonl")
    out.mkdir(parents=True)
    write_text(text, out / "command.txt")
    write_json(args, out / "args.json")
    write_parquet(table, out / "log.parquet")
    write_json({"rows": n_rows, "held_out_rows": len(chosen.held_out), **summary}, out / "summary.json")
    shutil.copyfile(log, out / "swift.log")
    shutil.copytree(checkpoint, out / "checkpoint", copy_function=_link, ignore=shutil.ignore_patterns(*STATE))
    checkpoints.record_max_pixels(out / "checkpoint", p.max_pixels)


def read_args(path: Path) -> dict[str, Any]:
    """Return the arguments that ms-swift recorded. Raises UserError if the file is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"ms-swift has left no readable {path} ({error}).") from error


def _link(source: str, target: str) -> None:
    """Link a file, or copy it if the disk does not support links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _resumable(work: Path) -> Path | None:
    """Return the last checkpoint in ``work`` that includes the optimizer state; None if there is none."""
    found = [path for path in work.glob("checkpoint-*") if _complete(path)]
    return max(found, key=_step, default=None)


def _complete(checkpoint: Path) -> bool:
    """Return True if a checkpoint has the optimizer's state and a whole trainer_state.json, which is written last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (checkpoint / "optimizer.pt").is_file() or any(checkpoint.glob("global_step*"))
