"""Write files completely or not at all, and read them with one clear sentence about a bad file.

A writer fills a temporary file (or folder) beside the target, flushes it to the disk, and renames it. A file under its
final name is therefore complete, even after a kill or a power failure. Temporary names contain the machine and the
process: two writers never share one, and :func:`sweep` recognizes the files of killed processes.
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csp_utils.base.errors import UserError, disk_full, first_line
from csp_utils.base.run import missing

if TYPE_CHECKING:  # importing pandas and pyarrow takes half a second; parameters and scripts do not need them
    import pandas as pd

MANIFEST = "MANIFEST.json"

MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
"""Id of this machine in the names of temporary files, because several machines may share a disk."""

_TEMPORARY = re.compile(
    r"^\.(?P<name>.+)\.tmp-(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}(?P<old>-old)?(\.\w+)?$"
)

MANY = 100
"""Number of files above which one flush of all disks is cheaper than one flush per file."""


def portable(path: Path | str) -> str:
    """Return ``path`` relative to the current folder (in notebooks the project root) if inside it, else absolute."""
    path = Path(path).resolve()
    return os.path.relpath(path) if Path.cwd() in path.parents else str(path)


def _temporary(path: Path, suffix: str = "") -> Path:
    """Return a temporary path beside ``path`` that no other process and no other call uses."""
    return path.with_name(f".{path.name}.tmp-{MACHINE}-{os.getpid()}-{secrets.token_hex(4)}{suffix}")


def _flush(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError:  # some file systems cannot open a folder
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
    """Yield a temporary path beside ``path`` with the same suffix; rename it to ``path`` if the block does not raise.

    After an error, no file is left. A full disk becomes a UserError.
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
        if sentence := disk_full(error, f"{path} was not written"):
            raise sentence from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; it replaces ``path`` if the block does not raise.

    After an error, the temporary folder is removed and an older ``path`` is unchanged. A full disk becomes a UserError.
    """
    with temporary_folder(path) as temporary:
        yield temporary
        replace_folder(temporary, Path(path))


@contextmanager
def temporary_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` and remove it at the end. A full disk becomes a UserError."""
    path = Path(path)
    temporary = _temporary(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
    except OSError as error:
        if sentence := disk_full(error, f"{path} was not written"):
            raise sentence from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Rename the folder ``new`` to ``path``, which may exist; flush it, and give its files the usual permissions.

    A folder that is not empty cannot be replaced in one step. Between the two renames, the older folder has a temporary
    name from which :func:`sweep` restores it.
    """
    mask = os.umask(0)
    os.umask(mask)
    files = [file for file in new.rglob("*") if file.is_file()]
    for file in files:
        file.chmod(0o666 & ~mask)  # safetensors makes its files readable only by their owner
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
    """Rename the file or folder ``new`` to ``path``, and flush it."""
    if new.is_dir():
        replace_folder(new, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _flush(new)
    os.replace(new, path)
    _flush(path.parent)


def sweep(folder: Path | str, machines: bool = False) -> None:
    """Remove what writers that no longer run have left in ``folder`` and below.

    Temporary files and folders of killed processes of this machine are removed. An older folder that was being replaced
    is restored if ``path`` does not exist. Files of a running process are not touched.

    Args:
        machines: also clean up after other machines; use it only if no process runs there.
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
    except PermissionError:  # the process of another user
        return True
    return True


def write_bytes(content: bytes, path: Path | str) -> None:
    """Write ``content`` to ``path``, completely or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(content: str, path: Path | str) -> None:
    """Write ``content`` to ``path`` as UTF-8, completely or not at all."""
    write_bytes(content.encode(), path)


def write_json(content: Any, path: Path | str) -> None:
    """Write ``content`` to ``path`` as indented JSON, completely or not at all."""
    write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", path)


def write_jsonl(rows: Iterable[dict[str, Any]], path: Path | str) -> None:
    """Write one JSON object per line to ``path``, completely or not at all."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """Return the JSON objects of a file with one per line. Raises UserError if it is missing or a line is not JSON.

    Only line feeds end a line: U+2028 and similar characters are legal in JSON, but str.splitlines splits there.
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
    """Write a pandas data frame (without its index), a pyarrow table or a list of dicts, completely or not at all."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    elif not isinstance(table, pa.Table):
        # pyarrow takes the columns of the first dict alone: a log whose first update has no grad_norm would lose it
        table = pa.Table.from_pandas(pd.DataFrame(list(table)), preserve_index=False)
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)


def read_parquet(path: Path | str, columns: list[str] | None = None) -> "pd.DataFrame":
    """Return a Parquet file as a data frame. Raises UserError if it is missing or not a Parquet file."""
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
    """Return the hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_files(folder: Path | str) -> dict[str, str]:
    """Return path relative to ``folder`` -> SHA-256 of its files, without MANIFEST.json and hidden files."""
    folder = Path(folder)
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)
    named = ((path.relative_to(folder), path) for path in files)
    return {name.as_posix(): sha256(path) for name, path in named if not any(p.startswith(".") for p in name.parts)}


def _listed(manifest: Path) -> dict[str, str]:
    """Return path -> SHA-256 of a manifest in our form; {} if another tool wrote it in a form of its own."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        if all(re.fullmatch("[0-9a-f]{64}", digest) for digest in files.values()):
            return files
    return {}


def check_manifest(model: Path | str) -> None:
    """Compare a model folder with the SHA-256 under "files" of a MANIFEST.json in the folder or beside it.

    Without a manifest, or with one in another tool's form, nothing is compared. Raises UserError for a missing or
    changed file.
    """
    model = Path(model)
    home = next((folder for folder in (model, model.parent) if (folder / MANIFEST).is_file()), None)
    if home is None:
        return
    for name, digest in _listed(home / MANIFEST).items():
        path = home / name
        if model not in path.parents:
            continue
        if not path.is_file():
            raise UserError(f"{path} is missing, but {home / MANIFEST} lists it; restore it (git checkout {home}).")
        if sha256(path) != digest:
            raise UserError(f"{path} is not the file that {home / MANIFEST} lists (its SHA-256 differs); "
                            f"restore it (git checkout {home}) or train it again with notebook 00_tiny_world.")
