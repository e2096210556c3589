"""Results are computed once, published whole or not at all, and computed again when their origin has changed."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from csp_utils.base import files
from csp_utils.base.errors import UserError
from csp_utils.base.run import RunPaths
from csp_utils.results import code, digest, origin
from csp_utils.results import produce as results
from csp_utils.results.origin import Origin
from csp_utils.results.produce import cached, produce, record_file, why_not_current
from csp_utils.stages import _foreign

MODULE = '''"""A stage that counts rows."""
from pathlib import Path

import numpy

from csp_utils.base.params import Params
from csp_utils.results.stage import Job, Stage

FACTOR = 10


class Count(Params):
    """Parameters."""

    rows: str = "rows.csv"
    n: int = 1
    device: str = "auto"
    shards: int = 1


def hook(job):
    """Tests put something in its place."""


def reads(p, paths):
    return {"rows": Path(p.rows), "before": paths["before.txt"]}


def looks_at(p, paths):
    return {"notes": paths["notes.txt"]}


def also_makes(p, paths):
    return [paths.root.parent / "model"]


def scraps(p, paths):
    return [paths["scraps"]]


def compute(job):
    """Write count.txt and the folder table."""
    with open("computed.log", "a") as log:
        log.write("computed\\n")
    (job.out / "count.txt").write_text(str(numpy.prod([job.p.n, FACTOR])))
    hook(job)
    (job.out / "table").mkdir()
    (job.out / "table" / "a.txt").write_text(Path(job.p.rows).read_text())
    also_makes(job.p, job.paths)[0].mkdir(exist_ok=True)


STAGE = Stage("20_count", Count, compute, makes=("count.txt", "table"), reads=reads, looks_at=looks_at,
              also_makes=also_makes, scraps=scraps)
'''


class Case:
    """A stage in a temporary folder that is the current one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.paths, self.said = folder, RunPaths("r"), []
        (folder / "count.py").write_text(MODULE)
        (folder / "rows.csv").write_text("1\n2\n")
        self.paths.root.mkdir(parents=True)
        self.paths["before.txt"].write_text("before")
        self.load()

    def load(self) -> None:
        self.stage = _foreign(self.folder / "count.py")
        self.module = sys.modules["csp_stage_count"]
        code._module.cache_clear()

    def __call__(self, paths: RunPaths | None = None, **values) -> list[str]:
        """Produce, and return what was said."""
        said: list[str] = []
        produce(self.stage, self.stage.params(**values), paths or self.paths, say=said.append)
        return said

    @property
    def computed(self) -> int:
        log = self.folder / "computed.log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def snapshot(self) -> dict[str, bytes]:
        """Everything in the run's folder but locks."""
        return {str(file.relative_to(self.paths.root)): file.read_bytes() for file in self.paths.root.rglob("*")
                if file.is_file() and ".locks" not in file.parts}  # fmt: skip


