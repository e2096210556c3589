"""What a run has saved for the report: its tables, and where they come from (notebooks, versions, commit, machine)."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_parquet
from csp_utils.base.params import PARAMETERS, Params, build, made_alike
from csp_utils.base.run import RunPaths
from csp_utils.base.wording import SPLITS, VARIANTS, in_order
from csp_utils.measures import metrics as evaluation
from csp_utils.results.stage import stages

PACKAGES = (
    "torch", "transformers", "ms-swift", "trl", "peft", "datasets", "groundingdino-py", "segment-anything", "numpy",
    "scipy", "scikit-learn", "pandas", "snakemake", "papermill",
)  # fmt: skip
"""The packages whose version can change a number."""


# -------------------------------------------------------------------------------------------------------- notebooks


@dataclass(frozen=True)
class Executed:
    """A notebook that papermill ran to its end: its parameters, when it started (ISO 8601) and how long it took."""

    name: str
    path: Path
    parameters: dict[str, Any]
    start: str
    seconds: float | None


def executed_notebooks(paths: RunPaths) -> dict[str, Executed]:
    """Return the executed notebooks of the run by name, in the order in which they run."""
    found = {}
    for name in stages:
        path = paths.notebooks / f"{name}.ipynb"
        if not path.is_file():
            continue
        try:
            record = json.loads(path.read_text(encoding="utf-8"))["metadata"]["papermill"]
        except (json.JSONDecodeError, KeyError):
            continue  # not papermill's: somebody's own copy
        found[name] = Executed(name, path, record.get("parameters") or {}, str(record.get("start_time") or ""),
                               record.get("duration"))
    return found


def parameters(runs: dict[str, Executed], name: str) -> Any:
    """Return the parameters that notebook ``name`` ran with (its model in :mod:`csp_utils.base.params`).

    Returns None for a notebook that was run by hand, or with parameters that this version no longer has.
    """
    if name not in runs:
        return None
    try:
        return build(stages[name].params, runs[name].parameters, where=str(runs[name].path))
    except UserError:
        return None


def changed_parameters(p: Params) -> dict[str, Any]:
    """Return the parameters of a notebook that differ from its defaults."""
    defaults = {name: field.default for name, field in type(p).model_fields.items()}
    return {name: value for name, value in p.model_dump().items() if value != defaults[name] and name != "run"}


# ----------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Saved:
    """The tables of notebook 06, and the record of the notebooks that ran.

    Attributes:
        metrics, plain, differences: as :func:`csp_utils.measures.metrics.compute` returns them.
        protocol: how they were computed, as the tables themselves record it; ``protocol_known`` is False for tables
            without a record, for which notebook 06's defaults stand in.
        computed: plain and differences were not saved by notebook 06 but computed here, from its responses.
        resamples: number of resamples behind an interval and a p-value; None if that is not recorded.
        measures, measure_differences: as :func:`csp_utils.measures.metrics.compute_measures` returns them; None if
            not saved.
        risk_coverage: as :func:`csp_utils.measures.selective.risk_coverage_table` returns it; None if not saved.
    """

    p: Any
    paths: RunPaths
    runs: dict[str, Executed]
    metrics: pd.DataFrame
    responses: pd.DataFrame
    plain: pd.DataFrame
    differences: pd.DataFrame
    protocol: evaluation.Protocol
    protocol_known: bool
    computed: bool
    resamples: int | None = None
    measures: pd.DataFrame | None = None
    measure_differences: pd.DataFrame | None = None
    risk_coverage: pd.DataFrame | None = None

    @property
    def model(self) -> str:
        """The model that the report is about: the first one of the tables."""
        return str(self.metrics["model"].iloc[0])

    @property
    def splits(self) -> list[str]:
        """The splits that were evaluated, in the order of the paper."""
        return in_order(self.metrics["split"], SPLITS)

    @property
    def adversarial(self) -> str:
        """The split of the examples: POPE adversarial, or the first one if that was not evaluated."""
        return "pope_adversarial" if "pope_adversarial" in self.splits else self.splits[0]

    @property
    def trained(self) -> list[str]:
        """The evaluated variants that were trained, by name; [] for a run of the base model alone."""
        return [variant for variant in in_order(self.metrics["variant"], VARIANTS) if variant != "base"]

    def own(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of a table that are about :attr:`model`."""
        return table[table["model"] == self.model]


def load(p: Any, paths: RunPaths) -> Saved:
    """Read the tables of notebook 06; compute plain answers and differences if the notebook did not save them.

    Raises UserError if responses.parquet or metrics.parquet is missing, damaged or empty.
    """
    metrics, responses = read_parquet(paths["metrics.parquet"]), read_parquet(paths["responses.parquet"])
    for table, path in ((metrics, paths["metrics.parquet"]), (responses, paths["responses.parquet"])):
        if table.empty:
            raise UserError(f"{path} has no rows; run notebook 06_eval again.")
    made_alike({str(paths["metrics.parquet"]): metrics, str(paths["responses.parquet"]): responses},
               stages["06_eval"].params.model_fields)
    runs = executed_notebooks(paths)
    made = metrics.attrs.get(PARAMETERS)
    known, e = made is not None, stages["06_eval"].params(**(made or {}))
    protocol = evaluation.Protocol(e.ties, e.ece_edges, e.n_bins, e.positive, e.seed)
    plain, differences = read_optional(paths["metrics_plain.parquet"]), read_optional(paths["differences.parquet"])
    computed = plain is None or differences is None
    if computed:
        _, plain, differences = evaluation.compute(responses, protocol, e.n_bootstrap)
    if differences.empty:  # one variant only: keep the columns
        differences = pd.DataFrame(columns=evaluation.DIFFERENCE_COLUMNS)
    others = (read_optional(paths[f"{name}.parquet"]) for name in ("measures", "measure_differences", "risk_coverage"))
    return Saved(p, paths, runs, metrics, responses, plain, differences, protocol, known, computed,
                 e.n_bootstrap if known else None, *others)  # fmt: skip


def read_optional(path: Path) -> pd.DataFrame | None:
    """Read a table that a run may lack; return None if it does. Raises UserError if it is damaged."""
    return read_parquet(path) if path.is_file() else None


# ------------------------------------------------------------------------------------------------ versions, machine


def versions() -> dict[str, str]:
    """Return the versions of :data:`PACKAGES` and of Python, as installed here."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """Return the commit of the project's checkout, and whether files differ from it; or that it is no git checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return "unknown: not a git checkout"
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + (", with changed files" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown: not a git checkout"


def hardware() -> str:
    """Return one line: processor, cores that this process may use, memory, GPUs."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024**3
    return f"{processor}, {cores} {'core' if cores == 1 else 'cores'}, {memory:.0f} GiB of memory, {_gpus()}"


def _gpus() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "no GPU"
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError):
        return "no GPU"
    return "; ".join(listed) or "no GPU"
