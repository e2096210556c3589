"""Test the pipeline on a project of two small stages: runs, reruns, kept results and failure messages."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import COUNT, PARAMS, ROOT, Project

from csp_utils.pipeline import graph
from csp_utils.stages import stages

BRANCHES = PARAMS + "each: {20_count: {}}\nseeds: [0, 1, 2]\nbranches: {a: {}, b: {}}\n"
SLEEP = ("from csp_utils.base import process\n"
         "process.stream([sys.executable, '-c', 'import time; print(1); time.sleep(600)'], paths.root / 'x.log')")
TWO_HOURS = 7200


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Project, str]:
    """Return a project whose pipeline has run, and its output."""
    project = Project(tmp_path_factory.mktemp("finished"))
    run = project.run()
    assert run.returncode == 0, run.stdout
    return project, run.stdout


def reruns(project: Project) -> set[str]:
    """Return the notebooks that would run: the stale ones, and those that read what these write."""
    ask = ("from csp_utils.pipeline import graph\n"
           "plan = graph.steps('params/mini.yaml')\n"
           "again = set(graph.why_stale(plan))\n"
           "for step in plan:\n"
           "    made = {other.copy for other in plan if other.rule in again}\n"
           "    again |= {step.rule} if made & set(step.after) else set()\n"
           "print(*(step.name for step in plan if step.rule in again))")
    run = subprocess.run([sys.executable, "-c", ask], cwd=project.folder, env=project.env, text=True,
                         capture_output=True, timeout=300)  # fmt: skip
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def running(project: Project, module: str = "run_notebook") -> list[psutil.Process]:
    """Return the processes of a pipeline module that belong to the project."""
    found = []
    for process in psutil.process_iter():
        try:
            if module in str(process.cmdline()) and Path(process.cwd()) == project.folder:
                found.append(process)
        except psutil.Error:
            pass
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def wait_until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


# ------------------------------------------------------------------------------------------------------------ the graph


def test_a_step_waits_for_the_makers_of_what_it_reads(monkeypatch):
    monkeypatch.chdir(ROOT)
    by_name = {step.name: step for step in graph.steps("params/smoke.yaml")}
    copy = {name: step.copy for name, step in by_name.items()}
    assert by_name["00_tiny_world"].after == []
    assert by_name["02_mask"].after == [copy["00_tiny_world"], copy["01_extract"]]
    assert by_name["04_sft"].after == [copy["03_perturb"]]
    assert set(by_name["06_eval"].after) == {copy[name] for name in ("00_tiny_world", "04_sft", "05_simpo")}


def test_the_report_follows_everything(monkeypatch):
    monkeypatch.chdir(ROOT)
    *earlier, report, claims = graph.steps("params/smoke.yaml")
    assert (report.name, claims.name) == ("09_report", "11_claims")
    assert [step.copy for step in earlier] == report.after


def test_the_claims_follow_every_run_of_the_file(monkeypatch):
    monkeypatch.chdir(ROOT)
    *earlier, claims = graph.steps("params/tiny_claims.yaml")
    assert claims.name == "11_claims" and claims.run == "claims"
    asked = {step.run for step in earlier if step.name == "06_eval"}
    assert set(claims.parameters["runs"]) == asked - {"claims"}
    assert {step.copy for step in earlier} == set(claims.after)
    looked_at = set(map(str, claims.stage.looks_at(claims.p, claims.paths).values()))
    assert {f"outputs/{step.run}/stress.parquet" for step in earlier if step.name == "08_stress"} <= looked_at
    assert len({step.rule for step in [*earlier, claims]}) == len(earlier) + 1


def test_a_plan_file_gives_the_steps_back(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    plan = graph.steps("params/smoke.yaml")
    monkeypatch.setattr(graph, "plan_file", lambda _: tmp_path / "plan.json")
    assert graph.read_plan(graph.write_plan(plan)) == plan


@pytest.mark.slow
@pytest.mark.parametrize("path", ["params/tiny_claims.yaml", "params/paper/all.yaml"])
def test_a_dry_run_shows_every_notebook_and_shard_and_computes_nothing(tmp_path, path):
    for name in ("csp_utils", "notebooks", "params", "assets"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "Snakefile").write_bytes((ROOT / "Snakefile").read_bytes())
    command = [sys.executable, "-m", "snakemake", "--config", f"params={path}", "-n", "--cores", "2",
               "--quiet", "host"]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                         text=True, timeout=300)  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    steps = graph.steps(path)
    expected = {step.rule for step in steps} | {f"{step.rule}_shard" for step in steps if step.shards > 1}
    assert set(re.findall(r"rule (notebook_\w+):", run.stdout + run.stderr)) == expected
    assert {file.name for file in (tmp_path / "outputs").rglob("*") if file.is_file()} == {".plan.json"}


# --------------------------------------------------------------------------------------------------- runs and reruns


@pytest.mark.slow
def test_a_run_says_where_it_is_and_what_it_made(finished):
    project, said = finished
    assert "[1/2] 20_count" in said and "[2/2] 21_copy" in said and "2 of 2 notebooks run" in said
    assert (project.folder / "outputs/mini/copy.txt").read_text() == "3"
    copy = json.loads((project.folder / "outputs/mini/notebooks/20_count.ipynb").read_text())
    assert any("n_rows = 3" in "".join(cell["source"]) for cell in copy["cells"])
    assert not (project.folder / "outputs/mini/notebooks/failed").exists()
    assert project.computed() == ["count mini", "copy mini"]


@pytest.mark.slow
def test_a_second_run_has_nothing_to_do_and_says_so_at_once(finished):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run = finished[0].run()
    assert run.returncode == 0 and "nothing to do" in run.stdout and "[1/2]" not in run.stdout
    # This is processor time, which does not depend on the load of the machine.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 5


@pytest.mark.slow
@pytest.mark.parametrize(("file", "old", "new", "expected"), [
    ("csp_utils/words/mark.py", "MARK = 1", "MARK = 2", {"20_count", "21_copy"}),
    ("csp_utils/words/mark.py", "MARK = 1", '"""A docstring."""\nMARK = 1  # a comment', set()),
    ("csp_utils/base/params.py", "import re", "import re  #", set()),
    ("stages/21_copy.ipynb", "Part 1", "Part one", {"21_copy"}),
    ("stages/counting.py", '"""Writes count.txt."""', '"""Write count.txt."""', set()),
    ("stages/counting.py", "file to count", "the file", set()),
    ("params/mini.yaml", "21_copy: {}", "21_copy: {text: y}", {"21_copy"}),
    ("params/mini.yaml", "run: mini", "run: mini\nseed: 0", set()),
    ("rows.csv", "b", "d", {"20_count", "21_copy"}),
])
def test_what_changed_runs_again_with_what_depends_on_it_and_nothing_else(finished, file, old, new, expected):
    path = finished[0].folder / file
    before = path.read_text()
    assert old in before
    try:
        path.write_text(before.replace(old, new, 1))
        assert reruns(finished[0]) == expected
    finally:
        path.write_text(before)


@pytest.mark.slow
def test_a_notebook_that_runs_again_computes_only_what_changed(project):
    """A caption changes: the notebook runs again and shows it, but nothing is computed. Formerly, everything was."""
    assert project.run().returncode == 0
    path = project.folder / "stages/20_count.ipynb"
    path.write_text(path.read_text().replace("Part 2", "Another caption"))
    run = project.run()
    assert run.returncode == 0 and "2 of 2 notebooks run" in run.stdout
    assert project.computed() == ["count mini", "copy mini"]
    assert "Another caption" in (project.folder / "outputs/mini/notebooks/20_count.ipynb").read_text()
    (project.folder / "csp_utils/words/mark.py").write_text("MARK = 2\n")
    assert project.run().returncode == 0
    assert project.computed() == ["count mini", "copy mini"] * 2
    assert (project.folder / "outputs/mini/copy.txt").read_text() == "6"


@pytest.mark.slow
def test_run_all_in_jupyter_uses_what_is_there(finished):
    project = finished[0]
    cells = json.loads((project.folder / "stages/20_count.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    text = "\n".join(code).replace("run = 'demo'", "run = 'mini'").replace("n_rows = 1", "n_rows = 3")
    run = subprocess.run([sys.executable, "-c", text], cwd=project.folder / "stages", env=project.env,
                         capture_output=True, text=True)  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "20_count: used as computed on" in run.stdout and project.computed() == ["count mini", "copy mini"]


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["outputs/mini/count.txt", "outputs/mini/notebooks/20_count.ipynb"])
def test_a_result_or_a_notebook_that_is_lost_is_made_again(project, lost):
    assert project.run().returncode == 0
    (project.folder / lost).unlink()
    run = project.run()
    assert run.returncode == 0 and (project.folder / lost).exists()
    again = ["count mini"] if lost.endswith("txt") else []  # its content is the same, so nothing else has to run
    assert project.computed() == ["count mini", "copy mini", *again]


@pytest.mark.slow
@pytest.mark.parametrize("late", ["csp_utils/words/mark.py", "outputs/mini/notebooks/20_count.ipynb",
                                  "outputs/mini/count.txt"])
def test_a_file_that_is_dated_in_the_future_is_a_file_like_others(project, late):
    """Formerly, every notebook ran completely at each call, and then Snakemake deleted its output."""
    if late.startswith("outputs"):
        assert project.run().returncode == 0
    ahead = time.time() + TWO_HOURS
    os.utime(project.folder / late, (ahead, ahead))
    for _ in range(2):
        run = project.run()
        assert run.returncode == 0, run.stdout
        assert (project.folder / "outputs/mini/copy.txt").read_text() == "3"
    assert "nothing to do" in run.stdout
    assert project.computed() == ["count mini", "copy mini"]


# ---------------------------------------------------------------------------------------------------- what survives


@pytest.mark.slow
def test_a_cell_that_fails_after_the_computation_loses_nothing(project):
    """Formerly, Snakemake deleted the results of a notebook whose last figure failed, and the older results too."""
    project.notebook("20_count", "notebook.compute(p)", "1 / 0")
    run = project.run()
    assert run.returncode == 1 and "ZeroDivisionError" in run.stdout
    assert (project.folder / "outputs/mini/count.txt").read_text() == "3"
    again = project.run()
    assert again.returncode == 1 and project.computed() == ["count mini"]
    project.notebook("20_count", "notebook.compute(p)", "1 / 1")
    assert project.run().returncode == 0
    assert project.computed() == ["count mini", "copy mini"]


@pytest.mark.slow
def test_a_rerun_that_fails_leaves_the_results_of_the_run_before(project):
    assert project.run().returncode == 0
    broken = COUNT.replace("log.write(", "raise MemoryError\n        log.write(")
    (project.folder / "stages/counting.py").write_text(broken)
    run = project.run()
    assert run.returncode == 1 and "MemoryError" in run.stdout
    assert (project.folder / "outputs/mini/count.txt").read_text() == "3"
    (project.folder / "stages/counting.py").write_text(COUNT)
    assert project.run().returncode == 0
    assert project.computed() == ["count mini", "copy mini"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["snakemake", "pipeline"])
def test_what_a_killed_pipeline_leaves_ends_and_the_next_call_computes_alone(project, victim):
    """Test kill -9 of Snakemake or of ./run_all.sh.

    Formerly, the notebook continued, its temporary files were deleted, and the next call computed in parallel to it.
    """
    (project.folder / "stages/counting.py").write_text(COUNT.replace(
        "    (job.out", "    import time\n    while not Path('go').exists():\n        time.sleep(0.1)\n    (job.out"))
    process = subprocess.Popen(project.command(), cwd=project.folder, env=project.env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until(project.computed)
    if victim == "snakemake":
        [child] = [child for child in psutil.Process(process.pid).children() if "snakemake" in str(child.cmdline())]
        child.kill()
        process.communicate(timeout=120)
        assert process.returncode not in (0, None)
    else:
        process.kill()
        process.communicate(timeout=120)
    second = subprocess.Popen(project.command(), cwd=project.folder, env=project.env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: len(project.computed()) == 2 or second.poll() is not None)
        assert len(running(project)) == 1, "two notebooks at once"
        (project.folder / "go").touch()
        said = second.communicate(timeout=180)[0]
    finally:
        second.kill()
    assert second.returncode == 0, said
    assert (project.folder / "outputs/mini/copy.txt").read_text() == "3"
    assert not [file for file in (project.folder / "outputs").rglob(".*.tmp-*")]


@pytest.mark.slow
def test_a_branch_that_fails_does_not_stop_the_others(project):
    project.notebook("20_count", "assert p.n_rows != 2, 'two'", "notebook.compute(p)")
    project.params.write_text(PARAMS + "each: {20_count: {}}\nseeds: [0]\n"
                              "branches: {bad: {20_count: {n_rows: 2}}, good: {20_count: {n_rows: 1}}}\n")
    run = project.run("--cores", "1")
    assert run.returncode == 1 and "bad.0 20_count  " in run.stdout and "FAILED" in run.stdout
    assert (project.folder / "outputs/mini.good.0/count.txt").exists()
    assert (project.folder / "outputs/mini/copy.txt").exists()


# --------------------------------------------------------------------------------------------- a stage of one's own


OWN = '''"""A stage that a user adds."""
from pydantic import Field

from csp_utils.results.cost import Cost
from csp_utils.base.params import Params
from csp_utils.results.stage import Job, Stage


class Own(Params):
    """Parameters of notebook 30."""

    shout: bool = Field(False, description="whether to shout")


def reads(p, paths):
    """What 21 has copied."""
    return {"copy": paths["copy.txt"]}


def cost(p, paths, known):
    """A word for --plan."""
    return Cost("one word")


def compute(job):
    """Writes own.txt."""
    text = "three" if job.paths["copy.txt"].read_text() == "3" else "other"
    (job.out / "own.txt").write_text(text.upper() if job.p.shout else text)


STAGE = Stage("30_own", Own, compute, makes=("own.txt",), reads=reads, cost=cost)
'''


@pytest.mark.slow
def test_a_stage_of_ones_own_is_one_module_and_its_notebook(project, tmp_path_factory):
    """The new stage runs, and --plan, the check of a params file and the error about a missing file include it.

    No other file of the project is edited.
    """
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(OWN)
    notebook = project.notebook("30_own", "notebook.compute(p)", "print(paths['own.txt'].read_text())")
    book = json.loads(notebook.read_text())
    book["cells"][0]["source"] = "run = 'demo'\nseed = 0\nshout = False"
    (folder / notebook.name).write_text(json.dumps(book))
    notebook.unlink()
    project.params.write_text(PARAMS + "30_own: {shout: true}\n")
    env = {**project.env, "CSP_STAGES": os.pathsep.join([str(project.folder / "stages"), str(folder)]),
           "VIRTUAL_ENV": str(Path(sys.executable).parents[1])}  # fmt: skip

    def call(*command: str) -> str:
        run = subprocess.run(command, cwd=project.folder, env=env, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, timeout=300)  # fmt: skip
        return f"{run.stdout}\nstatus {run.returncode}"

    pipeline = [sys.executable, "-m", "csp_utils.pipeline.run", "params/mini.yaml"]
    assert re.search(r"30_own +one word", call(*pipeline, "--plan"))
    missing = f"from csp_utils.stages import stages\nfrom csp_utils.base.run import missing\n" \
              f"print(missing('outputs/mini/own.txt'))"  # noqa: F541
    hint = "run notebook 30_own with run = 'mini', or ./run_all.sh params/mini.yaml"
    assert hint in call(sys.executable, "-c", missing)
    said = call(*pipeline)
    assert "[3/3] 30_own" in said and said.endswith("status 0")
    assert (project.folder / "outputs/mini/own.txt").read_text() == "THREE"
    assert "nothing to do" in call(*pipeline)
    project.params.write_text(PARAMS + "30_own: {shouts: true}\n")
    said = call(*pipeline)
    assert "Unknown parameter 'shouts' in section 30_own" in said and "did you mean 'shout'?" in said
    assert set(stages) & {"20_count", "30_own"} == set()


# -------------------------------------------------------------------------------------------------------- failures


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "reason"), [
    ("def f(): return 1 / 0\nf()", "ZeroDivisionError: division by zero"),
    ("from csp_utils.base.errors import UserError\nraise UserError('The image a.png is truncated; delete it.')",
     "\n\nThe image a.png is truncated; delete it.\n\n"),
    ("raise OSError(28, 'No space left on device')", "The disk is full"),
    ("import os\nos._exit(9)", "kernel died"),
    ("x = 1", "It ran to its end, but outputs/mini/count.txt is not there"),
])
def test_a_failure_names_notebook_cell_reason_and_copy(project, monkeypatch, cell, reason):
    project.notebook("20_count", "x = 0", cell)
    write = ("from csp_utils.pipeline import graph\n"
             "graph.write_plan(graph.steps('params/mini.yaml'))")
    subprocess.run([sys.executable, "-c", write], cwd=project.folder, env=project.env, check=True)
    command = [sys.executable, "-m", "csp_utils.pipeline.run_notebook", "outputs/mini/.plan.json", "notebook_20_count",
               "0"]  # fmt: skip
    run = subprocess.run(command, cwd=project.folder, env=project.env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 1
    assert re.search(r'Notebook 20_count failed in cell \d of 7, under "Part 2"', run.stdout), run.stdout
    assert reason in run.stdout
    assert "Traceback" not in run.stderr
    assert "outputs/mini/notebooks/failed/20_count.ipynb" in run.stdout
    assert (project.folder / "outputs/mini/notebooks/failed/20_count.ipynb").exists()
    assert not (project.folder / "outputs/mini/notebooks/20_count.ipynb").exists()


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "<<<<<<< HEAD\n{}\n=======\n", "{}"])
def test_a_notebook_that_is_none_is_one_sentence(project, text):
    (project.folder / "stages/21_copy.ipynb").write_text(text)
    run = project.run()
    assert run.returncode == 1 and run.stdout.count("\n") == 1
    assert "21_copy.ipynb is no notebook that can be run" in run.stdout


@pytest.mark.slow
def test_a_wrong_params_file_stops_before_anything(project):
    project.params.write_text(PARAMS.replace("n_rows", "n_row"))
    run = project.run()
    assert run.returncode == 1
    assert run.stdout.count("\n") == 1 and "did you mean 'n_rows'?" in run.stdout
    assert not (project.folder / "outputs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("sign", "text"), [(signal.SIGINT, PARAMS), (signal.SIGTERM, BRANCHES)])
def test_a_stop_leaves_nothing_half_written_no_process_and_no_lock(project, sign, text):
    project.notebook("20_count", "import sys", SLEEP)
    project.params.write_text(text)
    process = subprocess.Popen(project.command(), cwd=project.folder, env=project.env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        said_first = (project.folder / "outputs").glob
        wait_until(lambda: any(log.stat().st_size for log in said_first("*/.x.log.tmp-*")) or process.poll(), 300)
        family = psutil.Process(process.pid).children(recursive=True)
        commands = [" ".join(member.cmdline()) for member in family]
        process.send_signal(sign)
        said = process.communicate(timeout=120)[0]
    finally:
        process.terminate()
    assert any("time.sleep(600)" in command for command in commands)
    assert process.returncode == 130 and "Stopped. Nothing half-written is left" in said and "Traceback" not in said
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family)
    assert not running(project)
    left = {path.name for path in (project.folder / "outputs").rglob("*") if path.is_file()}
    assert {name for name in left if not name.endswith(".lock")} <= {"snakemake.log", ".plan.json", ".digests.sqlite"}
    project.notebook("20_count", "notebook.compute(p)")
    again = project.run()
    assert again.returncode == 0, again.stdout


@pytest.mark.slow
def test_two_at_once_on_one_run(project):
    lock = project.folder / "outputs" / "mini" / ".lock"
    holder = "import sys, time\nfrom csp_utils.base.lock import try_lock\nlock = try_lock(sys.argv[1])\n" \
             "print('held', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", holder, str(lock)], env=project.env, text=True,
                               stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "held\n"
        run = project.run()
        assert run.returncode == 1 and "Another ./run_all.sh is writing outputs/mini" in run.stdout
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_terminal_of_no_width_is_a_terminal(project):
    import pty

    master, slave = pty.openpty()  # a new pseudo-terminal has 0 columns
    process = subprocess.Popen(project.command(), cwd=project.folder, env=project.env, stdout=slave, stderr=slave)
    os.close(slave)
    said = b""
    while process.poll() is None or said.count(b"done") < 2:
        try:
            said += os.read(master, 4096)
        except OSError:
            break
    assert process.wait(timeout=60) == 0, said.decode(errors="replace")


def test_help_needs_no_environment():
    path = {"PATH": os.environ["PATH"]}
    run = subprocess.run([ROOT / "run_all.sh", "--help"], capture_output=True, text=True, env=path)
    assert run.returncode == 0
    assert all(word in run.stdout for word in ("Hardware", "Time", "Disk", "Usage: ./run_all.sh [PARAMS_FILE]"))
