"""What several tests of the pipeline use: the processes of a project, and waiting for a condition."""

import time
from pathlib import Path

import psutil
from conftest import Project


def running(project: Project, module: str = "run_notebook") -> list[psutil.Process]:
    """Return the processes of a pipeline module that belong to the project."""
    found = []
    for process in psutil.process_iter():
        try:
            if module in str(process.cmdline()) and Path(process.cwd()) == project.folder:
                found.append(process)
        except psutil.Error:
            pass
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def wait_until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
