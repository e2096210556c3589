"""What the pipeline is made of: a step for each notebook of a params file, with the files on both sides of it, and the
cores and GPUs that Snakemake counts for it."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.needs import needs
from csp_utils.base.run import MAKES, RunPaths
from csp_utils.pipeline import gpus, params_file
from csp_utils.pipeline.dependencies import modules
from csp_utils.pipeline.shards import Shard, place

FOLDERS = ("pope", "amber", "perturbed_images", "dataset", "sft_checkpoint", "simpo_checkpoint")
"""Those of artifacts.MAKES that are folders."""

ELSEWHERE = "elsewhere"
"""Of CSP_GPUS: the notebooks are jobs of a cluster."""

CLUSTER_THREADS = 8
"""Cores of a cluster's job for each GPU it asks for, and of one that asks for none."""


@dataclass(frozen=True)
class Step:
    """One rule: a notebook with its parameters, and the files on both sides of it. Paths are relative to the root."""

    name: str
    run_folder: str
    parameters: dict[str, Any]
    inputs: list[str]
    code: list[str]
    outputs: list[str]
    folders: list[str]
    copy: str

    gpus: int = 0
    """GPUs that it uses, where there are any."""

    shards: int = 1
    """Parts that its rows are computed in beforehand (:mod:`csp_utils.pipeline.shards`)."""

    branch: str = ""
    """Branch and seed (:mod:`csp_utils.pipeline.branches`); "" for the main run."""

    @property
    def rule(self) -> str:
        """Name of the rule; Snakemake allows no digit at its start, and nothing but letters, digits and _ in it."""
        return f"notebook_{self.name}" + (f"_{re.sub(r'[^A-Za-z0-9]', '_', self.branch)}" if self.branch else "")

    @property
    def parts(self) -> list[str]:
        """Folders of its parts."""
        paths = RunPaths(Path(self.run_folder).name, Path(self.run_folder).parent)
        shards = [Shard(i, self.shards) for i in range(self.shards)]
        return [str(place(paths, self.name, shard)) for shard in shards] if self.shards > 1 else []

    @property
    def any_part(self) -> str:
        """Folder of a part, as a pattern of Snakemake's."""
        return re.sub(r"\d+(of\d+)$", r"{part}\1", self.parts[0])

    @property
    def title(self) -> str:
        """What the reader is told."""
        return f"{self.branch} {self.name}".strip()


def steps(path: Path | str) -> list[Step]:
    """The rules of a params file, in the order in which they run. Raises UserError if the file is not valid."""
    found: list[Step] = []
    used = cache(modules)  # of this call: branches run the same notebooks
    first, *branches = params_file.load(path)
    main = next(iter(first.values())).run
    last = {name: first.pop(name) for name in ("11_claims",) if name in first}  # compares all runs, so it is the last
    for parameters in (first, *branches, last):
        found += _steps_of(parameters, main, [output for step in found for output in step.outputs], path, used)
    return found


def _steps_of(parameters: params_file.Parameters, main: str, made: list[str], path: Path | str,
              used: Callable[[Path], list[Path]]) -> list[Step]:
    """The rules of one run; ``made`` are the files that earlier runs make, ``used`` tells a notebook's modules."""
    found: list[Step] = []
    for name, p in parameters.items():
        paths = RunPaths(p.run)
        earlier = [output for step in found for output in step.outputs]
        inputs = [file for need in needs(name, p, paths) for file in _files(need, [*made, *earlier])]
        if name == "09_report":  # shows everything of its run, so it follows everything
            inputs += [output for output in earlier if output not in inputs]
        if name == "11_claims":  # shows their stress tests too, where they have one
            folders = [RunPaths(run) for run in (p.run, *p.runs)]
            inputs += [str(folder.stress) for folder in folders if str(folder.stress) in made]
        notebook = Path("notebooks") / f"{name}.ipynb"
        if not notebook.is_file():
            raise UserError(f"{notebook} is missing, but {path} runs it; restore it (git checkout {notebook}).")
        found.append(Step(
            name=name, run_folder=str(paths.root), parameters=p.model_dump(), inputs=inputs,
            code=[str(notebook), *map(str, used(notebook))],
            outputs=[str(getattr(paths, attribute)) for attribute in MAKES[name]],
            folders=[str(getattr(paths, attribute)) for attribute in MAKES[name] if attribute in FOLDERS],
            copy=str(paths.notebooks / notebook.name), gpus=gpus.wanted(p), shards=getattr(p, "shards", 1),
            branch=p.run.removeprefix(main).removeprefix("."),
        ))
    return found


def _files(need: Path, earlier: list[str]) -> list[str]:
    """What Snakemake watches for ``need``: itself if a rule makes it, else the files of a folder."""
    if str(need) in earlier or need.is_file():
        return [str(need)]
    # A folder of images counts by the files beside it (questions, configuration), which name all that is read of it.
    return [str(file) for file in sorted(need.glob("*")) if file.is_file()]


def threads(plan: list[Step], cores: int, step: Step) -> int:
    """Threads of a notebook or a part. On GPUs, the share of the cores that belongs to its GPUs, so that all GPUs have
    work. Without, all for a single run, whose notebooks follow one another; one where runs stand side by side, because
    small models gain more from that than from a second thread."""
    there = gpu_count()
    if there is None:
        return CLUSTER_THREADS * max(1, gpu(step))
    if there:
        return max(1, cores * max(1, gpu(step)) // there)
    return cores if len({step.run_folder for step in plan}) == 1 else 1


def gpu_count() -> int | None:
    """GPUs that can be used here; None if jobs run elsewhere (CSP_GPUS, set by :func:`snakemake`)."""
    told = os.environ.get("CSP_GPUS")
    return None if told == ELSEWHERE else int(told) if told is not None else len(gpus.visible())


def gpu(step: Step) -> int:
    """How many GPUs Snakemake counts for a notebook: none where there are none, unless it insists on one."""
    return 0 if gpu_count() == 0 and not step.parameters.get("device", "").startswith("cuda") else step.gpus
