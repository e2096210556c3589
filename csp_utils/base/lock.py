"""Locks between processes: one writer of a result, one pipeline of a run, one user of a GPU.

A lock is a file that the operating system releases when its process ends, however it ends (the library ``filelock``).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(path: Path | str, waiting: str, say: Callable[[str], object] = print) -> Iterator[None]:
    """Hold the lock ``path``; if another process holds it, say the sentence ``waiting`` once and wait."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(waiting)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def try_lock(path: Path | str) -> FileLock | None:
    """Take the lock ``path`` and return it (``release()`` gives it back); return None if another process holds it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock
