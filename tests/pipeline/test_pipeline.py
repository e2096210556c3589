"""Test the pipeline on a project of two small stages: runs, reruns, kept results and failure messages."""

import json
import os
import re
import resource
import subprocess
import sys
import time

import pytest
from conftest import COUNT, PARAMS, ROOT, Project

TWO_HOURS = 7200


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


# ------------------------------------------------------------------------------------------------------ runs and reruns


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
def test_a_notebook_that_runs_again_computes_only_what_changed(ran):
    """A caption changes: the notebook runs again and shows it, but nothing is computed. Formerly, everything was."""
    path = ran.folder / "stages/20_count.ipynb"
    path.write_text(path.read_text().replace("Part 2", "Another caption"))
    run = ran.run()
    assert run.returncode == 0 and "2 of 2 notebooks run" in run.stdout
    assert ran.computed() == ["count mini", "copy mini"]
    assert "Another caption" in (ran.folder / "outputs/mini/notebooks/20_count.ipynb").read_text()
    (ran.folder / "csp_utils/words/mark.py").write_text("MARK = 2\n")
    assert ran.run().returncode == 0
    assert ran.computed() == ["count mini", "copy mini"] * 2
    assert (ran.folder / "outputs/mini/copy.txt").read_text() == "6"


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
def test_a_result_or_a_notebook_that_is_lost_is_made_again(ran, lost):
    (ran.folder / lost).unlink()
    run = ran.run()
    assert run.returncode == 0 and (ran.folder / lost).exists()
    again = ["count mini"] if lost.endswith("txt") else []  # its content is the same, so nothing else has to run
    assert ran.computed() == ["count mini", "copy mini", *again]


@pytest.mark.slow
@pytest.mark.parametrize("late", ["csp_utils/words/mark.py", "outputs/mini/notebooks/20_count.ipynb",
                                  "outputs/mini/count.txt"])
def test_a_file_that_is_dated_in_the_future_is_a_file_like_others(request, late):
    """Formerly, every notebook ran completely at each call, and then Snakemake deleted its output."""
    project = request.getfixturevalue("ran" if late.startswith("outputs") else "project")
    ahead = time.time() + TWO_HOURS
    os.utime(project.folder / late, (ahead, ahead))
    for _ in range(2):
        run = project.run()
        assert run.returncode == 0, run.stdout
        assert (project.folder / "outputs/mini/copy.txt").read_text() == "3"
    assert "nothing to do" in run.stdout
    assert project.computed() == ["count mini", "copy mini"]


# -------------------------------------------------------------------------------------------------------- what survives


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
def test_a_rerun_that_fails_leaves_the_results_of_the_run_before(ran):
    broken = COUNT.replace("log.write(", "raise MemoryError\n        log.write(")
    (ran.folder / "stages/counting.py").write_text(broken)
    run = ran.run()
    assert run.returncode == 1 and "MemoryError" in run.stdout
    assert (ran.folder / "outputs/mini/count.txt").read_text() == "3"
    (ran.folder / "stages/counting.py").write_text(COUNT)
    assert ran.run().returncode == 0
    assert ran.computed() == ["count mini", "copy mini"]



@pytest.mark.slow
def test_a_branch_that_fails_does_not_stop_the_others(project):
    project.notebook("20_count", "assert p.n_rows != 2, 'two'", "notebook.compute(p)")
    project.params.write_text(PARAMS + "each: {20_count: {}}\nseeds: [0]\n"
                              "branches: {bad: {20_count: {n_rows: 2}}, good: {20_count: {n_rows: 1}}}\n")
    run = project.run("--cores", "1")
    assert run.returncode == 1 and "bad.0 20_count  " in run.stdout and "FAILED" in run.stdout
    assert (project.folder / "outputs/mini.good.0/count.txt").exists()
    assert (project.folder / "outputs/mini/copy.txt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "reason"), [
    ("def f(): return 1 / 0\nf()", "ZeroDivisionError: division by zero"),
    ("from csp_utils.base.errors import UserError\nraise UserError('The image a.png is truncated; delete it.')",
     "\n\nThe image a.png is truncated; delete it.\n\n"),
    ("raise OSError(28, 'No space left on device')", "The disk is full"),
    ("import torch\nraise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 40.00 GiB.')",
     "\n\nThe GPU has too little memory (CUDA out of memory); set batch_size to a smaller number"),
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
@pytest.mark.parametrize("text", ["", "<<<<<<< HEAD\n{}\n=======\n", "{}", "[" * 100_000])
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


def test_help_needs_no_environment():
    path = {"PATH": os.environ["PATH"]}
    run = subprocess.run([ROOT / "run_all.sh", "--help"], capture_output=True, text=True, env=path)
    assert run.returncode == 0
    assert all(word in run.stdout for word in ("Hardware", "Time", "Disk", "Usage: ./run_all.sh [PARAMS_FILE]"))
