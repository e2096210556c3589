"""Run cells in the imitated environment of scripts/try_colab.sh, and check what they changed."""

import hashlib
import importlib
import importlib.metadata
import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
UNTOUCHED = ("torch", "torchvision", "numpy")


def state() -> tuple[dict[str, str], dict[str, str]]:
    """Return version of every package, and a hash of the names, sizes, times and code of :data:`UNTOUCHED`."""
    importlib.invalidate_caches()
    versions = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()}
    hashes = {}
    for name in UNTOUCHED:
        digest = hashlib.sha256(versions[name].encode())
        for file in sorted(importlib.metadata.files(name) or [], key=str):
            path = Path(str(file.locate()))
            if path.suffix == ".pyc" or not path.is_file():  # Python writes its cache at the first import
                continue
            facts = path.stat()
            digest.update(f"{file} {facts.st_size} {facts.st_mtime_ns} {facts.st_ino}".encode())
            digest.update(path.read_bytes() if path.suffix == ".py" else b"")
        hashes[name] = digest.hexdigest()
    return versions, hashes


def execute(name: str, content: Path, cells: int | None = None) -> tuple[str, float]:
    """Run a notebook, or its first cells, in the folder ``content``; return the first code cell's output, and seconds.

    An error in a cell is raised.
    """
    book = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    book.cells = book.cells[:cells]
    for cell in book.cells:  # without an address, the cell uses the one that try_colab.sh redirects to this project
        cell.source = cell.source.replace('address = ""', f'address = "{os.environ["GIT_CONFIG_VALUE_0"]}"')
    client = NotebookClient(book, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(content)}})
    start = time.monotonic()
    client.execute()
    first = next(cell for cell in book.cells if cell.cell_type == "code")
    return "".join(output.get("text", "") for output in first.outputs), time.monotonic() - start


def main(folder: Path, names: list[str]) -> None:
    """Run the first cell twice, then each notebook as if just opened, in a new content folder."""
    content = folder / "content"
    shutil.rmtree(content, ignore_errors=True)
    content.mkdir()
    before, files = state()
    last = before
    for time_of_day in ("first", "second"):
        text, seconds = execute("01_extract", content, cells=2)
        print(f"--- first cell, {time_of_day} time: {seconds:.0f} s\n{text}", flush=True)
        after, now = state()
        assert now == files, f"touched: {[name for name in UNTOUCHED if now[name] != files[name]]}"
        assert f"torch {before['torch']}" in text and "Python 3.13" in text and "GPU" in text, "versions are not said"
        if time_of_day == "second":
            assert "Everything is installed." in text and after == last, "the second time installed something"
            assert seconds < 30, "the second time was slow"
        last = after
    print(f"unchanged: {', '.join(f'{name} {before[name]}' for name in UNTOUCHED)} (versions, files, their times)\n")
    for name in names:
        shutil.rmtree(content)
        content.mkdir()
        text, seconds = execute(name, content)
        print(f"--- {name}, opened on a new machine: {seconds:.0f} s, all cells ran\n{text}", flush=True)
    assert state() == (last, files), "a notebook changed a package"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or ["01_extract", "02_mask"])
