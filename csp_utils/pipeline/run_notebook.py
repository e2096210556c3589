"""Runs one notebook with papermill; the Snakefile calls this for every rule.

    python -m csp_utils.pipeline.run_notebook notebooks/01_extract.ipynb outputs/tiny '{"run": "tiny", ...}' 1

The last number is how many GPUs it takes (:mod:`csp_utils.pipeline.gpus`).

While it runs, the copy lies in ``outputs/<run>/notebooks/failed/``; it moves to ``outputs/<run>/notebooks/`` when every
cell has run. A failure, or Ctrl-C, ends the kernel and all that it has started, and says where the copy lies.
"""

import errno
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.process import kill_after
from csp_utils.base.run import MAKES, RunPaths
from csp_utils.pipeline import gpus

# jsonschema, which every notebook tool imports, compiles a grammar of web addresses (4 s of CPU) if this package is
# installed. Notebooks need no such check, and jsonschema does without it.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

HEARTBEAT = 30.0  # seconds between two lines about a running notebook, where the output is no terminal

START_SECONDS = (60, 300)
"""How long the first kernel may take to answer, and the second. Rarely, among many that start beside one another, one
never does (one of some hundreds in the tests); on a slow disk all may need minutes."""
KERNEL_OPTIONS = [
    "--IPKernelApp.log_level=40",  # errors only: it warns of TCP at every start
    "--HistoryManager.enabled=False",  # a database in the home folder, for which all kernels of a user would queue
]


def clock(seconds: float) -> str:
    """Minutes and seconds: 83 -> "1:23"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Run:
    """One execution of one notebook, in a thread of its own: the main thread reports and receives Ctrl-C."""

    def __init__(self, notebook: Path, run_folder: Path, parameters: dict[str, Any], title: str) -> None:
        self.name = notebook.stem
        self.notebook = notebook
        self.done = run_folder / "notebooks" / notebook.name
        self.half = run_folder / "notebooks" / "failed" / notebook.name
        self.parameters = parameters
        self.title = title
        self.cell, self.cells, self.heading = 0, 0, ""
        self.error: BaseException | None = None
        self.start = time.monotonic()

    def execute(self) -> None:
        """Runs all cells; keeps the exception, if there is one, in ``error``."""
        try:
            import papermill
            from papermill.engines import NBClientEngine, papermill_engines

            run = self

            class Watched(NBClientEngine):
                @classmethod
                def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
                    started = nb_man.cell_start
                    run.cells = len(nb_man.nb.cells)

                    def cell_start(cell: Any, cell_index: int | None = None, **more: Any) -> None:
                        run.cell = (cell_index or 0) + 1
                        if cell.cell_type == "markdown":
                            run.heading = heading(cell.source) or run.heading
                        started(cell, cell_index, **more)

                    nb_man.cell_start = cell_start
                    super().execute_managed_notebook(nb_man, kernel_name, **options)

            papermill_engines.register("watched", Watched)
            self.half.parent.mkdir(parents=True, exist_ok=True)
            for seconds in START_SECONDS:
                try:
                    papermill.execute_notebook(
                        self.notebook, self.half, parameters=self.parameters, engine_name="watched",
                        kernel_name="python3", progress_bar=False, cwd=".", start_timeout=seconds,
                        extra_arguments=KERNEL_OPTIONS,
                    )
                    break
                except RuntimeError as error:
                    if self.cell or seconds == START_SECONDS[-1] or "Kernel didn't respond" not in str(error):
                        raise
                    self.report(f"its kernel did not answer in {seconds} seconds; another one is started")
        except BaseException as error:
            self.error = error

    def report(self, ending: str = "") -> None:
        """Says where the run is: a line that is redrawn in a terminal, a line of its own elsewhere."""
        elapsed = clock(time.monotonic() - self.start)
        where = ending or (f"cell {self.cell} of {self.cells}: {self.heading}" if self.cells else "starting")
        line = f"{self.title}  {elapsed}  {where}"
        if sys.stdout.isatty():
            width = os.get_terminal_size().columns - 1
            print(f"\r{line[:width]:<{width}}", end="\n" if ending else "", flush=True)
        else:
            print(line, flush=True)

    def unmade(self) -> UserError | None:
        """An error if the notebook ran to its end and did not make what it should."""
        paths = RunPaths(self.half.parents[2].name, self.half.parents[3])
        for attribute in MAKES.get(self.name, ()):
            if not getattr(paths, attribute).exists():
                return UserError(f"It ran to its end, but {getattr(paths, attribute)} is not there; a cell is missing.")
        return None

    def finish(self) -> int:
        """Files the copy and says how it went; returns the exit status."""
        if self.error is None:
            self.error = self.unmade()
        if self.error is None:
            os.replace(self.half, self.done)
            if not any(self.half.parent.iterdir()):
                self.half.parent.rmdir()
            self.report("done")
            return 0
        self.report("FAILED")
        print(failure(self), flush=True)
        return 1


def heading(source: str) -> str:
    """Text of the last heading in a markdown cell; "" if it has none."""
    found = re.findall(r"^#{1,6}\s+(.+?)\s*$", source, flags=re.MULTILINE)
    return found[-1] if found else ""


def failure(run: Run) -> str:
    """What the user reads when a notebook fails: where, why (the last lines), and where the half-run copy lies."""
    error = run.error
    where = f"cell {run.cell} of {run.cells}" + (f', under "{run.heading}"' if run.heading else "")
    kind, text = getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error))
    if kind == "UserError":
        reason = text
    elif getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        reason = f"The disk is full ({error}); free some space and run the same command again."
    elif kind == "DeadKernelError":
        reason = "The notebook's kernel died; most often the machine ran out of memory."
    else:
        trace = "\n".join(getattr(error, "traceback", []) or [])
        lines = re.sub(r"\x1b\[[0-9;]*m", "", trace).splitlines()[-8:] if trace else [f"{kind}: {text}"]
        reason = "\n".join(lines)
    copy = f"The half-run copy is {run.half}" if run.half.exists() else "No copy was written"
    end = f"{copy}; the same command goes on from this notebook."
    return f"\nNotebook {run.name} failed in {where}:\n\n{reason}\n\n{end}\n"


def interrupt_kernel() -> None:
    """What the stop button does: the running cell gets a KeyboardInterrupt."""
    import psutil

    for child in psutil.Process().children():
        try:
            child.send_signal(signal.SIGINT)
        except psutil.NoSuchProcess:
            pass


def end_children() -> None:
    """Ends every process that this one has started, the kernel and its training among them."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        try:
            child.terminate()
        except psutil.NoSuchProcess:
            pass
    kill_after(children, 3)


