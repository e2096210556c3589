"""Digests of files and folders by their content, remembered while size, time and inode stay the same (as git does).

Reading a data set of 14 GB takes a quarter of a minute; that is done once, not at every call. The memory is a small
database in the folder ``outputs``. Without it (a read-only disk, a network disk that cannot lock) everything is read.
"""

import hashlib
import os
import sqlite3
import threading
import time
from functools import cache
from pathlib import Path

DATABASE = Path("outputs") / ".digests.sqlite"
"""Relative to the current folder, which is the project's root in notebooks and pipeline."""

SMALL = 1 << 16
"""Bytes up to which a file is read rather than looked up."""

FRESH = 2.0
"""Seconds: a file that changed as recently could change again within the resolution of its time stamp."""


def digest(path: Path | str) -> str:
    """Return 32 hex digits that depend on the content of a file, or on the names and contents in a folder.

    Hidden files are left out of a folder. Raises FileNotFoundError if ``path`` is not there.
    """
    path = Path(path)
    if not path.is_dir():
        return _file(path)
    total = hashlib.sha256()
    for file in _files(path):
        total.update(f"{file.relative_to(path).as_posix()}\0{_file(file)}\n".encode())
    return total.hexdigest()[:32]


def _files(folder: Path) -> list[Path]:
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _file(path: Path) -> str:
    stat = path.stat()
    if stat.st_size <= SMALL:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    key = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ino}"
    if known := _query("SELECT digest FROM digests WHERE key = ?", key):
        return known[0][0]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    if abs(time.time() - stat.st_mtime) > FRESH:
        _query("INSERT OR REPLACE INTO digests VALUES (?, ?)", key, found)
    return found


@cache
def _database(process: int, thread: int) -> sqlite3.Connection:
    """Return the open database of this process and thread; SQLite's connections belong to one of each."""
    DATABASE.parent.mkdir(exist_ok=True)
    database = sqlite3.connect(DATABASE.resolve(), timeout=10, isolation_level=None)
    database.execute("CREATE TABLE IF NOT EXISTS digests (key TEXT PRIMARY KEY, digest TEXT)")
    return database


def _query(sql: str, *values: str) -> list[tuple]:
    try:
        return _database(os.getpid(), threading.get_ident()).execute(sql, values).fetchall()
    except (sqlite3.Error, OSError):
        return []
