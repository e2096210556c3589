"""Build the pipeline's steps: one for each notebook of a params file, what it waits for, and why it has to run.

The steps are written to a plan file, ``outputs/<run>/.plan.json``. The Snakefile and the jobs read them from there, so
that all of them use the same plan.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_json
from csp_utils.base.params import Params
from csp_utils.base.run import RunPaths
from csp_utils.pipeline import gpus, params_file
from csp_utils.results.code import code_of
from csp_utils.results.produce import why_not_current
from csp_utils.results.shards import shard_folder
from csp_utils.results.stage import Shard, Stage
from csp_utils.stages import stages

ELSEWHERE = "elsewhere"
"""Value of CSP_GPUS if the notebooks run as jobs of a cluster."""

CLUSTER_THREADS = 8
"""Cores of a cluster job for each of its GPUs; also those of a job without a GPU."""


@dataclass(frozen=True)
class Step:
    """One rule of Snakemake: a notebook with its parameters. Paths are relative to the project's root.

    Attributes:
        name: name of the notebook.
        notebook: path of the notebook.
        run: name of its run.
        parameters: all its parameters.
        after: executed notebooks that it waits for.
        fingerprint: digest of its cells, its parameters and the code that its cells call, figures included.
        gpus: number of GPUs that it uses on a machine with GPUs.
        shards: number of shards that are computed before it.
        branch: branch and seed (:mod:`csp_utils.pipeline.branches`); "" for the main run.
    """

    name: str
    notebook: str
    run: str
    parameters: dict[str, Any]
    after: list[str] = field(default_factory=list)
    fingerprint: str = ""
    gpus: int = 0
    shards: int = 1
    branch: str = ""

    @property
    def paths(self) -> RunPaths:
        """The paths of its run."""
        return RunPaths(self.run)

    @property
    def stage(self) -> Stage:
        """Its declaration."""
        return stages[self.name]

    @property
    def p(self) -> Params:
        """Its checked parameters."""
        return self.stage.params.model_validate(self.parameters)

    @property
    def copy(self) -> str:
        """The executed notebook, Snakemake's output of the rule. Results are not outputs: Snakemake deletes outputs."""
        return str(self.paths.notebooks / f"{self.name}.ipynb")

    @property
    def record(self) -> Path:
        """The file that stores the fingerprint of the executed notebook."""
        return self.paths["origins"] / f"{self.name}.notebook.json"

    @property
    def outputs(self) -> list[str]:
        """The paths of its results."""
        return [str(path) for path in params_file.results(self.name, self.p)]

    @property
    def rule(self) -> str:
        """Name of the rule. Snakemake allows only letters, digits and _ in it, and no digit at its start."""
        return f"notebook_{self.name}" + (f"_{re.sub(r'[^A-Za-z0-9]', '_', self.branch)}" if self.branch else "")

    @property
    def shard_marks(self) -> list[str]:
        """Files whose existence means that a shard is computed; [] for a step without shards."""
        shards = [Shard(i, self.shards) for i in range(self.shards)] if self.shards > 1 else []
        return [f"{shard_folder(self.paths, self.name, shard)}.done" for shard in shards]

    @property
    def any_shard_mark(self) -> str:
        """The same files as one pattern with Snakemake's wildcard ``{shard}``."""
        return re.sub(r"\d+(of\d+\.done)$", r"{shard}\1", self.shard_marks[0])

    @property
    def title(self) -> str:
        """Branch and name, for messages."""
        return f"{self.branch} {self.name}".strip()


def steps(path: Path | str) -> list[Step]:
    """Return the steps of a params file in the order in which they run.

    Raises UserError if the file is not valid.
    """
    first, *branches = params_file.load(path)
    main = next(iter(first.values())).run
    last = {name: first.pop(name) for name in list(first) if stages[name].follows == "all"}
    found: list[Step] = []
    fingerprint = cache(_code_of_notebook)  # branches run the same notebooks
    for parameters in (first, *branches, last):
        for name, p in parameters.items():
            stage = stages[name]
            if not stage.notebook.is_file():
                raise UserError(f"{stage.notebook} is missing, but {path} runs it; restore it (git checkout "
                                f"{stage.notebook}).")  # fmt: skip
            values = p.model_dump(mode="json")
            text = json.dumps([fingerprint(stage.notebook), values], sort_keys=True)
            found.append(Step(
                name, str(stage.notebook), p.run, values, _after(stage, p, found),
                hashlib.sha256(text.encode()).hexdigest()[:16], stage.gpus(p), getattr(p, "shards", 1),
                p.run.removeprefix(main).removeprefix("."),
            ))  # fmt: skip
    return found


