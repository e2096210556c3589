"""The Snakefile and run_notebook, on a project of two notebooks: what runs, what runs again, how failures look."""

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
from conftest import PARAMS, ROOT, Project

from csp_utils.base.params import NOTEBOOKS
from csp_utils.pipeline import run as pipeline

BRANCHES = PARAMS + "each: {01_extract: {keyword_model: some/model}}\nseeds: [0, 1, 2]\nbranches: {a: {}, b: {}}\n"
SLEEP = "from csp_utils.base import process\nprocess.stream([sys.executable, '-c', 'import time; print(1); time.sleep(600)'], paths.root / 'x.log')"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Project, str]:
    """A project whose pipeline has run, and what it said."""
    project = Project(tmp_path_factory.mktemp("finished"))
    run = project.run()
    assert run.returncode == 0, run.stdout
    return project, run.stdout


def reruns(project: Project) -> set[str]:
    """The notebooks that a dry run would run."""
    run = project.run("--dry-run")
    assert run.returncode == 0, run.stdout
    return set(re.findall(r"rule notebook_(\w+):", run.stdout))


def test_steps_name_inputs_code_and_outputs(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    extract, mask = pipeline.steps("params/mini.yaml")
    assert extract.parameters["n_rows"] == 3 and extract.run_folder == "outputs/mini"
    assert extract.inputs == ["rows.csv"] and extract.outputs == ["outputs/mini/keywords.parquet"]
    assert "outputs/mini/keywords.parquet" in mask.inputs
    assert {Path(file).name for file in extract.code} >= {"01_extract.ipynb", "stage_one.py", "stage_two.py"}
    assert not {"params.py", "notebook.py", "pipeline.py"} & {Path(file).name for file in extract.code}
    assert "csp_utils/stage_two.py" not in mask.code


def test_the_report_follows_everything(monkeypatch):
    if any(not (ROOT / "notebooks" / f"{name}.ipynb").is_file() for name in NOTEBOOKS):
        pytest.skip("not every notebook exists yet")
    monkeypatch.chdir(ROOT)
    *earlier, report, claims = pipeline.steps("params/smoke.yaml")
    assert (report.name, claims.name) == ("09_report", "11_claims")
    assert {output for step in earlier for output in step.outputs} <= set(report.inputs)


def test_the_claims_follow_every_run_of_the_file(monkeypatch):
    monkeypatch.chdir(ROOT)
    *earlier, claims = pipeline.steps("params/tiny_claims.yaml")
    assert claims.name == "11_claims" and claims.run_folder == "outputs/claims"
    asked = {step.run_folder for step in earlier if step.name == "06_eval"}
    assert {f"outputs/{run}" for run in claims.parameters["runs"]} == asked - {"outputs/claims"}
    assert {f"{folder}/responses.parquet" for folder in asked} <= set(claims.inputs)
    stressed = {f"{step.run_folder}/stress.parquet" for step in earlier if step.name == "08_stress"}
    assert stressed == {file for file in claims.inputs if file.endswith("stress.parquet")}
    assert len({step.rule for step in [*earlier, claims]}) == len(earlier) + 1


@pytest.mark.slow
@pytest.mark.parametrize("path", ["params/tiny_claims.yaml", "params/paper/all.yaml"])
def test_a_dry_run_shows_every_notebook_and_part_and_makes_nothing(tmp_path, path):
    for name in ("csp_utils", "notebooks", "params", "assets"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "Snakefile").write_bytes((ROOT / "Snakefile").read_bytes())
    command = [sys.executable, "-m", "snakemake", "--config", f"params={path}", "-n", "--cores", "2",
               "--quiet", "host"]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                         text=True, timeout=300)  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    steps = pipeline.steps(path)
    expected = {step.rule for step in steps} | {f"{step.rule}_part" for step in steps if step.parts}
    assert set(re.findall(r"rule (notebook_\w+):", run.stdout + run.stderr)) == expected
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_branch_that_fails_does_not_stop_the_others(project):
    project.notebook("01_extract", "from csp_utils.base.files import write_text", "assert p.n_rows != 2, 'two'",
                     "write_text('1', paths["keywords.parquet"])")  # fmt: skip
    project.params.write_text(PARAMS + "each: {01_extract: {keyword_model: some/model}}\nseeds: [0]\n"
                              "branches: {bad: {01_extract: {n_rows: 2}}, good: {01_extract: {n_rows: 1}}}\n")
    run = project.run("--cores", "1")
    assert run.returncode == 1 and "bad.0 01_extract  " in run.stdout and "FAILED" in run.stdout
    assert (project.folder / "outputs/mini.good.0/keywords.parquet").exists()
    assert (project.folder / "outputs/mini/masks.parquet").exists()


@pytest.mark.slow
def test_a_run_says_where_it_is_and_what_it_made(finished):
    project, said = finished
    assert "[1/2] 01_extract" in said and "[2/2] 02_mask" in said and "2 of 2 notebooks run" in said
    assert (project.folder / "outputs/mini/masks.parquet").read_text() == "3"
    copy = json.loads((project.folder / "outputs/mini/notebooks/01_extract.ipynb").read_text())
    assert any("n_rows = 3" in "".join(cell["source"]) for cell in copy["cells"])
    assert not (project.folder / "outputs/mini/notebooks/failed").exists()


