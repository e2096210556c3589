"""Files are whole or absent, and a missing one is named with its maker."""

import errno
import itertools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from csp_utils.base import files, run
from csp_utils.base.errors import UserError
from csp_utils.stages import stages


@pytest.fixture
def paths(tmp_path):
    return run.RunPaths("r", tmp_path)


def test_every_notebook_makes_something_and_nothing_has_two_makers(paths):
    made = {name: [paths[result] for result in stage.makes] for name, stage in stages.items()}
    assert all(made.values())
    every = list(itertools.chain(*made.values()))
    assert all(paths.root in path.parents for path in every)
    for one, other in itertools.permutations(every, 2):
        assert one != other and one not in other.parents, f"{other} is in {one}: publishing one would remove the other"
    assert {name: {run.maker_of(path) for path in of} for name, of in made.items()} == {name: {name} for name in made}


def test_missing_table_is_named_with_its_notebook(paths):
    with pytest.raises(UserError, match=r"masks\.parquet is missing; run notebook 02_mask .*run_all"):
        files.read_parquet(paths["masks.parquet"])


def test_file_inside_a_made_folder_has_its_maker(paths):
    assert run.maker_of(paths["sft/checkpoint"] / "config.json") == "04_sft"
    assert run.maker_of(paths.root / "other.txt") is None


def test_parquet_comes_back_as_written(paths):
    table = pd.DataFrame({"row_id": ["a", "b"], "boxes": [[[0.0, 1.0, 2.0, 3.0]], []], "keyword": ["x", None]})
    files.write_parquet(table, paths["masks.parquet"])
    back = files.read_parquet(paths["masks.parquet"])
    assert list(back.columns) == list(table.columns)
    assert back.keyword.isna().tolist() == [False, True]
    assert [list(map(list, boxes)) for boxes in back.boxes] == table.boxes.tolist()


def test_a_list_of_rows_is_a_table_too(paths):
    files.write_parquet([{"a": 1}, {"a": 2}], paths["funnel.parquet"])
    assert files.read_parquet(paths["funnel.parquet"], columns=["a"]).a.tolist() == [1, 2]


def test_truncated_parquet_is_one_sentence(paths):
    files.write_parquet([{"a": 1}], paths["funnel.parquet"])
    paths["funnel.parquet"].write_bytes(paths["funnel.parquet"].read_bytes()[:20])
    with pytest.raises(UserError, match="cannot be read as Parquet.*delete it"):
        files.read_parquet(paths["funnel.parquet"])


def test_interrupted_file_leaves_the_old_one_and_nothing_else(paths):
    files.write_text("old", paths["report.html"])
    with pytest.raises(KeyboardInterrupt), files.whole_file(paths["report.html"]) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in paths.root.iterdir()] == ["report.html"]
    assert paths["report.html"].read_text() == "old"


def test_interrupted_folder_leaves_the_old_one_and_nothing_else(paths):
    with files.whole_folder(paths["perturbed/dataset"]) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(ValueError), files.whole_folder(paths["perturbed/dataset"]) as folder:
        (folder / "b").write_text("half")
        raise ValueError
    assert [path.name for path in paths["perturbed"].iterdir()] == ["dataset"]
    assert [path.name for path in paths["perturbed/dataset"].iterdir()] == ["a"]


def test_files_of_a_folder_are_readable_as_the_user_wants(paths):
    with files.whole_folder(paths["sft"]) as temporary:
        (temporary / "model.safetensors").touch(mode=0o600)
    plain = paths.root / "plain"
    plain.touch()
    assert (paths["sft"] / "model.safetensors").stat().st_mode == plain.stat().st_mode


def test_a_new_folder_replaces_the_old_one_whole(paths):
    for name in ("a", "b"):
        with files.whole_folder(paths["perturbed/dataset"]) as folder:
            (folder / name).write_text("x")
    assert [path.name for path in paths["perturbed/dataset"].iterdir()] == ["b"]
    assert [path.name for path in paths["perturbed"].iterdir()] == ["dataset"]


