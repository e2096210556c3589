"""Which GPUs there are, and which of them a notebook may use: no two notebooks get the same one.

Snakemake counts GPUs (the resource ``gpu`` of each rule) and does not say which; here each notebook takes as many as
were counted for it and makes them the only ones that CUDA shows it. A GPU is taken by a lock on a file, which the
system lets go when the process ends, however it ends.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from csp_utils.base.errors import UserError
from csp_utils.base.lock import try_lock


def visible() -> list[str]:
    """The GPUs that CUDA would show a program started here, by number or UUID; [] if there is none.

    CUDA_VISIBLE_DEVICES decides where it is set (a cluster's job has its own); nvidia-smi tells where it is not.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.replace(" ", "").split(",") if name and not name.startswith("-")]
    return [name for name, _ in installed()]


@cache
def installed() -> list[tuple[str, float]]:
    """Number and memory (GiB) of each GPU of this machine, as nvidia-smi lists them; [] without one."""
    query = ["nvidia-smi", "--query-gpu=index,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line.split(",") for line in said.splitlines() if line.count(",") == 1]
    return [(number.strip(), float(memory) / 1024) for number, memory in lines if memory.strip().isdigit()]


@contextmanager
def held(number: int | None, device: str = "auto") -> Iterator[list[str]]:
    """Takes so many free GPUs of :func:`visible`, waiting until they are; yields their names.

    While it lasts, CUDA_VISIBLE_DEVICES of this process and of what it starts names them alone (for 0: none; for None
    it stays as it is). With a device "cuda:N" the user has chosen: that GPU is taken, and the variable stays as it is.

    In a Slurm job all GPUs that the job was given are taken, without locks: another job numbers its own from 0 as well.

    Raises UserError if there are not as many.
    """
    names, slurm = visible(), "SLURM_JOB_ID" in os.environ
    if number is None or not (number or names or slurm):  # nvidia-smi knows of none: there may be others
        yield names
        return
    if device.startswith("cuda:"):
        index = int(device.partition(":")[2])
        names = names[index : index + 1]
        number = 1
    if number > len(names):
        raise UserError(f"{number} GPUs are wanted and {len(names)} can be used here; set `processes` to as many as "
                        "there are (and gradient_accumulation_steps so that the batch stays the same).")  # fmt: skip
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    with ExitStack() as taken:
        mine = (names if slurm else _take(names, number, taken)) if number else []
        if not device.startswith("cuda:"):
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        try:
            yield mine
        finally:
            if before is None:
                os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def _take(names: list[str], number: int, taken: ExitStack) -> list[str]:
    """Lock ``number`` of the GPUs; all of them or, for the moment, none, so that two that wait cannot block."""
    folder = Path(tempfile.gettempdir()) / f"csp-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to another user, and the GPUs' locks would be in it; have it removed.")
    while True:
        with ExitStack() as tried:
            mine = []
            for name in names:
                lock = try_lock(folder / f"{name.replace('/', '_')}.lock")
                if lock is None:
                    continue
                tried.callback(lock.release)
                mine.append(name)
                if len(mine) == number:
                    taken.push(tried.pop_all())
                    return mine
        time.sleep(0.5)
