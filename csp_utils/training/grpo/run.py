"""Run a training by GRPO, and keep its replies with the rest of its results.

The training itself, its record and its resumption are those of :mod:`csp_utils.training.run`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.files import portable, read_jsonl, read_parquet, write_parquet
from csp_utils.models import checkpoints
from csp_utils.results.origin import Origin, code_and_libraries
from csp_utils.results.stage import Job
from csp_utils.training import command as training
from csp_utils.training import run as training_run
from csp_utils.training.grpo.log import sparse
from csp_utils.training.grpo.parameters import Grpo
from csp_utils.training.grpo.results import COMPLETIONS, PLUGIN
from csp_utils.training.grpo.rows import Schedule, check_rows, schedule
from csp_utils.training.grpo.settings import REWARDS
from csp_utils.training.results import UNCHECKED, rows_file

NUMBERS = ("visual_confidence", "reasoned_confidence", "overall_confidence", "description_kl", "description_entropy",
           "soft_label")
"""Columns of the replies in which a number can be missing: NaN."""


def train(job: Job[Grpo], show: Callable[[str], str | None] | None = None) -> None:
    """Train, and write :data:`csp_utils.training.grpo.results.FILES` to the training's folder in ``job.out``.

    Everything else is as in :func:`csp_utils.training.run.train`.

    Args:
        show: returns the text to print for a log line; default :func:`csp_utils.training.grpo.log.sparse`.

    Raises:
        UserError: a row or a parameter is refused, ms-swift failed, or it recorded other arguments than the given ones,
            other replies than the updates have, or no value of a reward.
    """
    p, data = job.p, rows_file(job.p, job.paths)
    check_rows(read_jsonl(data), portable(data))
    planned = schedule(p, len(training_run.read_rows(data, p).training))
    job.say(f"{planned}.")
    job = replace(job, p=with_plugin(p, training_run.start_model(p, job.paths)), origin=_with_code(job.origin))
    training_run.train(job, show or sparse())
    work, out = job.paths[p.folder] / UNCHECKED, job.out / p.folder
    args = training_run.read_args(out / "args.json")
    if not any(Path(file).name == PLUGIN.name for file in args.get("external_plugins") or []):
        raise UserError(f"ms-swift did not load {PLUGIN.name}, so this was plain GRPO; see {out / 'swift.log'}.")
    completions = read_completions(work / "completions.jsonl")
    check_results(p, planned, completions, list(read_parquet(out / "log.parquet").columns))
    write_parquet(completions, out / COMPLETIONS)


def with_plugin(p: Grpo, model: str) -> Grpo:
    """Return the parameters with the arguments that depend on files and the start model: plugin, and reference model.

    The reference is the start model. It is named, because a training that is resumed loads its checkpoint as the model.
    """
    words = ["--external_plugins", *training.plugins(p), portable(PLUGIN)]
    base = checkpoints.adapter_base(model)
    if p.beta and p.tuner_type == "full":
        words += ["--ref_model", model]
        words += ["--ref_model_type", p.model_type] if p.model_type else []
        words += ["--ref_model_revision", p.revision] if p.revision else []
    elif p.beta and base:
        words += ["--ref_adapters", model]
    return p.model_copy(update={"extra_args": [*words, *p.extra_args]})


def _with_code(origin: Origin) -> Origin:
    """Add the code of the plugin to the origin of the weights, which has that of the command line."""
    code, libraries = code_and_libraries([], [PLUGIN], ())
    key = Origin(PLUGIN.name, code=code, libraries=libraries).key
    return replace(origin, parameters=origin.parameters | {"code of the plugin": key})


def read_completions(path: Path) -> pd.DataFrame:
    """Read ms-swift's completions.jsonl: one row for each reply, in the order in which they were sampled.

    Returns:
        step (int, from 1), prompt, completion, advantages, a column for each reward, and the plugin's columns. The last
        update, which ms-swift writes again when it ends, is there once.

    Raises UserError if the file is missing, or lists of one line have several lengths.
    """
    if not path.is_file():
        raise UserError(f"ms-swift has left no {path}, so the replies of the training are lost; is it ms-swift 4.6?")
    tables: dict[int, pd.DataFrame] = {}
    for number, line in enumerate(read_jsonl(path), 1):
        lengths = {name: len(values) for name, values in line.items()}
        if len(set(lengths.values())) != 1:
            raise UserError(f"Line {number} of {path} has columns of several lengths ({lengths}); is it ms-swift 4.6?")
        table = pd.DataFrame(line)
        if len(table):
            tables[int(table["step"].iloc[0])] = table
    if not tables:
        raise UserError(f"{path} holds no replies, so nothing was trained; use more rows.")
    found = pd.concat(tables.values(), ignore_index=True)
    numbers = {name: found[name].astype("float64") for name in NUMBERS if name in found}
    return found.assign(step=found["step"].astype(int), **numbers)


def check_results(p: Grpo, planned: Schedule, completions: pd.DataFrame, logged: list[str]) -> None:
    """Compare the replies and rewards of a training with what was asked for. Raises UserError for a difference."""
    steps = completions.groupby("step").size()
    if steps.index.tolist() != list(range(1, planned.updates + 1)) or (steps != p.replies).any():
        raise UserError(f"ms-swift kept {len(completions)} replies of {len(steps)} updates, and there should be "
                        f"{p.replies} of each of {planned.updates}; is it ms-swift 4.6?")  # fmt: skip
    for name in p.settings().rewards:
        if completions[REWARDS[name]].isna().any() or f"rewards/{REWARDS[name]}/mean" not in logged:
            raise UserError(f"The reward {name} has no value for some replies, so the trainer of {PLUGIN.name} did not "
                            "run; is it ms-swift 4.6, and no other plugin that replaces its trainer?")  # fmt: skip


def summary(completions: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each number of the replies for each update: the curves of a training, indexed by step."""
    numbers: dict[str, Any] = {name: completions[name].astype("float64") for name in completions.select_dtypes(
        ["number", "bool"]).columns if name != "step"}  # fmt: skip
    return pd.DataFrame(numbers).groupby(completions["step"]).mean()
