"""Find the GPUs of this machine and reserve them for notebooks, each GPU for one notebook at a time.

Snakemake reserves a number of GPUs (the resource ``gpu`` of each rule), not specific ones. :func:`held` picks free GPUs
by file lock and sets CUDA_VISIBLE_DEVICES to them. The operating system releases a lock when its process ends, even if
it is killed.
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
    """Return the GPUs, by number or UUID, that CUDA would show to a program started here; [] if there is none.

    CUDA_VISIBLE_DEVICES decides if it is set (as in a cluster job), else nvidia-smi.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.replace(" ", "").split(",") if name and not name.startswith("-")]
    return [name for name, _ in installed()]


@cache
def installed() -> list[tuple[str, float]]:
    """Return the number and the memory (GiB) of each GPU that nvidia-smi lists; [] without one."""
    query = ["nvidia-smi", "--query-gpu=index,memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line.split(",") for line in output.splitlines() if line.count(",") == 1]
    return [(number.strip(), float(memory) / 1024) for number, memory in lines if memory.strip().isdigit()]


@contextmanager
def held(number: int | None, device: str = "auto") -> Iterator[list[str]]:
    """Reserve ``number`` free GPUs of :func:`visible`, waiting until so many are free; yield their names.

    Inside the block, CUDA_VISIBLE_DEVICES of this process and its children lists only these GPUs (0: none; None: the
    variable is not changed). A device "cuda:N" is the user's choice: that GPU is locked, and the variable is not
    changed.

    In a Slurm job, all GPUs of the job are used without locks, because other jobs also number their GPUs from 0.

    Raises UserError if fewer than ``number`` GPUs exist.
    """
    names, slurm = visible(), "SLURM_JOB_ID" in os.environ
    if number is None or not (number or names or slurm):  # nvidia-smi lists none, but GPUs of other makers may exist
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
    """Lock ``number`` of the GPUs, or none if too few are free, so that two waiting processes cannot deadlock."""
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