def _code_of_notebook(notebook: Path) -> list[Any]:
    """Return the parts of a notebook's fingerprint: its cells without outputs, and digests of the code they call."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        sources = [[cell["cell_type"], "".join(cell["source"])] for cell in cells]
        return [sources, code_of((), [notebook]).modules]
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError) as error:
        raise UserError(f"{notebook} is no notebook that can be run ({type(error).__name__}: {str(error)[:100]}); "
                        f"restore it (git checkout {notebook}).") from error  # fmt: skip


def _after(stage: Stage, p: Params, before: Sequence[Step]) -> list[str]:
    """Return the executed notebooks that a step waits for: the makers of its inputs, all of its run, or all runs."""
    if stage.follows != "inputs":
        return [step.copy for step in before if stage.follows == "all" or step.run == p.run]
    paths = RunPaths(p.run)
    inputs = [Path(source) for source in (stage.reads(p, paths) | stage.looks_at(p, paths)).values()]
    return [step.copy for step in before
            if any(Path(made) == one or Path(made) in one.parents or one in Path(made).parents
                   for made in step.outputs for one in inputs)]  # fmt: skip


def needed(plan: Sequence[Step], copies: Iterable[str]) -> set[str]:
    """Return these executed notebooks and all notebooks that they wait for, directly or not."""
    after, found, waiting = {step.copy: step.after for step in plan}, set(), list(copies)
    while waiting:
        if (copy := waiting.pop()) not in found:
            found.add(copy)
            waiting += after[copy]
    return found


def why_stale(plan: Sequence[Step]) -> dict[str, list[str]]:
    """Return rule -> reasons for every step that has to run, in the order of the plan.

    A step also runs after every step that it waits for; Snakemake takes care of that.
    """
    found: dict[str, list[str]] = {}
    for step in plan:
        copy = Path(step.copy)
        recorded = _fingerprint(step.record)
        if not copy.is_file():
            found[step.rule] = ["it has not run"]
        elif reasons := why_not_current(step.stage, step.p, step.paths):
            found[step.rule] = reasons
        elif recorded != step.fingerprint:
            found[step.rule] = ["its cells, its parameters or the code of its figures changed"]
        elif newer := [Path(one).stem for one in step.after if written(one) > written(copy)]:
            found[step.rule] = [f"{', '.join(newer)} ran after it"]
    return found


def only_wanted(plan: Sequence[Step], stale: dict[str, list[str]], named: Iterable[str]) -> dict[str, list[str]]:
    """Return the stale steps that the targets among ``named`` need; all stale steps if there is no target.

    This is needed because Snakemake makes a target of every rule of --forcerun.
    """
    targets = [step.copy for step in plan if {step.copy, step.rule} & set(named)]
    wanted = needed(plan, targets or [step.copy for step in plan])
    return {step.rule: stale[step.rule] for step in plan if step.rule in stale and step.copy in wanted}


def _fingerprint(record: Path) -> str | None:
    try:
        return json.loads(record.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def written(file: Path | str) -> int:
    """Return when a file was last written, in nanoseconds; 0 if it does not exist."""
    return Path(file).stat().st_mtime_ns if Path(file).exists() else 0


# ------------------------------------------------------------------------------------------------------ the plan file


def plan_file(plan: Sequence[Step]) -> Path:
    """Return the path of the plan file, in the folder of the main run."""
    return plan[0].paths[".plan.json"]


def write_plan(plan: Sequence[Step]) -> Path:
    """Write the plan file and return its path."""
    write_json([asdict(step) for step in plan], plan_file(plan))
    return plan_file(plan)


def read_plan(path: Path | str) -> list[Step]:
    """Return the steps of a plan file."""
    return [Step(**step) for step in json.loads(Path(path).read_text(encoding="utf-8"))]


def for_snakemake(config: Mapping[str, Any]) -> tuple[str, list[Step]]:
    """Return the plan file and its steps for the Snakefile.

    The key ``plan`` of the configuration names the file that ./run_all.sh wrote; without it the plan is made from
    ``params``.
    """
    if "plan" in config:
        return config["plan"], read_plan(config["plan"])
    plan = steps(config.get("params", "params/tiny.yaml"))
    return str(write_plan(plan)), plan


# --------------------------------------------------------------------------------------------------- cores and GPUs


def threads(plan: Sequence[Step], cores: int, step: Step) -> int:
    """Return the number of threads of a notebook or a shard.

    With GPUs it is the cores divided by the GPUs, times the GPUs of the step, so that all GPUs have work. Without GPUs
    it is one core if several runs are computed at the same time: small models gain more from that than from a second
    thread. In a single run it is all cores for a notebook that runs alone, half of them for one that does not have to
    wait for another (06 and 08), and an equal part for each shard.
    """
    there = gpu_count()
    if there is None:
        return CLUSTER_THREADS * max(1, gpu(step))
    if there:
        return max(1, cores * max(1, gpu(step)) // there)
    if len({step.run for step in plan}) > 1:
        return 1
    before = {other.copy: _before(plan, other) for other in plan}
    free = any(other.copy not in before[step.copy] | {step.copy} and step.copy not in before[other.copy]
               for other in plan)  # fmt: skip
    return max(1, cores // max(step.shards, 2 if free else 1))


def _before(plan: Sequence[Step], step: Step) -> set[str]:
    """Return the executed notebooks that a step waits for, and those that these wait for."""
    after = {other.copy: other.after for other in plan}
    found: set[str] = set()
    new = {*step.after}
    while new:
        found |= new
        new = {copy for made in new for copy in after.get(made, [])} - found
    return found


def gpu_count() -> int | None:
    """Return the number of GPUs that can be used here; None if jobs run elsewhere (CSP_GPUS, set by the pipeline)."""
    given = os.environ.get("CSP_GPUS")
    return None if given == ELSEWHERE else int(given) if given is not None else len(gpus.visible())


def gpu(step: Step) -> int:
    """Return how many GPUs Snakemake reserves for a notebook: 0 without GPUs, unless ``device`` names one."""
    return 0 if gpu_count() == 0 and not step.parameters.get("device", "").startswith("cuda") else step.gpus