@pytest.fixture
def case(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digest._database.cache_clear()
    yield Case(tmp_path)
    digest._database.cache_clear()
    code._module.cache_clear()
    sys.modules.pop("csp_stage_count", None)


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --------------------------------------------------------------------------------------------------- once, and again


def test_it_is_computed_once(case):
    assert why_not_current(case.stage, case.stage.params(), case.paths) == ["never computed"]
    assert case() == []
    first = case.snapshot()
    assert first["count.txt"] == b"10" and first["table/a.txt"] == b"1\n2\n"
    (said,) = case()
    assert said.startswith("20_count: used as computed on 20") and "are the same" in said
    assert case.computed == 1 and case.snapshot() == first


def test_the_record_says_what_the_results_were_made_from(case):
    case(n=3)
    found, more = origin.read_record(record_file(case.stage, case.paths))
    assert found.what == "20_count" and found.parameters == {"n": 3, "seed": 0}
    assert found.inputs == {"rows": digest.digest("rows.csv"), "before": digest.digest(case.paths["before.txt"])}
    assert set(found.code) == {"count.py"} and {"numpy", "python"} <= set(found.libraries)
    assert more["results"] == {name: digest.digest(case.paths[name]) for name in ("count.txt", "table")}
    assert set(more) == {"key", "made", "seconds", "results"}


def change_code(case):
    (case.folder / "count.py").write_text(MODULE.replace("FACTOR = 10", "FACTOR = 20"))
    case.load()


@pytest.mark.parametrize(("change", "values", "said"), [
    (lambda case: None, {"n": 2}, "n was 1 and is 2"),
    (lambda case: None, {"seed": 1}, "seed was 0 and is 1"),
    (lambda case: Path("rows.csv").write_text("3\n4\n"), {}, "rows changed"),
    (lambda case: case.paths["before.txt"].write_text("other"), {}, "before changed"),
    (lambda case: case.paths["notes.txt"].write_text("new"), {}, "notes changed"),  # looked at where it is there
    (change_code, {}, "the code of count.py changed"),
    (lambda case: case.paths["count.txt"].unlink(), {}, "outputs/r/count.txt is missing"),
    (lambda case: shutil.rmtree(case.paths["table"]), {}, "outputs/r/table is missing"),
    (lambda case: shutil.rmtree("outputs/model"), {}, "outputs/model is missing"),
    (lambda case: case.paths["count.txt"].write_text("99"), {}, "count.txt is not what was computed"),
    (lambda case: (case.paths["table"] / "a.txt").write_text("9"), {}, "table is not what was computed"),
    (lambda case: (case.paths["table"] / "b.txt").write_text("9"), {}, "table is not what was computed"),
    (lambda case: record_file(case.stage, case.paths).unlink(), {}, "it has no record of its origin"),
    (lambda case: record_file(case.stage, case.paths).write_text("{"), {}, "it has no record of its origin"),
])
def test_it_is_computed_again_and_says_why(case, change, values, said):
    case()
    change(case)
    assert case(**values) == [f"20_count is computed: {said}."] and case.computed == 2
    assert why_not_current(case.stage, case.stage.params(**values), case.paths) == []
    assert case(**values)[0].startswith("20_count: used") and case.computed == 2
    assert [one.name for one in case.paths["table"].iterdir()] == ["a.txt"]


def test_another_version_of_a_library_is_a_reason(case, monkeypatch):
    case()
    real = origin._version
    monkeypatch.setattr(origin, "_version", lambda name: "0.1" if name == "numpy" else real(name))
    (said,) = case()
    assert said.endswith("and is 0.1.") and "numpy was " in said and case.computed == 2


def test_several_reasons_are_said_together(case):
    case()
    Path("rows.csv").write_text("3")
    assert case(n=2) == ["20_count is computed: n was 1 and is 2; rows changed."]


def touch(case):
    for file in [Path("rows.csv"), *case.paths.root.rglob("*")]:
        os.utime(file, (0, 0))


def rename(case):
    case.paths.root.rename("outputs/renamed")
    case.paths = RunPaths("renamed")


def move_input(case):
    Path("rows.csv").rename("moved.csv")


def comment(case):
    (case.folder / "count.py").write_text(MODULE.replace("FACTOR = 10", "# said\nFACTOR = 10").replace("Write c", "C"))
    case.load()


@pytest.mark.parametrize(("change", "values"), [
    (lambda case: None, {"device": "cpu"}), (lambda case: None, {"shards": 7}), (lambda case: None, {"run": "other"}),
    (touch, {}), (rename, {}), (move_input, {"rows": "moved.csv"}), (comment, {}),
    (lambda case: (case.paths.root / ".hidden").write_text("x"), {}),
    (lambda case: (case.paths["table"] / ".ipynb_checkpoints").mkdir(), {}),
])
def test_what_changes_no_result_is_no_reason(case, change, values):
    case()
    change(case)
    (said,) = case(**values)
    assert said.startswith("20_count: used as computed on") and case.computed == 1


def test_each_run_has_its_own_results(case):
    case()
    other = RunPaths("s")
    other.root.mkdir()
    other["before.txt"].write_text("before")
    shutil.rmtree("outputs/model")  # which both make
    assert case(other) == [] and case.computed == 2
    assert why_not_current(case.stage, case.stage.params(), case.paths) == []


def test_what_helped_is_removed_at_the_end_alone(case, monkeypatch):
    for folder in ("scraps", "shards/20_count/1of2", "shards/02_mask/1of2"):
        case.paths[folder].mkdir(parents=True)
    monkeypatch.setattr(case.module, "hook", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        case()
    assert case.paths["scraps"].is_dir() and case.paths["shards/20_count/1of2"].is_dir()
    monkeypatch.setattr(case.module, "hook", lambda job: None)
    case()
    assert not case.paths["scraps"].exists() and not case.paths["shards/20_count"].exists()
    assert case.paths["shards/02_mask/1of2"].is_dir()


# ------------------------------------------------------------------------------------------------- all, or nothing


@pytest.mark.parametrize("error", [ValueError, UserError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_stage_that_raises_in_the_middle_leaves_everything_as_it_was(case, monkeypatch, error):
    case()
    before = case.snapshot()

    def raise_it(job):
        assert (job.out / "count.txt").read_text() == "20"
        raise error("no")

    monkeypatch.setattr(case.module, "hook", raise_it)
    with pytest.raises(error):
        case(n=2)
    assert case.snapshot() == before and not list(case.paths.root.rglob("*.tmp-*"))
    assert case(n=1)[0].startswith("20_count: used") and case.computed == 2  # the old results are still good
    monkeypatch.setattr(case.module, "hook", lambda job: None)
    assert case(n=2) == ["20_count is computed: n was 1 and is 2."]


def test_a_first_computation_that_fails_leaves_nothing(case, monkeypatch):
    before = case.snapshot()
    monkeypatch.setattr(case.module, "hook", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        case()
    assert case.snapshot() == before


@pytest.mark.parametrize(("change", "said"), [
    (lambda job: Path("rows.csv").write_text("9"), "rows changed"),
    (lambda job: Path("rows.csv").unlink() or Path("rows.csv").mkdir(), "rows changed"),
    (lambda job: job.paths["before.txt"].unlink(), "before changed"),
    (lambda job: job.paths["notes.txt"].write_text("9"), "notes changed"),
])
def test_an_input_that_changes_meanwhile_publishes_nothing(case, monkeypatch, change, said):
    case()
    before = {name: text for name, text in case.snapshot().items() if name in ("count.txt", "table/a.txt")}
    (case.folder / "count.py").write_text(MODULE.replace("Path(job.p.rows).read_text()", '"x"'))
    case.load()
    monkeypatch.setattr(case.module, "hook", change)
    with pytest.raises(UserError, match=f"^While 20_count was computed, {said}; .*nothing was published, run it again"):
        case(n=2)
    assert {name: case.snapshot()[name] for name in before} == before and not list(case.paths.root.rglob("*.tmp-*"))
    assert origin.read_record(record_file(case.stage, case.paths))[0].parameters["n"] == 1


@pytest.mark.parametrize(("old", "absent"), [
    ('    (job.out / "table").mkdir()\n    (job.out / "table" / "a.txt").write_text(Path(job.p.rows).read_text())\n',
     "table"),
    ("    also_makes(job.p, job.paths)[0].mkdir(exist_ok=True)\n", "outputs/model"),
])
def test_a_stage_that_forgets_a_result_is_one_sentence(case, old, absent):
    assert old in MODULE
    (case.folder / "count.py").write_text(MODULE.replace(old, ""))
    case.load()
    with pytest.raises(UserError, match=f"^20_count ran to its end, but has not made {absent}; mend its comp") as error:
        case()
    assert "\n" not in str(error.value)
    assert not case.paths["count.txt"].exists() and not record_file(case.stage, case.paths).exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_while_it_computes_leaves_everything_as_it_was(case, monkeypatch, number):
    case()
    before = case.snapshot()

    def fail(job):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(case.module, "hook", fail)
    with pytest.raises(UserError, match="^The disk is full: .*free some space and run the same command again") as error:
        case(n=2)
    assert "\n" not in str(error.value) and case.snapshot() == before


@pytest.mark.parametrize("good", range(5))
def test_a_full_disk_while_it_publishes_leaves_whole_results_and_no_false_record(case, monkeypatch, good):
    """Renames fail from one of them on: 1 count.txt, 2 the old table away, 3 the new one there, 4 the record."""
    case()
    Path("rows.csv").write_text("3")
    renamed, calls = os.replace, []

    def rename(old, new):
        calls.append(new)
        return renamed(old, new) if len(calls) <= good else full()

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", rename)
        try:
            case(n=2)
            assert good == 4
        except UserError as error:
            assert str(error).startswith("The disk is full: ") and "\n" not in str(error) and good < 4
    files.sweep(case.paths.root)
    found = case.snapshot()
    assert found["count.txt"] in (b"10", b"20")
    if good != 2:  # the folder's way back was refused as well; it is under its temporary name until this process ends
        assert found["table/a.txt"] in (b"1\n2\n", b"3")
    if good < 4:
        assert why_not_current(case.stage, case.stage.params(n=2), case.paths) != []
        case(n=2)
    assert (case.snapshot()["count.txt"], case.snapshot()["table/a.txt"]) == (b"20", b"3")
    assert why_not_current(case.stage, case.stage.params(n=2), case.paths) == []


# ----------------------------------------------------------------------------------------------------- other processes


RUN = """
import os, signal, sys, time
from pathlib import Path
from csp_utils.base import files
from csp_utils.results.produce import produce
from csp_utils.base.run import RunPaths
from csp_utils.stages import _foreign
stage = _foreign(Path("count.py").resolve())
module = sys.modules["csp_stage_count"]
{before}
produce(stage, stage.params(n=2), RunPaths("r"), say=lambda text: print(text, flush=True))
"""


def process(case, before: str = "", code: str = RUN) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code.format(before=before)], cwd=case.folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})


UNTIL_GO = "(Path('half').touch(), [time.sleep(.02) for _ in iter(lambda: Path('go').exists(), True)])"
"""What a process does in the middle of its computation: it says so, and waits until the test lets it go on."""


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


def test_a_kill_in_the_middle_leaves_the_old_results_whole(case):
    case()
    before = case.snapshot()
    run = process(case, "module.hook = lambda job: (Path('half').touch(), time.sleep(60))")
    wait_for(case.folder / "half")
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=30)
    left = case.snapshot()
    assert {name: text for name, text in left.items() if ".tmp-" not in name} == before
    assert len(left) > len(before)
    assert case(n=1)[0].startswith("20_count: used")  # the lock went with the process
    files.sweep(case.paths.root)
    assert case.snapshot() == before
    assert case(n=2) == ["20_count is computed: n was 1 and is 2."] and case.snapshot()["count.txt"] == b"20"


@pytest.mark.parametrize("renames", [1, 2, 3])
def test_a_kill_while_it_publishes_is_noticed(case, renames):
    case()
    before = ("real, left = os.replace, [{n}]\ndef rename(old, new):\n    real(old, new)\n    left[0] -= 1\n"
              "    left[0] or os._exit(9)\nos.replace = rename").replace("{n}", str(renames))  # fmt: skip
    run = process(case, before)
    run.communicate(timeout=60)
    assert run.returncode == 9
    files.sweep(case.paths.root)
    assert case.snapshot()["count.txt"] == b"20" and case.snapshot()["table/a.txt"] == b"1\n2\n"
    assert case(n=2) == ["20_count is computed: it has no record of its origin."]
    assert why_not_current(case.stage, case.stage.params(n=2), case.paths) == []


def test_of_two_at_once_one_computes_and_the_other_waits_and_uses(case):
    first = process(case, f"module.hook = lambda job: {UNTIL_GO}")
    wait_for(case.folder / "half")
    second = process(case)
    assert second.stdout.readline() == "20_count of outputs/r is being computed by another process; waiting for it.\n"
    (case.folder / "go").touch()
    used, wrong = second.communicate(timeout=60)
    assert second.returncode == 0, wrong
    assert first.communicate(timeout=60) == ("", "") and first.returncode == 0
    assert used.startswith("20_count: used as computed on") and used.count("\n") == 1 and case.computed == 1


def test_who_waits_for_one_that_fails_computes_itself(case):
    first = process(case, f"module.hook = lambda job: ({UNTIL_GO}, 1 / 0)")
    wait_for(case.folder / "half")
    second = process(case)
    assert second.stdout.readline().startswith("20_count of outputs/r is being computed by another process")
    (case.folder / "go").touch()
    told, wrong = second.communicate(timeout=60)
    assert second.returncode == 0, wrong
    assert "ZeroDivisionError" in first.communicate(timeout=60)[1] and first.returncode == 1
    assert told == "" and case.computed == 2
    assert case.snapshot()["count.txt"] == b"20"


def test_two_stages_of_a_run_at_once_do_not_disturb_each_other(case):
    (case.folder / "other.py").write_text(MODULE.replace("20_count", "21_other").replace('"count.txt"', '"other.txt"')
                                          .replace('"table"', '"other"').replace('"model"', '"other_model"'))
    slow = process(case, f"module.hook = lambda job: {UNTIL_GO}")
    wait_for(case.folder / "half")
    fast = process(case, code=RUN.replace("count.py", "other.py").replace("csp_stage_count", "csp_stage_other"))
    assert fast.communicate(timeout=60) == ("", "") and slow.poll() is None
    (case.folder / "go").touch()
    assert slow.communicate(timeout=60) == ("", "")
    assert {"count.txt", "other.txt", "table/a.txt", "other/a.txt"} <= set(case.snapshot())
    assert not list(case.paths.root.rglob("*.tmp-*"))


# ------------------------------------------------------------------------------------------------------ cached folders


ONE, TWO = Origin("replies of base", {"n": 1}), Origin("replies of base", {"n": 2})


class Maker:
    """Fills a folder, and counts how often."""

    def __init__(self, fails: BaseException | None = None) -> None:
        self.calls, self.fails = 0, fails

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "a.txt").write_text(str(self.calls))
        if self.fails:
            raise self.fails