@pytest.mark.parametrize("whole", [files.whole_file, files.whole_folder])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(paths, whole):
    with pytest.raises(UserError, match="The disk is full"), whole(paths.root / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(paths.root.iterdir()) == []


def test_json_lines(paths):
    rows = [{"a": "é"}, {"a": 2}]
    files.write_jsonl(rows, paths["perturbed/sft.jsonl"])
    assert [json.loads(line) for line in paths["perturbed/sft.jsonl"].read_text("utf-8").splitlines()] == rows
    assert files.read_jsonl(paths["perturbed/sft.jsonl"]) == rows


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x1c", "\r", "\n", "\r\n", "\v", "\f"])
def test_what_str_splitlines_takes_for_a_line_end_survives_in_json_lines(tmp_path, separator):
    rows = [{"a": f"one{separator}two", separator: "x"}, {"a": separator}]
    files.write_jsonl(rows, tmp_path / "x.jsonl")
    assert files.read_jsonl(tmp_path / "x.jsonl") == rows
    assert (tmp_path / "x.jsonl").read_bytes().count(b"\n") == len(rows)


def test_json_lines_that_are_none_are_one_sentence(paths):
    path = paths["perturbed/sft.jsonl"]
    with pytest.raises(UserError, match=r"sft\.jsonl is missing; run notebook 03_perturb "):
        files.read_jsonl(path)
    files.write_text('{"a": 1}\n{"a": \n', path)
    with pytest.raises(UserError, match=r"^Line 2 of .*sft\.jsonl is not valid JSON .*; make the file again\.$"):
        files.read_jsonl(path)
    path.write_bytes(b'{"a": 1}\n\xff\n')
    with pytest.raises(UserError, match="is not valid JSON"):
        files.read_jsonl(path)


def test_sha256_of_known_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("damage", ["change", "delete"])
def test_a_damaged_checkpoint_is_noticed(tmp_path, damage):
    weights = tmp_path / "vlm" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    files.write_json({"files": files.manifest_files(tmp_path)}, tmp_path / files.MANIFEST)
    files.check_manifest(weights.parent)
    weights.write_bytes(b"other") if damage == "change" else weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is .*restore it"):
        files.check_manifest(weights.parent)


def test_a_manifest_speaks_only_of_its_own_model(tmp_path):
    (tmp_path / "sam").mkdir()
    files.write_json({"files": {"vlm/model.safetensors": "0"}}, tmp_path / files.MANIFEST)
    files.check_manifest(tmp_path / "sam")


# ------------------------------------------------------------------------------------------- two writers of one thing


SIZE = 300_000


def write_often(path: Path, letter: str, until: float) -> None:
    """Write a file of one letter again and again; raise what goes wrong."""
    while time.monotonic() < until:
        files.write_text(letter * SIZE, path)


def read_often(path: Path, until: float) -> set[str]:
    """Return the letters of which the file was; fail if it was ever absent, cut or of two."""
    seen = set()
    while time.monotonic() < until:
        text = path.read_text()
        assert len(text) == SIZE and len(set(text)) == 1
        seen.add(text[0])
    return seen


def test_threads_that_write_one_file_never_leave_a_torn_one(tmp_path):
    path, until, wrong = tmp_path / "x.txt", time.monotonic() + 1.5, []
    files.write_text("a" * SIZE, path)

    def write(letter):
        try:
            write_often(path, letter, until)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    seen = read_often(path, until)
    for thread in threads:
        thread.join()
    assert wrong == [] and len(seen) > 1 and [one.name for one in tmp_path.iterdir()] == ["x.txt"]


def test_processes_that_write_one_file_never_leave_a_torn_one(tmp_path):
    path, until = tmp_path / "x.txt", time.monotonic() + 2
    files.write_text("a" * SIZE, path)
    fork = multiprocessing.get_context("fork")  # the clock that counts is the machine's, the same for all
    writers = [fork.Process(target=write_often, args=(path, letter, until)) for letter in "bc"]
    for writer in writers:
        writer.start()
    seen = read_often(path, until)
    for writer in writers:
        writer.join(timeout=60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(seen) > 1 and [one.name for one in tmp_path.iterdir()] == ["x.txt"]


# ----------------------------------------------------------------------------------- a process that is killed outright


def in_a_process(code: str, folder: Path, **env: str) -> subprocess.CompletedProcess:
    """Run Python in ``folder`` with the project's package."""
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **env})  # fmt: skip


