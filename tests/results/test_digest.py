"""Digests: the content decides, and what was read once is not read again while the file is the same."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT

from csp_utils.results import digest as module
from csp_utils.results.digest import SMALL, digest

LONG_AGO = time.time() - 3600


@pytest.fixture(autouse=True)
def database(tmp_path, monkeypatch):
    """A memory of its own."""
    file = tmp_path / "memory" / "digests.sqlite"
    monkeypatch.setattr(module, "DATABASE", file)
    module._database.cache_clear()
    yield file
    module._database.cache_clear()


@pytest.fixture
def reads(monkeypatch):
    """The large files that were read, in order."""
    found, read = [], hashlib.file_digest

    def noted(file, kind):
        found.append(Path(file.name))
        return read(file, kind)

    monkeypatch.setattr(module.hashlib, "file_digest", noted)
    return found


def large(path: Path, content: bytes = b"a", seconds: float = LONG_AGO) -> Path:
    """Write a file that is too large to be read each time, and that changed at ``seconds``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content * (SMALL + 1))
    os.utime(path, (seconds, seconds))
    return path


def remembered(database: Path) -> int:
    with sqlite3.connect(database) as opened:
        return opened.execute("SELECT count(*) FROM digests").fetchone()[0]


# ----------------------------------------------------------------------------------------------------------- one file


@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, SMALL + 1, 3 * SMALL])
def test_it_is_the_sha256_of_the_content_whatever_the_size(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "x").write_bytes(content)
    assert digest(tmp_path / "x") == digest(str(tmp_path / "x")) == hashlib.sha256(content).hexdigest()[:32]


@pytest.mark.parametrize("size", [10, SMALL + 1])
def test_neither_time_nor_name_nor_place_counts(tmp_path, size):
    (tmp_path / "x").write_bytes(b"a" * size)
    first = digest(tmp_path / "x")
    for seconds in (0, LONG_AGO, time.time() + 3600):
        os.utime(tmp_path / "x", (seconds, seconds))
        assert digest(tmp_path / "x") == first
    (tmp_path / "deep").mkdir()
    shutil.copy(tmp_path / "x", tmp_path / "deep" / "y")
    os.chmod(tmp_path / "deep" / "y", 0o600)
    assert digest(tmp_path / "deep" / "y") == first


def test_a_small_file_is_read_each_time(tmp_path):
    path = tmp_path / "x"
    for content in (b"one", b"two"):  # same size, same inode, same time
        path.write_bytes(content)
        os.utime(path, (LONG_AGO, LONG_AGO))
        assert digest(path) == hashlib.sha256(content).hexdigest()[:32]


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        digest(tmp_path / "gone")


# ----------------------------------------------------------------------------------------------------------- the memory


def test_a_large_file_is_read_once(tmp_path, monkeypatch, database, reads):
    path = large(tmp_path / "x")
    assert digest(path) == digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    assert reads == [path] and remembered(database) == 1
    monkeypatch.chdir(tmp_path)
    digest("x")  # the same file by another path
    assert reads == [path]


def test_a_changed_file_with_the_same_size_is_noticed_by_its_time(tmp_path, reads):
    path = large(tmp_path / "x")
    first = digest(path)
    large(path, b"b", LONG_AGO + 1)
    assert digest(path) != first and reads == [path, path]


def test_a_changed_file_with_the_same_size_and_time_is_noticed_by_its_inode(tmp_path, reads):
    """As every file that this project writes: under a temporary name, then renamed."""
    path = large(tmp_path / "x")
    first = digest(path)
    os.replace(large(tmp_path / "y", b"b"), path)
    assert path.stat().st_mtime == pytest.approx(LONG_AGO) and digest(path) != first


def test_a_changed_file_with_the_same_size_time_and_inode_is_noticed_if_it_was_fresh(tmp_path, database, reads):
    """Within the resolution of a time stamp a file may change twice; so a fresh one is not remembered."""
    path, now = tmp_path / "x", time.time()
    first = digest(large(path, b"a", now))
    assert remembered(database) == 0
    large(path, b"b", now)
    assert digest(path) != first and reads == [path, path]


def test_a_time_stamp_of_the_future_is_remembered_only_if_it_is_not_near(tmp_path, database):
    digest(large(tmp_path / "x", b"a", time.time() + module.FRESH / 2))
    assert remembered(database) == 0
    digest(large(tmp_path / "y", b"a", time.time() + 3600))
    assert remembered(database) == 1


