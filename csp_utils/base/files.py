"""The files of a run: where they lie, and how they are written whole or not at all.

Every result lies under ``outputs/<run>/`` in a standard format. A writer fills a temporary file (or folder) beside the
target and renames it when it is complete, so that a result that exists is a complete one, whatever interrupts the run.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csp_utils.base.errors import UserError, first_line
from csp_utils.base.run import missing

if TYPE_CHECKING:  # pandas and pyarrow cost half a second at import; parameters and scripts do without
    import pandas as pd

MANIFEST = "MANIFEST.json"


def _no_space(error: OSError, path: Path) -> UserError | None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"The disk is full: {path} was not written; free some space and run the same command again.")
    return None


def portable(path: Path | str) -> str:
    """``path`` relative to the current folder (a notebook's is the project root) if it lies in it, else absolute."""
    path = Path(path).resolve()
    return os.path.relpath(path) if Path.cwd() in path.parents else str(path)


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, with its suffix; renames it to ``path`` when the block ends well.

    If the block raises, nothing is left. A full disk becomes a UserError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if sentence := _no_space(error, path):
            raise sentence from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path | str) -> Iterator[Path]:
    """Yields an empty temporary folder beside ``path``; it takes the place of ``path`` when the block ends well.

    If the block raises, the temporary folder is removed and an older ``path`` stays as it was. A full disk becomes a
    UserError.
    """
    path = Path(path)
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        for file in temporary.rglob("*"):
            if file.is_file():  # safetensors leaves its files readable by their owner alone
                file.chmod(0o666 & ~mask)
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():  # a folder that is not empty cannot be replaced in one step
            os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if sentence := _no_space(error, path):
            raise sentence from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