def names(folder: Path) -> set[str]:
    return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file() and one.suffix != ".lock"}


def test_a_cached_folder_is_made_once_for_an_origin(tmp_path):
    make, said, folder = Maker(), [], tmp_path / "deep" / "base"
    for _ in range(2):
        assert cached(folder, ONE, make, said.append) == folder
    assert make.calls == 1 and said == [] and names(tmp_path) == {"deep/base/a.txt", "deep/base/ORIGIN.json"}
    cached(folder, TWO, make, said.append)
    assert make.calls == 2 and said == ["replies of base: made again, because n was 1 and is 2."]
    cached(folder, ONE, make, said.append)
    assert make.calls == 3 and (folder / "a.txt").read_text() == "3"  # only the last is kept


@pytest.mark.parametrize("damage", [
    lambda folder: shutil.rmtree(folder), lambda folder: (folder / "ORIGIN.json").unlink(),
    lambda folder: (folder / "ORIGIN.json").write_text('{"origin": {'),
])
def test_a_cached_folder_without_a_record_is_made_again(tmp_path, damage):
    make = Maker()
    cached(tmp_path / "base", ONE, make)
    (tmp_path / "base" / "old.txt").touch()
    damage(tmp_path / "base")
    cached(tmp_path / "base", ONE, make)
    assert make.calls == 2 and names(tmp_path / "base") == {"a.txt", "ORIGIN.json"}


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_maker_that_fails_leaves_the_older_folder(tmp_path, error):
    cached(tmp_path / "base", ONE, Maker())
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
        cached(tmp_path / "base", TWO, Maker(error))
    assert names(tmp_path) == {"base/a.txt", "base/ORIGIN.json"}
    again = Maker()
    cached(tmp_path / "base", ONE, again)
    assert again.calls == 0


