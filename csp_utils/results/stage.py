"""What a stage is: all that the project knows about one notebook, declared in one place.

The stages themselves are the modules of ``csp_utils/stages``, each with one ``STAGE``. Everything else (the check of a
params file, the Snakefile, --plan, the sentence about a missing file, Colab's preparation) loops over :data:`stages`.
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
"""Role -> file or folder, or the id of a model on the hub (str)."""


class Shard(NamedTuple):
    """Shard ``index`` (from 0) of ``of``."""

    index: int = 0
    of: int = 1

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this shard's share of the items; the shares of all shards are all items."""
        return list(items[self.index :: self.of])

    @property
    def name(self) -> str:
        """Name for people and folders: 3of7."""
        return f"{self.index + 1}of{self.of}"


WHOLE = Shard()
ComputeShard = Callable[[Shard, Path], "pd.DataFrame"]
"""Computes the rows of a shard. The index is their position in the whole table; files go into the folder."""


@dataclass(frozen=True)
class Job(Generic[P]):
    """What a stage computes with.

    Attributes:
        p: parameters.
        paths: of the run; inputs are read there.
        origin: what the results are made from.
        out: empty folder. What the stage leaves in it under the names of its ``makes`` is published, all or nothing.
        progress: wraps long loops.
        say: prints a line for the reader.
    """

    stage: "Stage[P]"
    p: P
    paths: RunPaths
    out: Path
    origin: Origin
    progress: Progress = silent
    say: Callable[[str], object] = print


def _no_inputs(p: Any, paths: RunPaths) -> Inputs:
    return {}


def _tables_only(p: Any, paths: RunPaths, known: Known) -> Cost:
    return Cost("tables and figures")


@dataclass(frozen=True)
class Stage(Generic[P]):
    """One notebook and what it computes.

    Attributes:
        name: name of the notebook, such as "02_mask".
        params: class of its parameters.
        compute: computes the results into ``job.out``; imports what is heavy when it is called.
        makes: names of its results in the run's folder, files and folders.
        reads: what it needs, by role. A parameter of the same name counts by the content, not by its value.
        looks_at: what it uses where it is there.
        also_makes: results outside the run's folder, which ``compute`` writes itself.
        open_shard: loads data and models and returns what computes a shard; None: not computed in shards.
        schema: pyarrow schema of the rows that a shard computes.
        gpu: whether it uses a GPU where there is one.
        cost: what it takes, for --plan; notes in ``known`` how many rows it leaves.
        libraries: distributions that compute without being imported.
        files: files that are loaded by path: plugins, templates.
        scraps: what it keeps in case a computation fails; removed when the results are published.
        follows: what it waits for: the makers of its inputs, all of its run, or all runs of the params file.
        notebook: the file.
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
        """The functions that compute its results, as :func:`csp_utils.results.code.code_of` takes them."""
        found = [self.compute] + ([self.open_shard] if self.open_shard else [])
        return [f"{_module_of(function)}:{function.__name__}" for function in found]

    def gpus(self, p: P) -> int:
        """Return how many GPUs it uses where there are any: one for each training process, else one; 0 on a CPU."""
        return getattr(p, "processes", 1) if self.gpu and getattr(p, "device", "auto") != "cpu" else 0


def _module_of(function: Callable) -> str:
    """Return the dotted name of a function's module, or the file of one that was loaded by its path."""
    module = function.__module__
    if module.startswith("csp_utils."):
        return module
    return str(importlib.import_module(module).__file__) if module != "__main__" else function.__code__.co_filename


stages: dict[str, Stage] = {}
"""All stages by name, in the order in which they run. ``csp_utils.stages`` fills it."""


def register(stage: Stage) -> None:
    """Add a stage after those that are there."""
    stages[stage.name] = stage
    for name in stage.makes:
        run.makers[name] = stage.name


def classes() -> Mapping[str, type[Params]]:
    """Return the class of every notebook's parameters."""
    return {name: stage.params for name, stage in stages.items()}
