"""Where the results of a run are, and the sentence about one that is missing."""

import re
from pathlib import Path

from csp_utils.base.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
"""The folder that holds ``csp_utils``, wherever the program was started."""

makers: dict[str, str] = {}
"""Which notebook makes which result: name in the run's folder -> name of the notebook.

``csp_utils.stages`` fills it.
"""


class RunPaths:
    """The folder of one run, ``outputs/<run>``, and the files in it.

    ``paths["masks.parquet"]`` is the path of a result, relative to the project's root. Every stage says in its own
    declaration which names it makes (:class:`csp_utils.results.stage.Stage`).

    Args:
        run: name of the run.
        outputs: folder of all runs; tests give a temporary one.
    """

    def __init__(self, run: str, outputs: Path | str = "outputs") -> None:
        self.run = run
        self.root = Path(outputs) / run
        self.figures = self.root / "figures"
        self.notebooks = self.root / "notebooks"

    def __getitem__(self, name: str) -> Path:
        return self.root / name

    def __repr__(self) -> str:
        return f"RunPaths({str(self.root)!r})"


def _result(path: Path | str) -> tuple[str, str] | None:
    """Return (run, notebook that makes it) of a result or of a file in one; None for any other path."""
    parts = Path(path).parts
    for end in range(len(parts), 1, -1):  # first the whole path, then the folders that it is in
        for start in range(1, end):  # the run's folder may be at any depth
            if maker := makers.get("/".join(parts[start:end])):
                return parts[start - 1], maker
    return None


def maker_of(path: Path | str) -> str | None:
    """Return the name of the notebook that makes ``outputs/<run>/...``, or None if no notebook makes it."""
    found = _result(path)
    return found and found[1]


def params_file_of(run: str, folder: Path | str = "params") -> Path | None:
    """Return the first params file, by name, whose ``run`` is ``run`` or the beginning of it up to a point."""
    for file in sorted(Path(folder).rglob("*.y*ml")):
        found = re.search(r"^run:[ \t]*[\"']?([\w.-]+)", file.read_text(encoding="utf-8", errors="replace"), re.M)
        if found and (run == found[1] or run.startswith(found[1] + ".")):
            return file
    return None


def missing(path: Path | str) -> UserError:
    """Return the error about a file that is not there: its name, and how to make it."""
    found = _result(path)
    if found is None:
        return UserError(f"{path} is missing; check the path, or make the file first.")
    run, maker = found
    file = params_file_of(run)
    whole = f", or ./run_all.sh {file}" if file else f", or ./run_all.sh with a params file whose run is {run}"
    return UserError(f"{path} is missing; run notebook {maker} with run = {run!r}{whole}.")


def project_root(start: Path | str = ".") -> Path:
    """Return the folder that holds ``csp_utils``, at or above ``start``. Raises UserError if there is none."""
    start = Path(start).resolve()
    for folder in (start, *start.parents):
        if (folder / "csp_utils").is_dir():
            return folder
    raise UserError(f"{start} is not inside the project (no folder csp_utils at or above it); open the notebook there.")