KILLED_BETWEEN = """
import os
from csp_utils.base import files
renamed = os.replace
def replace(old, new):
    renamed(old, new)
    os._exit(9)  # as a kill: no finally runs
os.replace = replace
with files.whole_folder("x/made") as new:
    (new / "b").write_text("new")
"""


def test_a_kill_between_the_two_renames_leaves_the_old_folder_restorable(tmp_path):
    with files.whole_folder(tmp_path / "x" / "made") as new:
        (new / "a").write_text("old")
    assert in_a_process(KILLED_BETWEEN, tmp_path).returncode == 9
    assert not (tmp_path / "x" / "made").exists() and len(list((tmp_path / "x").iterdir())) == 2
    files.sweep(tmp_path)
    assert [one.name for one in (tmp_path / "x").iterdir()] == ["made"]
    assert [one.name for one in (tmp_path / "x" / "made").iterdir()] == ["a"]


def test_an_old_folder_does_not_come_back_over_a_newer_one(tmp_path):
    test_a_kill_between_the_two_renames_leaves_the_old_folder_restorable(tmp_path)
    assert in_a_process(KILLED_BETWEEN, tmp_path).returncode == 9
    with files.whole_folder(tmp_path / "x" / "made") as new:
        (new / "c").write_text("newer")
    files.sweep(tmp_path)
    assert [one.name for one in (tmp_path / "x").iterdir()] == ["made"]
    assert [one.name for one in (tmp_path / "x" / "made").iterdir()] == ["c"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_kill_in_the_middle_of_writing_leaves_the_old_one_and_a_temporary_that_is_swept(tmp_path, kind):
    target = tmp_path / "x.json"
    files.write_text("old", target) if kind == "file" else (target / "in").mkdir(parents=True)
    code = ("import os\nfrom csp_utils.base import files\n"
            f"with files.whole_{kind}('x.json') as new:\n"
            "    (new if new.suffix == '.json' else new / 'b').write_text('half')\n    os._exit(9)\n")  # fmt: skip
    assert in_a_process(code, tmp_path).returncode == 9
    assert len(list(tmp_path.iterdir())) == 2
    assert target.read_text() == "old" if kind == "file" else [one.name for one in target.iterdir()] == ["in"]
    files.sweep(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["x.json"]


def test_sweep_leaves_the_temporaries_of_the_living_and_of_other_machines(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine, other = files.MACHINE, "0" * 8
    names = {
        "mine": f".a.txt.tmp-{mine}-{os.getpid()}-01234567.txt", "dead": f".a.txt.tmp-{mine}-{dead.pid}-01234567.txt",
        "far": f".a.txt.tmp-{other}-{dead.pid}-01234567.txt", "far_old": f".b.tmp-{other}-{dead.pid}-01234567-old",
        "init": f".a.txt.tmp-{mine}-1-01234567", "no_temporary": ".a.tmp-notes",
    }  # fmt: skip
    (tmp_path / "deep").mkdir()
    for name in names.values():
        (tmp_path / "deep" / name).mkdir() if name.endswith("-old") else (tmp_path / "deep" / name).write_text("x")

    def left():
        return {one.name for one in (tmp_path / "deep").iterdir()}

    files.sweep(tmp_path)
    assert left() == set(names.values()) - {names["dead"]}
    files.sweep(tmp_path, machines=True)
    assert left() == {names["mine"], names["init"], names["no_temporary"], "b"}


def test_a_temporary_name_is_recognised_and_no_two_are_the_same(tmp_path):
    made = set()
    for name in ("a", "a.parquet", "a.b.json", "with space", "06_eval"):
        for suffix in ("", "-old", Path(name).suffix):
            found = files._temporary(tmp_path / name, suffix)
            match = files._TEMPORARY.match(found.name)
            assert match and match["name"] == name and int(match["pid"]) == os.getpid() and found.parent == tmp_path
            assert bool(match["old"]) == (suffix == "-old")
            made.add(found)
    assert len(made) == 15


# --------------------------------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize("fails", ["replace", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("write", [
    lambda path: files.write_text("new", path), lambda path: files.write_json({"a": 1}, path),
    lambda path: files.write_jsonl([{"a": 1}], path), lambda path: files.write_parquet([{"a": 1}], path),
])
def test_a_disk_that_is_full_at_the_last_step_keeps_the_old_file(tmp_path, monkeypatch, write, fails, number):
    path = tmp_path / "x"
    files.write_text("old", path)

    def full(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, fails, full)
        with pytest.raises(UserError, match=r"^The disk is full: .*x was not written; free some space and run the"):
            write(path)
    assert [one.name for one in tmp_path.iterdir()] == ["x"] and path.read_text() == "old"


def test_a_disk_that_is_full_while_a_folder_is_put_in_place_keeps_the_old_one(tmp_path, monkeypatch):
    """The second rename fails, after the first has moved the old folder away."""
    path = tmp_path / "x"
    (path / "old").mkdir(parents=True)
    renamed, calls = os.replace, []

    def full(old, new):
        calls.append(new)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        renamed(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(UserError, match="^The disk is full"), files.whole_folder(path) as new:
            (new / "new").mkdir()
    assert [one.name for one in tmp_path.iterdir()] == ["x"] and [one.name for one in path.iterdir()] == ["old"]


def test_another_error_of_the_disk_is_not_called_a_full_one(tmp_path):
    with pytest.raises(PermissionError), files.whole_file(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "no")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- what is not there


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project's root with two params files."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("params/demo.yaml", "run: demo\n"), ("params/deep/claims.yml", '# a\nrun: "claims"  # b\n'),
                       ("params/other.yaml", "seed: 1\nrunner: demo2\n")):  # fmt: skip
        files.write_text(text, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(("run_name", "ending"), [
    ("demo", ", or ./run_all.sh params/demo.yaml."),
    ("claims", ", or ./run_all.sh params/deep/claims.yml."),
    ("claims.csp.0", ", or ./run_all.sh params/deep/claims.yml."),  # a branch of it
    ("demo2", ", or ./run_all.sh with a params file whose run is demo2."),
    ("dem", ", or ./run_all.sh with a params file whose run is dem."),
])
def test_a_missing_result_is_named_with_the_params_file_of_its_run(root, run_name, ending):
    path = run.RunPaths(run_name)["sft/checkpoint"]
    assert str(run.missing(path)) == f"{path} is missing; run notebook 04_sft with run = {run_name!r}{ending}"


def test_a_missing_file_of_nobodys_has_no_maker(root):
    assert str(run.missing("my/rows.csv")) == "my/rows.csv is missing; check the path, or make the file first."


def test_readers_and_writers_do_not_depend_on_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_json({"a": 1}, "deep/x.json")
    assert files.portable("deep/x.json") == "deep/x.json" == files.portable(tmp_path / "deep" / "x.json")
    assert files.portable("/elsewhere/x") == "/elsewhere/x"
    shutil.rmtree(tmp_path / "deep")


def test_a_row_may_have_a_column_that_the_first_row_lacks(tmp_path):
    """The first log line of a float16 training has no grad_norm; formerly, the whole column was lost."""
    files.write_parquet([{"step": 1}, {"step": 2, "grad_norm": 0.5}], tmp_path / "log.parquet")
    found = files.read_parquet(tmp_path / "log.parquet")
    assert found["step"].tolist() == [1, 2] and found["grad_norm"].tolist()[1] == 0.5 and found["grad_norm"].isna()[0]


@pytest.mark.parametrize("content", ["no json", "[]", '{"version": 2}', '{"files": ["a"]}', '{"files": {"a": 1}}'])
def test_a_manifest_of_another_tool_compares_nothing(tmp_path, content):
    """Formerly a KeyError, for any model beside which another tool keeps a MANIFEST.json."""
    (tmp_path / files.MANIFEST).write_text(content)
    files.check_manifest(tmp_path)