CACHED = """
import os, sys, time
from pathlib import Path
from csp_utils.results.origin import Origin
from csp_utils.results.produce import cached
def make(folder):
    with open("computed.log", "a") as log:
        log.write("made\\n")
    {before}
    (folder / "a.txt").write_text("a")
print(cached(Path("deep/base"), Origin("x"), make), flush=True)
"""


def test_of_two_that_want_a_folder_one_makes_it(case):
    first = process(case, UNTIL_GO, CACHED)
    wait_for(case.folder / "half")
    second = process(case, "pass", CACHED)
    assert second.stdout.readline() == "deep/base is being made by another process; waiting.\n"
    (case.folder / "go").touch()
    assert second.communicate(timeout=60)[0] == "deep/base\n"
    assert first.communicate(timeout=60)[0] == "deep/base\n" and case.computed == 1


def test_a_kill_in_the_middle_of_a_folder_leaves_none(case):
    run = process(case, "Path('half').touch(); time.sleep(60)", CACHED)
    wait_for(case.folder / "half")
    run.kill()
    run.communicate()
    assert not (case.folder / "deep" / "base").exists()
    files.sweep(case.folder / "deep")
    assert names(case.folder / "deep") == set()
    assert process(case, "pass", CACHED).communicate(timeout=60)[0] == "deep/base\n"


def test_times_are_said_and_do_not_decide(tmp_path, monkeypatch):
    make = Maker()
    cached(tmp_path / "base", ONE, make)
    monkeypatch.setattr(results, "_now", lambda: "another day")
    cached(tmp_path / "base", ONE, make)
    assert make.calls == 1
    assert "made" in json.loads((tmp_path / "base" / "ORIGIN.json").read_text())
