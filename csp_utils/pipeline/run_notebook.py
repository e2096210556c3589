"""Run one notebook with papermill; the Snakefile calls this for every rule.

    python -m csp_utils.pipeline.run_notebook outputs/tiny/.plan.json notebook_01_extract 1

The last number is the number of GPUs that the notebook uses (:mod:`csp_utils.pipeline.gpus`).

The executed copy is in ``outputs/<run>/notebooks/failed/`` while the notebook runs, and moves to
``outputs/<run>/notebooks/`` when every cell has run. After a failure or Ctrl-C, the kernel and all its child processes
end, and the path of the copy is printed. The results of the stage stay in any case, and the same command resumes from
them.
"""

import logging
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError, disk_full
from csp_utils.base.files import write_json
from csp_utils.base.lock import locked
from csp_utils.base.process import kill_after
from csp_utils.pipeline import gpus
from csp_utils.pipeline.graph import Step, read_plan

# Every notebook tool imports jsonschema, which compiles a grammar of web addresses (4 s of CPU) if this package is
# installed. Notebooks do not need that check, and jsonschema works without the package.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

HEARTBEAT = 30.0  # seconds between two lines about a running notebook, where the output is no terminal

START_SECONDS = (60, 300)
"""Timeouts of the first and of the second attempt to start a kernel. Among many kernels that start at the same time, a
rare one never answers (one of some hundreds in the tests); on a slow disk, all may need minutes.
"""
KERNEL_OPTIONS = [
    "--IPKernelApp.log_level=40",  # errors only: the kernel warns about TCP at every start
    "--HistoryManager.enabled=False",  # all kernels of a user would wait for one database in the home folder
]


def clock(seconds: float) -> str:
    """Return minutes and seconds: 83 -> "1:23"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Run:
    """One execution of one notebook, in its own thread; the main thread reports progress and receives Ctrl-C."""

    def __init__(self, step: Step, title: str) -> None:
        self.step, self.title = step, title
        self.done = Path(step.copy)
        self.half = self.done.parent / "failed" / self.done.name
        self.cell, self.cells, self.heading = 0, 0, ""
        self.error: BaseException | None = None
        self.start = time.monotonic()

    def execute(self) -> None:
        """Run all cells; store an exception, if there is one, in ``error``."""
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
                        self.step.notebook, self.half, parameters=self.step.parameters, engine_name="watched",
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
        """Print the progress: a redrawn line in a terminal, a new line elsewhere."""
        elapsed = clock(time.monotonic() - self.start)
        where = ending or (f"cell {self.cell} of {self.cells}: {self.heading}" if self.cells else "starting")
        line = f"{self.title}  {elapsed}  {where}"
        if sys.stdout.isatty():
            width = max(20, shutil.get_terminal_size().columns - 1)  # some terminals report 0 columns
            print(f"\r{line[:width]:<{width}}", end="\n" if ending else "", flush=True)
        else:
            print(line, flush=True)

    def unmade(self) -> UserError | None:
        """Return an error if all cells ran but a result does not exist."""
        absent = [path for path in self.step.outputs if not Path(path).exists()]
        return UserError(f"It ran to its end, but {absent[0]} is not there; a cell is missing.") if absent else None

    def finish(self) -> int:
        """Move the copy to its place, print how the notebook ended, and return the exit status."""
        if self.error is None:
            self.error = self.unmade()
        if self.error is None:
            os.replace(self.half, self.done)
            write_json({"fingerprint": self.step.fingerprint}, self.step.record)
            if not any(self.half.parent.iterdir()):
                self.half.parent.rmdir()
            self.report("done")
            return 0
        self.report("FAILED")
        print(failure(self), flush=True)
        return 1


def heading(source: str) -> str:
    """Return the text of the last heading in a markdown cell; "" if it has none."""
    found = re.findall(r"^#{1,6}\s+(.+?)\s*$", source, flags=re.MULTILINE)
    return found[-1] if found else ""


def failure(run: Run) -> str:
    """Return the message about a failed notebook: the cell, the end of the error, and the path of the partial copy."""
    error = run.error
    where = f"cell {run.cell} of {run.cells}" + (f', under "{run.heading}"' if run.heading else "")
    kind, text = getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error))
    if kind == "UserError":
        reason = text
    elif sentence := disk_full(error):
        reason = str(sentence)
    elif kind == "DeadKernelError":
        reason = "The notebook's kernel died; most often the machine ran out of memory."
    else:
        trace = "\n".join(getattr(error, "traceback", []) or [])
        lines = re.sub(r"\x1b\[[0-9;]*m", "", trace).splitlines()[-8:] if trace else [f"{kind}: {text}"]
        reason = "\n".join(lines)
    copy = f"The half-run copy is {run.half}" if run.half.exists() else "No copy was written"
    end = f"{copy}; the same command goes on from this notebook."
    return f"\nNotebook {run.step.name} failed in {where}:\n\n{reason}\n\n{end}\n"


def interrupt_kernel() -> None:
    """Raise KeyboardInterrupt in the running cell, as the stop button does."""
    import psutil

    for child in psutil.Process().children():
        try:
            child.send_signal(signal.SIGINT)
        except psutil.NoSuchProcess:
            pass


def end_children() -> None:
    """End every child process of this one, including the kernel and its training."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        try:
            child.terminate()
        except psutil.NoSuchProcess:
            pass
    kill_after(children, 3)


