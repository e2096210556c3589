"""Test what a stopped, killed or disturbed pipeline leaves: nothing half-written, no process and no lock."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from conftest import COUNT, PARAMS, Project  # noqa: F401
from pipeline_tools import running, wait_until

BRANCHES = PARAMS + "each: {20_count: {}}\nseeds: [0, 1, 2]\nbranches: {a: {}, b: {}}\n"
SLEEP = ("from csp_utils.base import process\n"
         "process.stream([sys.executable, '-c', 'import time; print(1); time.sleep(600)'], paths.root / 'x.log')")


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