@pytest.mark.slow
def test_a_second_run_has_nothing_to_do(finished):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run = finished[0].run()
    assert run.returncode == 0 and "nothing to do" in run.stdout and "[1/2]" not in run.stdout
    # Of processor time, which a busy machine does not stretch; nearly all of it is Snakemake's imports.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 15


@pytest.mark.slow
@pytest.mark.parametrize(("file", "old", "new", "expected"), [
    ("csp_utils/stage_two.py", "MARK = 1", "MARK = 2", {"01_extract", "02_mask"}),
    ("csp_utils/base/params.py", "import re", "import re  #", set()),
    ("notebooks/02_mask.ipynb", "Part 1", "Part one", {"02_mask"}),
    ("params/mini.yaml", "02_mask:", "02_mask:\n  box_threshold: 0.4", {"02_mask"}),
    ("params/mini.yaml", "run: mini", "run: mini\nseed: 0", set()),
    ("rows.csv", "b", "d", {"01_extract", "02_mask"}),
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
@pytest.mark.parametrize(("cell", "reason"), [
    ("def f(): return 1 / 0\nf()", "ZeroDivisionError: division by zero"),
    ("from csp_utils.base.errors import UserError\nraise UserError('The image a.png is truncated; delete it.')",
     "\n\nThe image a.png is truncated; delete it.\n\n"),
    ("raise OSError(28, 'No space left on device')", "The disk is full"),
    ("import os\nos._exit(9)", "kernel died"),
    ("x = 1", "It ran to its end, but outputs/mini/keywords.parquet is not there"),
])
def test_a_failure_names_notebook_cell_reason_and_copy(project, cell, reason):
    project.notebook("01_extract", "x = 0", cell)
    command = [sys.executable, "-m", "csp_utils.pipeline.run_notebook", "notebooks/01_extract.ipynb", "outputs/mini",
               json.dumps({"run": "mini", "rlaif_v": "rows.csv", "keyword_model": "some/model"})]
    run = subprocess.run(command, cwd=project.folder, env=project.env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 1
    assert re.search(r'Notebook 01_extract failed in cell \d of 7, under "Part 2"', run.stdout), run.stdout
    assert reason in run.stdout
    assert "Traceback" not in run.stderr
    assert "outputs/mini/notebooks/failed/01_extract.ipynb" in run.stdout
    assert (project.folder / "outputs/mini/notebooks/failed/01_extract.ipynb").exists()
    assert not (project.folder / "outputs/mini/notebooks/01_extract.ipynb").exists()


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
    project.notebook("01_extract", "import sys", SLEEP)
    project.params.write_text(text)
    process = subprocess.Popen(project.command(), cwd=project.folder, env=project.env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 300
        said_first = (project.folder / "outputs").glob
        while not any(log.stat().st_size for log in said_first("*/.x.tmp.log")):  # the subprocess of a cell runs
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.2)
        family = psutil.Process(process.pid).children(recursive=True)
        commands = [" ".join(member.cmdline()) for member in family]
        process.send_signal(sign)
        said = process.communicate(timeout=120)[0]
    finally:
        process.terminate()
    assert any("time.sleep(600)" in command for command in commands)
    assert process.returncode == 130 and "Stopped. Nothing half-written is left" in said and "Traceback" not in said
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family)
    assert not [each for each in psutil.process_iter() if each.status() != psutil.STATUS_ZOMBIE
                and "run_notebook" in str(each.cmdline()) and Path(each.cwd()) == project.folder]
    left = {path.name for path in (project.folder / "outputs").rglob("*") if path.is_file()}
    assert left <= {".lock", "snakemake.log"}
    project.notebook("01_extract", "from csp_utils.base.files import write_text", "write_text('3', paths["keywords.parquet"])")
    again = project.run()
    assert again.returncode == 0, again.stdout


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path):
    from csp_utils.pipeline.run import sweep

    for name in (".keywords.tmp.parquet", "sub/.log.tmp.txt", "keywords.parquet", ".lock", "sub/a.tmp.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".dataset.tmp").mkdir()
    sweep(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"keywords.parquet", ".lock", "sub", "sub/a.tmp.txt"}


@pytest.mark.slow
def test_two_at_once_on_one_run(project):
    folder = project.folder / "outputs" / "mini"
    holder = "import sys, time\nfrom pathlib import Path\nfrom csp_utils.pipeline.run import _alone\n" \
             "with _alone(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", holder, str(folder)], env=project.env, text=True,
                               stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "held\n"
        run = project.run()
        assert run.returncode == 1 and "Another ./run_all.sh is writing outputs/mini" in run.stdout
    finally:
        process.kill()
        process.communicate()


def test_help_needs_no_environment():
    path = {"PATH": os.environ["PATH"]}
    run = subprocess.run([ROOT / "run_all.sh", "--help"], capture_output=True, text=True, env=path)
    assert run.returncode == 0
    assert all(word in run.stdout for word in ("Hardware", "Time", "Disk", "Usage: ./run_all.sh [PARAMS_FILE]"))
