"""Where a run's numbers come from: the executed notebooks with their parameters, versions, commit, machine."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.params import Params, build
from csp_utils.base.run import RunPaths
from csp_utils.base.stage import stages

PACKAGES = (
    "torch", "transformers", "ms-swift", "trl", "peft", "datasets", "groundingdino-py", "segment-anything", "numpy",
    "scipy", "scikit-learn", "pandas", "snakemake", "papermill",
)  # fmt: skip
"""Those whose version can move a number."""


@dataclass(frozen=True)
class Executed:
    """A notebook that papermill ran to its end: its parameters, when it started (ISO 8601) and how long it took."""

    name: str
    path: Path
    parameters: dict[str, Any]
    start: str
    seconds: float | None


def executed(paths: RunPaths) -> dict[str, Executed]:
    """The executed notebooks of the run by name, in the order in which they run."""
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
    """The parameters that notebook ``name`` ran with (its model in :mod:`csp_utils.base.params`), or None if not known.

    Not known are those of a notebook that was run by hand, or with parameters that this version no longer has.
    """
    if name not in runs:
        return None
    try:
        return build(stages[name].params, runs[name].parameters, where=str(runs[name].path))
    except UserError:
        return None


def changed(p: Params) -> dict[str, Any]:
    """The parameters of a notebook that differ from its defaults."""
    defaults = {name: field.default for name, field in type(p).model_fields.items()}
    return {name: value for name, value in p.model_dump().items() if value != defaults[name] and name != "run"}


def versions() -> dict[str, str]:
    """Versions of :data:`PACKAGES` and of Python, as installed here."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """The commit of the project's checkout, and whether files differ from it; says so if this is no git checkout."""
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
    """One line: processor, cores that this process may use, memory, GPUs."""
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
