"""Find the GPUs of this machine and reserve them for notebooks, each GPU for one notebook at a time.

Snakemake reserves a number of GPUs (the resource ``gpu`` of each rule), not specific ones. :func:`held` picks free GPUs
by file lock and sets CUDA_VISIBLE_DEVICES to them. The operating system releases a lock when its process ends, even if
it is killed.
"""

import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from csp_utils.base.devices import installed, name_of, visible
from csp_utils.base.errors import UserError
from csp_utils.base.lock import try_lock
from csp_utils.data.sources import cache

__all__ = ["held", "installed", "visible"]


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
        names, number = [name_of(device)], 1
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


def lock_folder() -> Path:
    """Return the folder of the GPUs' lock files, which only this user can write; it is made if it does not exist.

    It is in the user's runtime folder (XDG_RUNTIME_DIR), else in the cache (``CSP_CACHE``, else ~/.cache/csp), else, if
    neither can be written, in the shared temporary folder. There it has a name that others can guess, so it is used
    only if it is a folder of this user that nobody else can write.

    Raises UserError if there is no such folder.
    """
    user, own = os.getuid(), _own_folders()
    for folder in own:
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _private(folder) and os.access(folder, os.W_OK):
                return folder
    shared = Path(tempfile.gettempdir()) / f"csp-gpus-{user}"
    try:
        shared.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        tried = ", ".join(map(str, [*own, shared]))
        raise UserError(f"The GPUs' locks can be written to none of {tried} ({error.strerror}); set CSP_CACHE to a "
                        "folder that you can write.") from error  # fmt: skip
    if not _private(shared):
        raise UserError(f"{shared} is not a folder that only you can write, and the GPUs' locks would be in it; have "
                        "it removed, or set CSP_CACHE to a folder that you can write.")  # fmt: skip
    return shared


def _own_folders() -> list[Path]:
    """Return the places for the locks that no other user can write, the best one first."""
    user = os.getuid()
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}")
    found = []
    with suppress(OSError):
        if runtime.is_absolute() and runtime.stat().st_uid == user:
            found.append(runtime / "csp-gpus")
    with suppress(RuntimeError):  # a user without a home
        found.append(cache() / f"gpus-{socket.gethostname()}-{user}")  # machines that share a home have a GPU 0 each
    return found


def _private(folder: Path) -> bool:
    """Return True for a folder, and no link to one, that belongs to this user and that nobody else can write."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _take(names: list[str], number: int, taken: ExitStack) -> list[str]:
    """Lock ``number`` of the GPUs, or none if too few are free, so that two waiting processes cannot deadlock."""
    folder = lock_folder()
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
