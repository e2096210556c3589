"""Digests of files and folders by their content, remembered while size, time and inode stay the same (as git does).

Reading a data set of 14 GB takes a quarter of a minute; that is done once, not at every call. The memory is a small
database in the folder ``outputs``. Without it (a read-only disk, a network disk that cannot lock) everything is read.
"""

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

DATABASE = Path("outputs") / ".digests.sqlite"
"""Relative to the current folder, which is the project's root in notebooks and pipeline."""

SMALL = 1 << 16
"""Bytes up to which a file is read rather than looked up."""

FRESH = 2.0
"""Seconds: a file that changed as recently could change again within the resolution of its time stamp."""


AT_ONCE = 500
"""Files that are looked up with one question to the database."""


def digest(path: Path | str) -> str:
    """Return 32 hex digits that depend on the content of a file, or on the names and contents in a folder.

    Hidden files are left out of a folder. Raises FileNotFoundError if ``path`` is not there.
    """
    path = Path(path)
    if not path.is_dir():
        return _digests([str(path)])[0]
    files = _files(path)
    total, above = hashlib.sha256(), len(str(path)) + 1
    for file, found in zip(files, _digests(files), strict=True):
        total.update(f"{file[above:]}\0{found}\n".encode())
    return total.hexdigest()[:32]


def _files(folder: Path) -> list[str]:
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [f"{root}/{name}" for name in names if not name.startswith(".")]
    return sorted(found)


def _digests(files: Sequence[str]) -> list[str]:
    """Return the digest of each file: small ones are read, the others looked up, and read if they are not known."""
    found: dict[int, str] = {}
    keys: dict[int, str] = {}
    for number, file in enumerate(files):
        stat = os.stat(file)
        if stat.st_size <= SMALL:
            found[number] = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:32]
        else:
            keys[number] = f"{stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"
    numbers = list(keys)
    for start in range(0, len(numbers), AT_ONCE):
        some = numbers[start : start + AT_ONCE]
        question = f"SELECT key, digest FROM digests WHERE key IN ({','.join('?' * len(some))})"
        known = dict(_query(question, *(keys[number] for number in some)))
        for number in some:
            found[number] = known.get(keys[number]) or _read(files[number], keys[number])
    return [found[number] for number in range(len(files))]


def _read(path: str, key: str) -> str:
    """Return the digest of a file's content, and remember it unless the file changed just now."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    if abs(time.time() - os.stat(path).st_mtime) > FRESH:
        _query("INSERT OR REPLACE INTO digests VALUES (?, ?)", key, found)
    return found


@cache
def _database(process: int, thread: int) -> sqlite3.Connection:
    """Return the open database of this process and thread; SQLite's connections belong to one of each."""
    DATABASE.parent.mkdir(exist_ok=True)
    database = sqlite3.connect(DATABASE.resolve(), timeout=10, isolation_level=None)
    database.execute("PRAGMA synchronous = OFF")  # what is lost with the power is only read again
    database.execute("CREATE TABLE IF NOT EXISTS digests (key TEXT PRIMARY KEY, digest TEXT)")
    return database


def _query(sql: str, *values: str) -> list[tuple]:
    """Return the rows of an answer; [] where there is no usable database."""
    try:
        return _database(os.getpid(), threading.get_ident()).execute(sql, values).fetchall()
    except (sqlite3.Error, OSError):
        return []
