"""What a params file would do, and what this machine lacks for it: ./run_all.sh FILE --plan.

Nothing is downloaded, computed or written. The numbers are arithmetic (:mod:`csp_utils.pipeline.cost`, docs/scale.md); what is
certain to fail stops a run before its first download as well (:func:`refuse`).
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csp_utils.base import params
from csp_utils.base.errors import UserError
from csp_utils.base.run import RunPaths
from csp_utils.data import fetching, sources
from csp_utils.models import families
from csp_utils.pipeline import cost, gpus
from csp_utils.pipeline.cost import Cost
from csp_utils.training import command as training

if TYPE_CHECKING:
    from csp_utils.pipeline.graph import Step

LARGE = 0.2e9
"""Weights from which on a model is no longer for a CPU."""


@dataclass(frozen=True)
class Job:
    """A notebook and what it takes."""

    step: "Step"
    p: Any
    cost: Cost


class _Counts:
    """Rows of files that are there, or that earlier notebooks will make."""

    def __init__(self, used: Sequence[sources.Source]) -> None:
        self.sources = {str(source.folder): source for source in used}
        self.rows: dict[str, int] = {}

    def facts(self, path: str | None, max_pixels: int | None = None) -> dict[str, Any]:
        """Of a source, or of a model in a folder of the user's own as far as its files tell."""
        if path is None:
            return {}
        if source := self.sources.get(str(path)):
            return source.facts
        weights = _weights(Path(path))
        if weights is None:
            return {}
        found: dict[str, Any] = {"billions": {"language": weights / 1e9}, "teraflops": 2e-12 * weights * 4096}
        if max_pixels:
            found |= {"tokens": {"language": max_pixels // 784, "vision": max_pixels // 196}, "shared": True}
        return found

    def of(self, path: Path | str | None) -> int:
        """Rows of RLAIF-V's files, or of a table that a notebook will make; 0 if nothing tells."""
        if path is None:
            return 0
        if str(path) in self.rows:
            return self.rows[str(path)]
        return self.facts(str(path)).get("rows") or _table_rows(Path(path))


@cache
def _weights(folder: Path) -> int | None:
    """Number of weights in the safetensors files of a folder (their headers are read); None if there are none."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                n = 1
                for side in tensor["shape"]:
                    n *= side
                total += n
    return total or None


def _table_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    return sum(pq.read_metadata(file).num_rows for file in files if file.suffix == ".parquet")


def jobs(plan: Sequence["Step"], used: Sequence[sources.Source]) -> list[Job]:
    """What each notebook of the plan takes, in order."""
    counts = _Counts(used)
    return [Job(step, p, _cost(step.name, p, RunPaths(p.run), counts))
            for step in plan for p in [params.build(step.name, step.parameters, "the plan")]]  # fmt: skip


def _cost(name: str, p: Any, paths: RunPaths, counts: _Counts) -> Cost:
    """The cost of one notebook; notes how many rows it leaves for the next."""
    if name == "00_tiny_world":
        counts.rows[str(paths.rlaif_v)] = p.n_train_scenes * p.rows_per_scene
        counts.rows[str(paths.pope)] = counts.rows[str(paths.amber)] = p.n_test_scenes
        return Cost("trains " + ", ".join(p.train) if p.train else f"{p.n_train_scenes + p.n_test_scenes} drawn scenes")
    if name == "01_extract":
        rows = counts.of(p.rlaif_v or paths.rlaif_v)
        rows = min(rows, p.n_rows) if p.n_rows else rows
        counts.rows[str(paths.keywords)] = counts.rows[str(paths.masks)] = rows
        return cost.extract(rows, counts.facts(p.keyword_model), p)
    if name == "02_mask":
        rows = counts.rows[str(paths.masks)] = counts.of(paths.keywords)
        return cost.mask(rows, counts.facts(p.grounding_dino), counts.facts(p.sam), p)
    if name == "03_perturb":
        rows = counts.of(p.masks_file or paths.masks)
        draws = 1 if p.answers == "original" else p.draws_per_row
        for made in (paths.sft_jsonl, paths.simpo_jsonl):
            counts.rows[str(made)] = rows * draws
        return cost.perturb(rows, p)
    if name in ("04_sft", "05_simpo"):
        simpo = name == "05_simpo"
        rows = counts.of(p.rows_file or (paths.simpo_jsonl if simpo else paths.sft_jsonl))
        own = paths.simpo_checkpoint if simpo else paths.sft_checkpoint
        start = counts.sources.get(p.model or str(paths.sft_checkpoint))
        facts = start.facts if start else counts.facts(p.model, p.max_pixels)
        if p.model:
            counts.sources[str(own)] = start or sources.Source(p.model, facts=facts)
            counts.sources[str(paths.sft_checkpoint)] = counts.sources[str(own)]
        return cost.train(rows, facts, p, 2 if simpo else 1)
    if name in ("06_eval", "08_stress", "10_schedule"):
        return _asking(name, p, paths, counts)
    return Cost("tables and figures")


def _asking(name: str, p: Any, paths: RunPaths, counts: _Counts) -> Cost:
    model = counts.facts(p.base_model, p.max_pixels)
    if name == "10_schedule":
        rows = p.n_rows or counts.of(p.masks_file or paths.masks)
        return cost.ask(rows * len(p.signals), rows * len(p.signals), model, p, 1, f"{rows:,} pictures")
    pope = counts.facts(p.pope or str(paths.pope))
    images = pope.get("images") or counts.of(p.pope or paths.pope)
    if name == "08_stress":
        images = min(images, p.n_images or images)
        shown = images * len(p.levels) * len(p.regions)
        return cost.ask(shown, 3 * shown, model, p, len(p.variants), f"{images:,} objects, {shown:,} pictures")
    shown, questions, splits = images, pope.get("questions", 18 * images), 3
    if "amber" in p.benchmarks:
        amber = counts.facts(p.amber or str(paths.amber))
        shown += amber.get("images") or counts.of(p.amber or paths.amber)
        questions, splits = questions + amber.get("questions", 18 * images), 5
    if p.n_questions:
        questions = min(questions, splits * p.n_questions)
    a_question = 1 + 2 * len({"third_person", *p.prompts}) + len(p.blurs)
    a_question += p.n_samples * a_question if "sampled" in p.methods else 0
    return cost.ask(shown, a_question * questions, model, p, len(p.variants), f"{questions:,} questions at most")


# ------------------------------------------------------------------------------------------------ what is lacking


def lacks(todo: Sequence[Job], used: Sequence[sources.Source], elsewhere: bool = False) -> Iterator[str]:
    """A sentence for everything that is certain to stop the run on this machine.

    Args:
        elsewhere: the notebooks run on a cluster, so that this machine's GPUs and processors say nothing.
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
    told: set[tuple[str, str]] = set()
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
        if (name, sentence) not in told:  # once for all branches
            told.add((name, sentence))
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
    if job.step.name in ("04_sft", "05_simpo") and job.p.tuner_type == "full":
        return "train with tuner_type: lora, or spread it over more GPUs (processes, deepspeed: zero3)"
    return "take torch_dtype: bfloat16, a smaller model or a larger GPU"


def _disk(todo: Sequence[Job], used: Sequence[sources.Source]) -> Iterator[str]:
    places: dict[int, tuple[Path, float]] = {}
    wanted = [(source.folder, source.gigabytes) for source in used if not source.here]
    wanted += [(Path(job.step.run_folder), job.cost.disk) for job in todo if not Path(job.step.copy).exists()]
    for place, gigabytes in wanted:
        there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
        disk = there.stat().st_dev
        places[disk] = (there, places.get(disk, (there, 0.0))[1] + gigabytes)
    for place, gigabytes in places.values():
        free = shutil.disk_usage(place).free / 1e9
        if free < gigabytes:
            yield (f"The disk of {place.absolute()} has {free:.0f} GB free, and downloads and results take about "
                   f"{gigabytes:.0f} GB; free some, set CSP_CACHE and HF_HOME to another disk, or set images: drawn "
                   "in 03_perturb.")  # fmt: skip


def refuse(todo: Sequence[Job], used: Sequence[sources.Source], elsewhere: bool = False) -> None:
    """Raises UserError if something is certain to stop the run."""
    if found := list(lacks(todo, used, elsewhere)):
        raise UserError("This machine lacks what the run takes (--plan shows all of it; --anyway starts all the same):"
                        "\n  - " + "\n  - ".join(found))  # fmt: skip


# --------------------------------------------------------------------------------------------------- in writing


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
    """Hours on so many GPUs at the least: all GPU hours spread evenly, and no run shorter than its longest chain."""
    chains: dict[str, float] = {}
    beside: dict[str, float] = {}  # 06 and 08 follow the trainings and not each other: the longer one counts
    for job in todo:
        share, folder = (job.cost.gpu_hours or 0) / max(1, min(cards, job.cost.parallel)), job.step.run_folder
        if job.step.name in ("06_eval", "08_stress"):
            share, beside[folder] = max(0, share - beside.get(folder, 0)), max(share, beside.get(folder, 0))
        chains[folder] = chains.get(folder, 0) + share
    main, *branches = chains.values() or [0.0]
    return max(sum(job.cost.gpu_hours or 0 for job in todo) / cards, main + max(branches, default=0))


def written(path: str, todo: Sequence[Job], used: Sequence[sources.Source], elsewhere: bool = False) -> str:
    """The whole plan as text."""
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
        parts = f" in {job.step.shards} parts" if job.step.shards > 1 else ""
        rows.append([job.step.title, job.cost.work + parts, _figure(job.step.gpus).removesuffix(".0"),
                     _figure(job.cost.gpu_hours), _figure(job.cost.cpu_hours), _figure(job.cost.disk),
                     _figure(job.cost.gpu_memory)])  # fmt: skip
    total = [sum(getattr(job.cost, name) or 0 for job in todo) for name in ("gpu_hours", "cpu_hours", "disk")]
    rows.append(["in all", "", "", *map(_figure, total), ""])
    lines += _table(rows, {2, 3, 4, 5, 6})
    if unknown := [job.step.title for job in todo if job.cost.gpu_hours is None]:
        lines.append(f"  ?: nothing tells how large the models of {', '.join(unknown)} are; they are not in the sums.")
    lines += [f"  On 4 GPUs at least {_figure(hours(todo, 4)) or '0'} hours, on one {_figure(hours(todo, 1)) or '0'}."]
    cards = ", ".join(f"{gb:.0f} GiB" for _, gb in gpus.installed())
    here = f"{len(gpus.visible()) or 'no'} GPU{'s' * (len(gpus.visible()) != 1)}" + (f" ({cards})" if cards else "")
    lines += ["", f"This machine: {here}, {os.cpu_count()} cores" + (" (the jobs run elsewhere)" if elsewhere else "")]
    found = [*lacks(todo, used, elsewhere), *unreachable(used)]
    lines += [f"  lacks: {sentence}" for sentence in found] or ["  lacks nothing that can be told beforehand"]
    return "\n".join(lines)


def unreachable(used: Sequence[sources.Source]) -> Iterator[str]:
    """A sentence for each source that is not here and that its servers do not give, and for each server that cannot be
    reached."""
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