def title_of(copy: str, name: str) -> str:
    """What the reader is told of the notebook whose copy lies there: its number among those of this call, its name."""
    titles = json.loads(os.environ.get("CSP_NOTEBOOKS", "{}"))  # by their copies
    return f"[{list(titles).index(copy) + 1}/{len(titles)}] {titles[copy]}" if copy in titles else name


def main(arguments: list[str]) -> int:
    """Runs the notebook that the command line names; returns the exit status."""
    notebook, run_folder, parameters = Path(arguments[0]), Path(arguments[1]), json.loads(arguments[2])
    gpu = int(arguments[3]) if len(arguments) > 3 else None
    title = title_of(str(run_folder / "notebooks" / notebook.name), notebook.stem)
    # Notebooks draw a grid instead of a slider, and the kernel is this environment's own whatever else is installed.
    os.environ.update(CSP_HEADLESS="1", JUPYTER_PREFER_ENV_PATH="1", PYDEVD_DISABLE_FILE_VALIDATION="1")

    def interrupt(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough: a second must not interrupt the clearing up
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    run = Run(notebook, run_folder, parameters, title)
    worker = threading.Thread(target=run.execute, daemon=True)
    taken = ExitStack()
    try:
        run.report()
        taken.enter_context(gpus.held(gpu, parameters.get("device", "auto")))
        worker.start()
        said = time.monotonic()
        while worker.is_alive():
            worker.join(timeout=0.5)
            if sys.stdout.isatty() or time.monotonic() - said >= HEARTBEAT:
                run.report()
                said = time.monotonic()
        return run.finish()
    except UserError as error:
        run.error = error
        return run.finish()
    except KeyboardInterrupt:
        logging.disable(logging.CRITICAL)  # nbclient would report that its kernel died
        run.report("stopped")
        interrupt_kernel()
        worker.join(timeout=20)  # the cell clears up after itself and ends its subprocess; then the kernel ends
        end_children()
        worker.join(timeout=5)
        run.half.unlink(missing_ok=True)
        os._exit(130)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
