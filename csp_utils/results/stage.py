"""Define a stage: everything that the project knows about one notebook, declared in one place.

Each module of ``csp_utils/stages`` declares one ``STAGE``. The other parts of the project (the check of a params file,
the Snakefile, --plan, the error about a missing file, Colab's preparation) loop over :data:`stages`.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from csp_utils.base import run
from csp_utils.base.params import Params
from csp_utils.base.progress import Progress, silent
from csp_utils.base.run import RunPaths
from csp_utils.results.cost import Cost, Known
from csp_utils.results.origin import Origin

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

P = TypeVar("P", bound=Params)
T = TypeVar("T")
Inputs = dict[str, str | Path]
"""Role -> path of a file or folder, or the id of a model on the hub (str)."""


class Shard(NamedTuple):
    """Shard ``index`` (from 0) of ``of``."""

    index: int = 0
    of: int = 1

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this shard's items, every ``of``-th one; together the shards have all items."""
        return list(items[self.index :: self.of])

    def block(self, items: Sequence[T]) -> list[T]:
        """Return this shard's items, which follow each other, so that a shard reads its own part of a file."""
        n = len(items)
        return list(items[n * self.index // self.of : n * (self.index + 1) // self.of])

    @property
    def name(self) -> str:
        """Name in messages and of folders: 3of7."""
        return f"{self.index + 1}of{self.of}"


WHOLE = Shard()
ComputeShard = Callable[[Shard, Path], "pd.DataFrame"]
"""Compute the rows of a shard. The index is their position in the whole table; their files go into the folder."""


@dataclass(frozen=True)
class Job(Generic[P]):
    """The arguments of a stage's ``compute``.

    Attributes:
        p: parameters.
        paths: paths of the run, from which inputs are read.
        origin: what the results are made from.
        out: empty folder. Its files and folders named in the stage's ``makes`` are published, all of them or none.
        progress: wraps long loops.
        say: prints a line for the user.
    """

    stage: "Stage[P]"
    p: P
    paths: RunPaths
    out: Path
    origin: Origin
    progress: Progress = silent
    say: Callable[[str], object] = print


def page_files(template: str) -> tuple[Path, ...]:
    """Return what a page is made of, for a stage's ``files``: the page's own template and those of all pages."""
    names = (template, "page.j2", "page.css", "table.j2", "image.j2")
    return tuple(run.PROJECT / "csp_utils/show/templates" / name for name in names)


def _no_inputs(p: Any, paths: RunPaths) -> Inputs:
    return {}


def _tables_only(p: Any, paths: RunPaths, known: Known) -> Cost:
    return Cost("tables and figures")


@dataclass(frozen=True)
class Stage(Generic[P]):
    """One notebook and its computation.

    Attributes:
        name: name of the notebook, such as "02_mask".
        params: class of its parameters.
        compute: computes the results into ``job.out``; imports heavy libraries only when it is called.
        makes: names of its results in the run's folder, files and folders.
        reads: required inputs by role. A parameter of the same name counts by its content, not by its value.
        looks_at: optional inputs, used if they exist.
        also_makes: results outside the run's folder, which ``compute`` writes itself.
        open_shard: loads data and models, and returns the function that computes a shard; None: no shards.
        schema: pyarrow schema of the rows of a shard.
        keeps: folder in the run's folder in which the rows of all shards are kept after the stage has ended, so that
            ``compute`` can decide about them again in seconds; "": they are not kept.
        decides: the parameters by which ``compute`` decides about kept rows; the rows do not depend on them.
        gpu: True if it uses a GPU on a machine that has one.
        cost: its cost, for --plan; adds the number of its result rows to ``known``.
        libraries: distributions that take part without an import.
        files: files that are loaded by path: plugins, templates.
        scraps: files that it keeps in case a computation fails; deleted when the results are published.
        follows: what it waits for: the makers of its inputs, all of its run, or all runs of the params file.
        notebook: path of the notebook.
    """

    name: str
    params: type[P]
    compute: Callable[[Job[P]], None]
    makes: tuple[str, ...] = ()
    reads: Callable[[P, RunPaths], Inputs] = _no_inputs
    looks_at: Callable[[P, RunPaths], Inputs] = _no_inputs
    also_makes: Callable[[P, RunPaths], list[Path]] = lambda p, paths: []  # noqa: E731
    open_shard: Callable[[Job[P]], ComputeShard] | None = None
    schema: Callable[[], "pa.Schema"] | None = None
    keeps: str = ""
    decides: tuple[str, ...] = ()
    gpu: bool = False
    cost: Callable[[P, RunPaths, Known], Cost] = _tables_only
    libraries: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    scraps: Callable[[P, RunPaths], list[Path]] = lambda p, paths: []  # noqa: E731
    follows: Literal["inputs", "run", "all"] = "inputs"
    folder: Path = field(default=Path("notebooks"))

    @property
    def notebook(self) -> Path:
        """The notebook's file, relative to the project's root."""
        return self.folder / f"{self.name}.ipynb"

    @cached_property
    def functions(self) -> list[str]:
        """The functions that compute its results, in the form of :func:`csp_utils.results.code.code_of`."""
        found = [self.compute] + ([self.open_shard] if self.open_shard else [])
        return [f"{_module_of(function)}:{function.__name__}" for function in found]

    def gpus(self, p: P) -> int:
        """Return the number of GPUs that it uses if there are GPUs: one per training process, else one; 0 on a CPU."""
        return getattr(p, "processes", 1) if self.gpu and getattr(p, "device", "auto") != "cpu" else 0


def _module_of(function: Callable) -> str:
    """Return the dotted name of a function's module, or the file if the module was loaded by its path."""
    module = function.__module__
    if module.startswith("csp_utils."):
        return module
    return str(importlib.import_module(module).__file__) if module != "__main__" else function.__code__.co_filename


stages: dict[str, Stage] = {}
"""All stages by name, in the order in which they run. ``csp_utils.stages`` fills this dictionary."""


def register(stage: Stage) -> None:
    """Add a stage at the end."""
    stages[stage.name] = stage
    for name in stage.makes:
        run.makers[name] = stage.name


def classes() -> Mapping[str, type[Params]]:
    """Return name of a notebook -> class of its parameters."""
    return {name: stage.params for name, stage in stages.items()}
