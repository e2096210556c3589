"""The command behind ./run_all.sh: checks a params file, fetches what it names, lets Snakemake run its notebooks."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from csp_utils.base.errors import UserError
from csp_utils.base.process import die_with_parent, kill_after
from csp_utils.base.run import project_root
from csp_utils.data.fetching import fetch
from csp_utils.pipeline import params_file, slurm
from csp_utils.pipeline import plan as outlook
from csp_utils.pipeline.graph import ELSEWHERE, Step, gpu_count, steps

DRY = {"--dry-run", "--dryrun", "-n"}
"""Snakemake's options that only show what would run."""


@contextmanager
def _alone(run_folder: Path) -> Iterator[None]:
    """Holds the run's folder, so that two pipelines never write one run.

    The system lets go when this process and its Snakemake, which inherits the open file, are gone: if this one is
    killed, a Snakemake that submits to a cluster still waits for the notebooks that run.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    with (run_folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another ./run_all.sh is writing {run_folder}; wait for it to end, or stop it.") from error
        os.set_inheritable(file.fileno(), True)
        yield


def snakemake(path: str, options: list[str], plan: list[Step], log: Path | None = None) -> int:
    """Runs Snakemake; what it says itself goes to ``log`` (None: to the screen), what the notebooks say to the screen.

    On Ctrl-C ends it and all that it has started, and raises KeyboardInterrupt.
    """
    command = [sys.executable, "-m", "snakemake", "--config", f"params={path}", "--nolock", "--rerun-incomplete"]
    options = slurm.options_with_profile(options, Path.cwd())
    executor, given = slurm.executor(options), {option.split("=")[0] for option in options}
    there = str(gpu_count()) if executor == "local" else ELSEWHERE
    if executor == "local" and there != "0" and not given & {"--resources", "--res"}:
        command += ["--resources", f"gpu={there}"]
    if executor == "local" and not given & {"--cores", "-c", "--jobs", "-j"}:
        command += ["--cores", "all"]  # with another executor, this machine's cores would bound each job's threads
    if len({step.run_folder for step in plan}) > 1 and not given & {"--keep-going", "-k"}:
        command += ["--keep-going"]  # a branch that fails does not stop the others
    if given & DRY and not given & {"--quiet", "-q"}:
        command += ["--quiet", "host"]
    env = {
        **os.environ,
        "CSP_GPUS": there,
        "CSP_NOTEBOOKS": json.dumps({step.copy: step.title for step in plan}),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")])),
    }
    # In a session of its own: Ctrl-C in a terminal reaches this process alone, which then ends the others once.
    remote = slurm.jobs(Path(plan[0].run_folder), log) if executor == "slurm" and log else nullcontext([])
    with remote as more, log.open("w") if log else nullcontext() as stderr:
        process = subprocess.Popen([*command, *options, *more], env=env, stderr=stderr, start_new_session=True,
                                   preexec_fn=die_with_parent, close_fds=False)
        try:
            return process.wait()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            _end(process)
            raise


def _end(process: subprocess.Popen) -> None:
    import psutil

    parent = psutil.Process(process.pid)
    process.send_signal(signal.SIGSTOP)  # what it has started is now all there is
    family = parent.children(recursive=True)
    process.kill()  # asked to end, it would first start what could run beside the notebooks that are stopped
    for member in family:
        try:
            if {"csp_utils.pipeline.run_notebook", "csp_utils.pipeline.run_shard"} & set(member.cmdline()):
                member.send_signal(signal.SIGINT)  # a notebook interrupts its kernel, which then clears up
        except psutil.NoSuchProcess:
            pass
    kill_after(family, 30)
    process.wait()


def sweep(run_folder: Path) -> None:
    """Removes what a writer of csp_utils.base.files that was killed left behind: files and folders named .NAME.tmp*.

    Only while no process writes the run. A writer that is interrupted clears up itself, if it is given the time.
    """
    for left in list(run_folder.rglob(".*.tmp*")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    for empty in [*(run_folder / "shards").glob("*"), run_folder / "shards"]:
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


def run(path: str, options: list[str]) -> int:
    """Checks the params file, runs what has to run, and says how it ended; returns the exit status."""
    from csp_utils.pipeline.run_notebook import clock

    start, began = time.monotonic(), time.time_ns()
    plan = steps(path)
    run_folder = Path(plan[0].run_folder)
    before = [_written(step.copy) for step in plan]
    used = params_file.sources(path)
    elsewhere = slurm.executor(slurm.options_with_profile(options, Path.cwd())) != "local"
    if "--plan" in options:
        print(outlook.written(path, outlook.jobs(plan, used), used, elsewhere))
        return 0
    if "--anyway" in options:
        options = [option for option in options if option != "--anyway"]
    elif not DRY & set(options):
        outlook.refuse(outlook.jobs(plan, used), used, elsewhere)
    if DRY & set(options):
        return snakemake(path, options, plan)
    missing = [source for source in used if not source.here]
    if missing:
        if found := list(outlook.unreachable(missing)):  # before gigabytes of another one are fetched
            raise UserError("\n".join(found))
        for source in missing:
            fetch(source)
        plan = steps(path)  # what was fetched is watched from now on
    print(f"{path}: {len(plan)} notebooks, results in {run_folder}; looking what is up to date", flush=True)
    folders = list(dict.fromkeys(Path(step.run_folder) for step in plan))
    with ExitStack() as alone:
        for folder in folders:
            alone.enter_context(_alone(folder))
        log = run_folder / "snakemake.log"
        try:
            for folder in folders:
                sweep(folder)  # of a run that was killed outright
            status = snakemake(path, options, plan, log)
        finally:
            for folder in folders:
                sweep(folder)
    done = [step for step, then in zip(plan, before, strict=True) if _written(step.copy) != then]
    if status:
        left = [_written(file) for folder in folders for file in (folder / "notebooks" / "failed").glob("*")]
        if not any(time > began for time in left):  # neither notebook nor part: Snakemake itself has a reason
            print(log.read_text(errors="replace")[-2000:], file=sys.stderr)
        print(f"{path}: stopped after {clock(time.monotonic() - start)} min; see the message above.", file=sys.stderr)
        return status
    pages = [page for step in plan for page in step.outputs if page.endswith(".html") and Path(page).exists()]
    end = f"the report is {', '.join(pages)}" if pages else f"the results are in {run_folder}"
    if done:
        print(f"{path}: {len(done)} of {len(plan)} notebooks run in {clock(time.monotonic() - start)} min; {end}")
    else:
        print(f"{path}: nothing to do, everything is up to date; {end}")
    return 0


def _written(file: Path | str) -> int:
    return Path(file).stat().st_mtime_ns if Path(file).exists() else 0


def main(arguments: list[str]) -> int:
    """``[PARAMS_FILE] [snakemake options]``; the default file is params/tiny.yaml."""
    path = Path("params/tiny.yaml")
    if arguments and not arguments[0].startswith("-"):
        path = Path(arguments.pop(0)).absolute()
    root = project_root(Path(__file__).parent)
    os.chdir(root)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(str(path.relative_to(root) if path.is_relative_to(root) else path), arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Nothing half-written is left; the same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
