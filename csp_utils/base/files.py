"""Files that are written whole or not at all, and read with one clear sentence when they are not what they should be.

A writer fills a temporary file (or folder) beside the target, flushes it to the disk, and renames it. A file that has
its final name is therefore complete, whatever interrupts the writer, the machine's power included. Temporary names hold
the machine and the process that write them: two writers never share one, and :func:`sweep` can tell what a process that
was killed has left behind.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csp_utils.base.errors import UserError, first_line
from csp_utils.base.run import missing

if TYPE_CHECKING:  # pandas and pyarrow cost half a second at import; parameters and scripts do without
    import pandas as pd

MANIFEST = "MANIFEST.json"

MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
"""This machine in the names of temporary files: several machines may share a disk."""

_TEMPORARY = re.compile(
    r"^\.(?P<name>.+)\.tmp-(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}(?P<old>-old)?(\.\w+)?$"
)

MANY = 100
"""From so many files on, one flush of all disks is cheaper than one for each file."""


def _no_space(error: OSError, path: Path) -> UserError | None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"The disk is full: {path} was not written; free some space and run the same command again.")
    return None


def portable(path: Path | str) -> str:
    """``path`` relative to the current folder (a notebook's is the project root) if it lies in it, else absolute."""
    path = Path(path).resolve()
    return os.path.relpath(path) if Path.cwd() in path.parents else str(path)


def _temporary(path: Path, suffix: str = "") -> Path:
    """Return a name beside ``path`` that no other process and no other call uses."""
    return path.with_name(f".{path.name}.tmp-{MACHINE}-{os.getpid()}-{secrets.token_hex(4)}{suffix}")


def _flush(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk now."""
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError:  # some file systems do not open a folder
        return
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
    finally:
        os.close(number)


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, with its suffix; rename it to ``path`` when the block ends well.

    If the block raises, nothing is left. A full disk becomes a UserError.
    """
    path = Path(path)
    temporary = _temporary(path, path.suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        if sentence := _no_space(error, path):
            raise sentence from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; it takes the place of ``path`` when the block ends well.

    If the block raises, the temporary folder is removed and an older ``path`` stays as it was. A full disk becomes a
    UserError.
    """
    with temporary_folder(path) as temporary:
        yield temporary
        replace_folder(temporary, Path(path))


@contextmanager
def temporary_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that is removed at the end. A full disk becomes a UserError."""
    path = Path(path)
    temporary = _temporary(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
    except OSError as error:
        if sentence := _no_space(error, path):
            raise sentence from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Put the folder ``new`` in the place of ``path``, which may exist; flushed to the disk and readable as usual.

    A folder that is not empty cannot be replaced in one step. Between the two renames the older one has a name from
    which :func:`sweep` brings it back.
    """
    mask = os.umask(0)
    os.umask(mask)
    files = [file for file in new.rglob("*") if file.is_file()]
    for file in files:
        file.chmod(0o666 & ~mask)  # safetensors leaves its files readable by their owner alone
        if len(files) <= MANY:
            _flush(file)
    if len(files) > MANY:
        os.sync()
    path.parent.mkdir(parents=True, exist_ok=True)
    old = _temporary(path, "-old")
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise
    _flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def replace(new: Path, path: Path) -> None:
    """Put the file or folder ``new`` in the place of ``path``, whole."""
    if new.is_dir():
        replace_folder(new, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _flush(new)
    os.replace(new, path)
    _flush(path.parent)


def sweep(folder: Path | str, machines: bool = False) -> None:
    """Clear up what writers that no longer live have left in ``folder`` and below.

    Temporary files and folders of killed processes of this machine are removed. An older folder that was being replaced
    is put back if nothing has taken its place. What a living process is writing is not touched.

    Args:
        machines: clear up after processes of other machines as well; only where it is known that none runs.
    """
    for left in sorted(Path(folder).rglob(".*.tmp-*")):
        found = _TEMPORARY.match(left.name)
        if found is None or not left.exists():
            continue
        if found["machine"] != MACHINE and not machines or found["machine"] == MACHINE and _lives(int(found["pid"])):
            continue
        target = left.with_name(found["name"])
        if found["old"] and not target.exists():
            os.replace(left, target)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process
        return True
    return True


def write_bytes(content: bytes, path: Path | str) -> None:
    """Writes ``content`` to ``path``, whole."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(content: str, path: Path | str) -> None:
    """Writes ``content`` to ``path`` as UTF-8, whole."""
    write_bytes(content.encode(), path)


def write_json(content: Any, path: Path | str) -> None:
    """Writes ``content`` to ``path`` as indented JSON, whole."""
    write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", path)


def write_jsonl(rows: Iterable[dict[str, Any]], path: Path | str) -> None:
    """Writes one JSON object a line to ``path``, whole."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """Read one JSON object a line. Raises UserError if the file is missing or a line is no JSON.

    Lines end at line feeds alone: U+2028 and its like are legal inside a JSON text, and str.splitlines splits there.
    """
    path = Path(path)
    if not path.exists():
        raise missing(path)
    rows = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                rows.append(json.loads(line.decode()))
            except ValueError as error:
                raise UserError(f"Line {number} of {path} is not valid JSON ({error}); make the file again.") from error
    return rows


def write_parquet(table: Any, path: Path | str) -> None:
    """Writes a pandas data frame (without its index), a pyarrow table or a list of dicts to ``path``, whole."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    elif not isinstance(table, pa.Table):
        table = pa.Table.from_pylist(list(table))
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)


def read_parquet(path: Path | str, columns: list[str] | None = None) -> "pd.DataFrame":
    """Reads ``path`` (``columns`` of it, if given). Raises UserError if it is missing or is no Parquet file."""
    import pandas as pd
    import pyarrow as pa

    if not Path(path).exists():
        raise missing(path)
    try:
        return pd.read_parquet(path, columns=columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"{path} cannot be read as Parquet ({reason}); delete it and make it again.") from error


def sha256(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_files(folder: Path | str) -> dict[str, str]:
    """SHA-256 of every file under ``folder`` by its path relative to it, MANIFEST.json and hidden files left out."""
    folder = Path(folder)
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)
    named = ((path.relative_to(folder), path) for path in files)
    return {name.as_posix(): sha256(path) for name, path in named if not any(p.startswith(".") for p in name.parts)}


def check_manifest(model: Path | str) -> None:
    """Compares a model folder with the SHA-256 that a MANIFEST.json in it or beside it lists under "files".

    Without a manifest there is nothing to compare. Raises UserError for a missing or changed file.
    """
    model = Path(model)
    home = next((folder for folder in (model, model.parent) if (folder / MANIFEST).is_file()), None)
    if home is None:
        return
    for name, digest in json.loads((home / MANIFEST).read_text(encoding="utf-8"))["files"].items():
        path = home / name
        if model not in path.parents:
            continue
        if not path.is_file():
            raise UserError(f"{path} is missing, but {home / MANIFEST} lists it; restore it (git checkout {home}).")
        if sha256(path) != digest:
            raise UserError(f"{path} is not the file that {home / MANIFEST} lists (its SHA-256 differs); "
                            f"restore it (git checkout {home}) or train it again with notebook 00_tiny_world.")