@pytest.mark.parametrize("wrong", ["no folder", "a folder", "no database", "another table"])
def test_without_a_usable_memory_everything_is_read(tmp_path, database, monkeypatch, reads, wrong):
    if wrong == "no folder":
        database.parent.write_text("a file")
    else:
        database.parent.mkdir()
    if wrong == "a folder":
        database.mkdir()
    elif wrong == "no database":
        database.write_bytes(b"no database " * 1000)
    elif wrong == "another table":
        with sqlite3.connect(database) as opened:
            opened.execute("CREATE TABLE digests (something TEXT)")
    path = large(tmp_path / "x")
    assert digest(path) == digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    assert reads == [path, path]


def test_a_memory_that_somebody_else_holds_is_not_waited_for_in_vain(tmp_path, database, monkeypatch, reads):
    path = large(tmp_path / "x")
    digest(path)
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, timeout, **k: real(*a, timeout=0.1, **k))
    module._database.cache_clear()
    holder = real(database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    holder.close()
    assert digest(path) and len(reads) == 2


def test_threads_share_the_memory(tmp_path, database, reads):
    path, found, wrong = large(tmp_path / "x"), [], []
    digest(path)

    def read():
        try:
            found.append(digest(path))
            digest(large(tmp_path / f"{threading.get_ident()}"))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and set(found) == {digest(path)} and reads.count(path) == 1


def test_processes_share_the_memory(tmp_path, database):
    files = [large(tmp_path / f"{i}", bytes([i])) for i in range(6)]
    code = ("import sys\nfrom pathlib import Path\nfrom csp_utils.results import digest\n"
            "digest.DATABASE = Path(sys.argv[1])\nprint(*map(digest.digest, sys.argv[2:]))")  # fmt: skip
    command = [sys.executable, "-c", code, str(database), *map(str, files)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
               for _ in range(4)]  # fmt: skip
    said = [process.communicate(timeout=120)[0].split() for process in started]
    assert all(one == [digest(file) for file in files] for one in said) and remembered(database) == len(files)


# -------------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path):
    """A folder with a folder in it."""
    for name, text in (("a.txt", "1"), ("b/c.txt", "2"), ("b/d/e.txt", "3")):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_text(text)
    return tmp_path / "folder"


def test_a_folder_is_the_same_wherever_and_whenever_it_was_written(folder, tmp_path):
    first = digest(folder)
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "third" / "b" / "d").mkdir(parents=True)  # written in another order
    for name, text in (("b/d/e.txt", "3"), ("b/c.txt", "2"), ("a.txt", "1")):
        (tmp_path / "third" / name).write_text(text)
    os.utime(tmp_path / "third", (0, 0))
    (tmp_path / "link").symlink_to(folder)
    assert {digest(tmp_path / name) for name in ("other", "third", "link")} == {first}


@pytest.mark.parametrize("change", [
    lambda folder: (folder / "b" / "c.txt").write_text("4"),
    lambda folder: (folder / "b" / "c.txt").unlink(),
    lambda folder: (folder / "a.txt").rename(folder / "aa.txt"),  # the order stays
    lambda folder: (folder / "b" / "c.txt").rename(folder / "b" / "d.txt"),
    lambda folder: (folder / "b" / "c.txt").rename(folder / "c.txt"),
    lambda folder: (folder / "new.txt").write_text(""),
    lambda folder: ((folder / "a.txt").write_text("2"), (folder / "b" / "c.txt").write_text("1")),  # exchanged
])
def test_names_and_contents_of_a_folder_decide(folder, change):
    first = digest(folder)
    change(folder)
    assert digest(folder) != first


@pytest.mark.parametrize("name", [".hidden", ".folder/x.txt", "b/.x.tmp-01234567-1-01234567.txt", ".DS_Store"])
def test_hidden_files_of_a_folder_do_not_count(folder, name):
    first = digest(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    assert digest(folder) == first


def test_a_linked_file_or_folder_counts_by_what_it_leads_to(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.txt").write_text("1")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    first = digest(folder)
    (tmp_path / "elsewhere" / "x.txt").write_text("2")
    assert digest(folder) != first


def test_large_files_of_a_folder_are_read_once(folder, reads):
    path = large(folder / "b" / "large.bin")
    assert digest(folder) == digest(folder) and reads == [path]
