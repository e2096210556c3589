"""Show what a params file would run, and what would make the run fail on this machine: ./run_all.sh FILE --plan.

It downloads, computes and writes nothing. The numbers are estimates (:mod:`csp_utils.results.cost`, docs/scale.md).
Every run makes the same check before its first download, and stops if it is certain to fail (:func:`refuse`).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csp_utils.base.errors import UserError
from csp_utils.data import fetching, sources, space
from csp_utils.models import families
from csp_utils.pipeline import gpus
from csp_utils.results.cost import Cost, Known
from csp_utils.training import command as training

if TYPE_CHECKING:
    from csp_utils.pipeline.graph import Step

LARGE = 0.2e9
"""Number of weights above which a model is too slow for a CPU."""


@dataclass(frozen=True)
class Job:
    """One notebook and its cost."""

    step: "Step"
    p: Any
    cost: Cost


def jobs(plan: Sequence["Step"], used: Sequence[sources.Source]) -> list[Job]:
    """Return the cost of each notebook of the plan, in order."""
    known = Known({str(source.folder): source.facts for source in used})
    return [Job(step, step.p, step.stage.cost(step.p, step.paths, known)) for step in plan]


# --------------------------------------------------------------------------------------------- problems of this machine


def lacks(todo: Sequence[Job], used: Sequence[sources.Source], elsewhere: bool = False) -> Iterator[str]:
    """Yield a sentence for every reason why the run is certain to fail on this machine.

    Args:
        elsewhere: True if the notebooks run on a cluster; then the GPUs and processors of this machine do not count.
    """
    yield from _disk(todo, used)
    yield from families.problems_of(job.p for job in todo)
    yield from {sentence for job in todo if (sentence := training.without_deepspeed(job.p))}
    if elsewhere:
        return
    there, memory = gpus.visible(), [gb * 1.0737 for _, gb in gpus.installed()]  # GiB to GB
    if not there:
        yield from _without_gpu(todo)
        return
    shown: set[tuple[str, str]] = set()
    for job in todo:
        name, wanted = job.step.name, getattr(job.p, "processes", 1)
        if job.step.gpus and wanted > len(there):
            sentence = (f"trains in {wanted} processes, one a GPU, and there are {len(there)} here; set processes: "
                        f"{len(there)} and raise gradient_accumulation_steps, so that the update stays the same")
        elif job.step.gpus and memory and min(memory) < (job.cost.gpu_memory or 0):
            sentence = (f"takes about {job.cost.gpu_memory:.0f} GB on each GPU, and the smallest here has "
                        f"{min(memory):.0f} GB; {_smaller(job)}")
        else:
            continue
        if (name, sentence) not in shown:  # once for all branches
            shown.add((name, sentence))
            yield f"{job.step.title} {sentence}."


def _without_gpu(todo: Sequence[Job]) -> Iterator[str]:
    insists = [job.step.title for job in todo if getattr(job.p, "device", "").startswith("cuda")]
    if insists:
        yield f"{', '.join(insists)} ask for device: cuda, and no GPU can be used here; set device: auto."
    large = [job for job in todo if job.step.gpus and job.cost.weights > LARGE]
    if large:
        most = max(job.cost.weights for job in large)
        yield (f"No GPU can be used here, and {len(large)} notebooks load models of up to {most / 1e9:.1f} billion "
               "weights; run them where there are GPUs, or name smaller models.")  # fmt: skip


def _smaller(job: Job) -> str:
    if getattr(job.p, "tuner_type", None) == "full":
        return "train with tuner_type: lora, or spread it over more GPUs (processes, deepspeed: zero3)"
    return "take torch_dtype: bfloat16, a smaller model or a larger GPU"


def _disk(todo: Sequence[Job], used: Sequence[sources.Source]) -> Iterator[str]:
    wanted = [place for source in used if not source.here for place in space.takes(source).items()]
    wanted += [(job.step.paths.root, job.cost.disk) for job in todo if not Path(job.step.copy).exists()]
    largest = max(todo, key=lambda job: job.cost.scratch, default=None)
    wanted += [(largest.step.paths.root, largest.cost.scratch)] if largest else []
    for place, gigabytes, free in space.too_full(wanted):
        yield (f"The disk of {place} has {free:.0f} GB free, and downloads and results take about {gigabytes:.0f} GB; "
               "free some, set CSP_CACHE and HF_HOME to another disk, set images: drawn in 03_perturb, or save_steps: "
               "null in 04_sft and 05_simpo.")  # fmt: skip


def refuse(todo: Sequence[Job], used: Sequence[sources.Source], elsewhere: bool = False) -> None:
    """Raise UserError if the run is certain to fail."""
    if found := list(lacks(todo, used, elsewhere)):
        raise UserError("This machine lacks what the run takes (--plan shows all of it; --anyway starts all the same):"
                        "\n  - " + "\n  - ".join(found))  # fmt: skip


# ------------------------------------------------------------------------------------------------------ as text


def _table(rows: list[list[str]], right: set[int]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join(cell.rjust(w) if i in right else cell.ljust(w)
                             for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
            for row in rows]  # fmt: skip


def _figure(value: float | None) -> str:
    if value is None:
        return "?"
    return "" if value == 0 else "<0.1" if value < 0.1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def hours(todo: Sequence[Job], cards: int) -> float:
    """Return the minimum duration in hours on ``cards`` GPUs.

    It is the larger of two numbers: all GPU hours spread evenly; and the chain of the main run's notebooks plus the
    longest chain of a branch.
    """
    chains: dict[str, float] = {}
    beside: dict[str, float] = {}  # 06 and 08 wait for the trainings but not for each other: the longer one counts
    for job in todo:
        share, folder = (job.cost.gpu_hours or 0) / max(1, min(cards, job.cost.parallel)), job.step.run
        if job.step.name in ("06_eval", "08_stress"):
            share, beside[folder] = max(0, share - beside.get(folder, 0)), max(share, beside.get(folder, 0))
        chains[folder] = chains.get(folder, 0) + share
    main, *branches = chains.values() or [0.0]
    return max(sum(job.cost.gpu_hours or 0 for job in todo) / cards, main + max(branches, default=0))


def written(path: str, todo: Sequence[Job], used: Sequence[sources.Source], elsewhere: bool = False) -> str:
    """Return the whole plan as text."""
    lines = [f"{path}: {len(todo)} notebooks. Nothing is downloaded or computed by --plan."]
    if used:
        missing = sum(source.gigabytes for source in used if not source.here)
        lines += ["", f"Downloads: {missing:.1f} GB, into {sources.cache()} and the hub's own cache"]
        rows = [["source", "GB", "", "licence"]]
        rows += [[source.name, f"{source.gigabytes:.1f}", "here" if source.here else "", source.licence]
                 for source in used]  # fmt: skip
        lines += _table(rows, {1})
    lines += ["", "Jobs (GPU hours of an A100 80 GB; arithmetic good for a factor of two, see docs/scale.md)"]
    rows = [["", "work", "GPUs", "GPU h", "CPU h", "disk GB", "GB a GPU"]]
    for job in todo:
        parts = f" in {job.step.shards} shards" if job.step.shards > 1 else ""
        rows.append([job.step.title, job.cost.work + parts, _figure(job.step.gpus).removesuffix(".0"),
                     _figure(job.cost.gpu_hours), _figure(job.cost.cpu_hours), _figure(job.cost.disk),
                     _figure(job.cost.gpu_memory)])  # fmt: skip
    total = [sum(getattr(job.cost, name) or 0 for job in todo) for name in ("gpu_hours", "cpu_hours", "disk")]
    rows.append(["in all", "", "", *map(_figure, total), ""])
    lines += _table(rows, {2, 3, 4, 5, 6})
    if unknown := [job.step.title for job in todo if job.cost.gpu_hours is None]:
        lines.append(f"  ?: nothing tells how large the models of {', '.join(unknown)} are; they are not in the sums.")
    lines += [f"  {job.step.title}: {job.cost.warning}" for job in todo if job.cost.warning]
    if (scratch := max((job.cost.scratch for job in todo), default=0)) > 0:
        lines.append(f"  While a training runs, its checkpoints (save_steps) take up to {_figure(scratch)} GB more.")
    lines += [f"  On 4 GPUs at least {_figure(hours(todo, 4)) or '0'} hours, on one {_figure(hours(todo, 1)) or '0'}."]
    cards = ", ".join(f"{gb:.0f} GiB" for _, gb in gpus.installed())
    here = f"{len(gpus.visible()) or 'no'} GPU{'s' * (len(gpus.visible()) != 1)}" + (f" ({cards})" if cards else "")
    lines += ["", f"This machine: {here}, {os.cpu_count()} cores" + (" (the jobs run elsewhere)" if elsewhere else "")]
    found = [*lacks(todo, used, elsewhere), *unreachable(used)]
    lines += [f"  lacks: {sentence}" for sentence in found] or ["  lacks nothing that can be told beforehand"]
    return "\n".join(lines)


def unreachable(used: Sequence[sources.Source]) -> Iterator[str]:
    """Yield a sentence for each missing source that its servers lack, and for each server that cannot be reached."""
    silent: dict[str, list[str]] = {}
    for source in used:
        if not source.here:
            try:
                fetching.ask(source)
            except fetching.Unreachable as error:
                silent.setdefault(error.server, []).append(source.name)
            except UserError as error:
                yield str(error)
    for server, names in silent.items():
        yield (f"{server} cannot be reached, from which {', '.join(names)} would be fetched; check the network, or "
               f"give folders: {fetching.own_folders(*names)}.")  # fmt: skip
