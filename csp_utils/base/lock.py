"""Locks between processes: one writer of a result, one pipeline of a run, one user of a GPU.

A lock is a file that the operating system releases when its process ends, however it ends (the library ``filelock``).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def try_lock(path: Path | str, timeout: float = 0) -> FileLock | None:
    """Take the lock ``path`` and return it (``release()`` gives it back); return None if another process holds it.

    Args:
        timeout: seconds to wait for it; -1 waits as long as it takes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return None
    return lock


@contextmanager
def locked(path: Path | str, waiting: str, say: Callable[[str], object] = print) -> Iterator[None]:
    """Hold the lock ``path``; if another process holds it, say the sentence ``waiting`` once and wait."""
    lock = try_lock(path)
    if lock is None:
        say(waiting)
        lock = try_lock(path, timeout=-1)
    assert lock is not None
    try:
        yield
    finally:
        lock.release()