def end_with_pipeline() -> None:
    """Watch the ./run_all.sh that started this process (CSP_PIPELINE), and interrupt this process when it has ended.

    A killed pipeline cannot end its child processes, and these would collide with those of the next call.
    """
    pipeline = os.environ.get("CSP_PIPELINE")
    if not pipeline:
        return
    pid, _, born = pipeline.partition(":")

    def watch() -> None:
        import psutil

        while True:
            try:
                pipeline = psutil.Process(int(pid))
                ended = pipeline.status() == psutil.STATUS_ZOMBIE  # its own parent may never ask how it ended
                if ended or f"{pipeline.create_time():.0f}" != born:
                    raise psutil.NoSuchProcess(int(pid))
            except psutil.NoSuchProcess:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()


def title_of(plan: Sequence[Step], step: Step) -> str:
    """Return the title of a notebook in messages: its number among the notebooks of this call, and its name."""
    return f"[{plan.index(step) + 1}/{len(plan)}] {step.title}"


def main(arguments: list[str]) -> int:
    """Run the notebook that the command line names; return the exit status."""
    plan = read_plan(arguments[0])
    step = next(step for step in plan if step.rule == arguments[1])
    run = Run(step, title_of(plan, step))
    # Notebooks show a grid instead of a slider, and the kernel is that of this environment, whatever else is installed.
    os.environ.update(CSP_HEADLESS="1", JUPYTER_PREFER_ENV_PATH="1", PYDEVD_DISABLE_FILE_VALIDATION="1")

    def interrupt(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        with ExitStack() as held:
            run.report()
            end_with_pipeline()
            lock = step.paths[".locks"] / f"notebook.{step.name}.lock"
            held.enter_context(locked(lock, f"{run.title}  is still being run by another process; waiting for it."))
            held.enter_context(gpus.held(int(arguments[2]), step.parameters.get("device", "auto")))
            return _watch(run)
    except UserError as error:
        run.error = error
        return run.finish()
    except KeyboardInterrupt:  # while it waited for a GPU
        run.report("stopped")
        return 130


def _watch(run: Run) -> int:
    """Execute the notebook and report progress until it ends; on an interrupt, end all its processes."""
    worker = threading.Thread(target=run.execute, daemon=True)
    try:
        worker.start()
        reported = time.monotonic()
        while worker.is_alive():
            worker.join(timeout=0.5)
            if sys.stdout.isatty() or time.monotonic() - reported >= HEARTBEAT:
                run.report()
                reported = time.monotonic()
        return run.finish()
    except KeyboardInterrupt:
        logging.disable(logging.CRITICAL)  # nbclient would report that its kernel died
        run.report("stopped")
        interrupt_kernel()
        worker.join(timeout=20)  # the cell ends its subprocess and cleans up; then the kernel ends
        end_children()
        worker.join(timeout=5)
        run.half.unlink(missing_ok=True)
        os._exit(130)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
