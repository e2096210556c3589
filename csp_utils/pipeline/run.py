"""Implement ./run_all.sh: check a params file, fetch its sources, and run its notebooks with Snakemake."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

from csp_utils.base.errors import UserError, nearest, of_system
from csp_utils.base.files import sweep
from csp_utils.base.lock import try_lock
from csp_utils.base.process import die_with_parent, kill_after
from csp_utils.base.run import PROJECT, project_root
from csp_utils.base.user import settle
from csp_utils.data.fetching import fetch
from csp_utils.data.sources import of_run
from csp_utils.pipeline import params_file, slurm
from csp_utils.pipeline import plan as outlook
from csp_utils.pipeline.graph import ELSEWHERE, Step, gpu_count, only_wanted, steps, why_stale, write_plan, written
from csp_utils.pipeline.run_notebook import clock

DRY = {"--dry-run", "--dryrun", "-n"}
"""Snakemake's options that only show what would run."""

FORCE = {"--forcerun", "-R"}
OWN = {"--plan", "--anyway", "--version", "--help"}
"""Options of ./run_all.sh that are not Snakemake's."""


def snakemake(path: str, options: list[str], plan: Sequence[Step], stale: Sequence[str], log: Path | None = None
              ) -> int:
    """Run Snakemake and return its exit status; the output of the notebooks goes to the screen.

    Args:
        options: the user's options.
        stale: rules that have to run.
        log: file for Snakemake's own messages; None for the screen.

    On Ctrl-C it ends Snakemake and all its child processes, and raises KeyboardInterrupt.
    """
    options = slurm.options_with_profile(options, Path.cwd())
    executor = slurm.executor(options)
    command = [sys.executable, "-m", "snakemake", "--config", f"params={path}", f"plan={write_plan(plan)}", "--nolock",
               "--rerun-triggers", "mtime", "params", *_defaults(options, executor, plan)]  # fmt: skip
    options, forced = _without(options, FORCE)
    if both := list(dict.fromkeys([*stale, *forced])):
        options += ["--forcerun", *both]
    env = {
        **os.environ,
        "CSP_GPUS": str(gpu_count()) if executor == "local" else ELSEWHERE,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")])),
    }
    if executor == "local":
        import psutil

        env["CSP_PIPELINE"] = f"{os.getpid()}:{psutil.Process().create_time():.0f}"
    # In its own session: Ctrl-C in a terminal reaches only this process, which then ends the others once.
    remote = slurm.jobs(plan[0].paths.root, log) if executor == "slurm" and log else nullcontext([])
    with remote as more, log.open("w") if log else nullcontext() as stderr:
        process = subprocess.Popen([*command, *more, *options], env=env, stderr=stderr, start_new_session=True,
                                   preexec_fn=die_with_parent)  # fmt: skip
        try:
            return process.wait()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise
        finally:
            _end(process)


def _defaults(options: list[str], executor: str, plan: Sequence[Step]) -> list[str]:
    """Return Snakemake's default options, without those of which the user gave one of the same kind."""
    given, found = {option.split("=")[0] for option in options}, []
    there = gpu_count()
    if executor == "local" and there and not given & {"--resources", "--res"}:
        found += ["--resources", f"gpu={there}"]
    if executor == "local" and not given & {"--cores", "-c", "--jobs", "-j"}:
        found += ["--cores", "all"]  # with another executor, this machine's cores would limit the threads of each job
    if len({step.run for step in plan}) > 1 and not given & {"--keep-going", "-k"}:
        found += ["--keep-going"]  # a branch that fails does not stop the others
    if given & DRY and not given & {"--quiet", "-q"}:
        found += ["--quiet", "host"]
    return found


def _without(options: list[str], names: set[str]) -> tuple[list[str], list[str]]:
    """Return the options without those in ``names``, and the values of these."""
    others: list[str] = []
    values: list[str] = []
    inside = False
    for option in options:
        name, equals, value = option.partition("=")
        if option.startswith("-"):
            inside = name in names and not equals
        if name in names:
            values += [value] if equals else []
        elif inside:
            values.append(option)
        else:
            others.append(option)
    return others, values


def _end(process: subprocess.Popen) -> None:
    """End Snakemake, if it still runs, and all its child processes; the notebooks clean up after themselves.

    The jobs of a killed Snakemake are found by their session, which Snakemake opened.
    """
    import psutil

    family = {member.pid: member for member in _session(process.pid)}
    if process.poll() is None:
        parent = psutil.Process(process.pid)
        process.send_signal(signal.SIGSTOP)  # from now on it starts no further process
        family |= {member.pid: member for member in parent.children(recursive=True)}
        process.kill()  # on SIGTERM it would first start other jobs in place of the stopped notebooks
    family.pop(process.pid, None)
    for member in family.values():
        try:
            if {"csp_utils.pipeline.run_notebook", "csp_utils.pipeline.run_shard"} & set(member.cmdline()):
                member.send_signal(signal.SIGINT)  # run_notebook interrupts its kernel, which then cleans up
        except psutil.NoSuchProcess:
            pass
    kill_after(list(family.values()), 30)
    process.wait()


def _session(leader: int) -> list:
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader:
                found.append(process)
        except (ProcessLookupError, PermissionError):
            pass
    return found


def run(path: str, options: list[str]) -> int:
    """Check the params file, run the stale notebooks, and print how the run ended; return the exit status."""
    start = time.monotonic()
    plan = steps(path)
    record = plan[0].paths["sources.json"]
    used = of_run.as_recorded(params_file.sources(path), record)
    elsewhere = slurm.executor(slurm.options_with_profile(options, Path.cwd())) != "local"
    if "--plan" in options:
        print(outlook.written(path, outlook.jobs(plan, used), used, elsewhere))
        return 0
    named, _ = _without(options, FORCE | {"--omit-from", "-O"})
    stale = only_wanted(plan, why_stale(plan), named)
    if DRY & set(options):
        for step in plan:
            if reasons := stale.get(step.rule):
                print(f"{step.title}: {'; '.join(reasons)}")
        return snakemake(path, options, plan, list(stale))
    if not stale and not set(options) - {"--anyway"}:
        print(f"{path}: nothing to do, everything is up to date; {_ending(plan)}")
        return 0
    if "--anyway" not in options:
        outlook.refuse(outlook.jobs(plan, used), used, elsewhere)
    _fetch([source for source in used if not source.here])
    of_run.write(used, record)
    print(f"{path}: {len(plan)} notebooks, results in {plan[0].paths.root}; {len(stale)} have to run", flush=True)
    options = [option for option in options if option != "--anyway"]
    before = [written(step.copy) for step in plan]
    status = _alone(path, options, plan, list(stale))
    if status:
        print(f"{path}: stopped after {clock(time.monotonic() - start)} min; see the message above.", file=sys.stderr)
        return status
    done = sum(written(step.copy) != then for step, then in zip(plan, before, strict=True))
    if done:
        print(f"{path}: {done} of {len(plan)} notebooks run in {clock(time.monotonic() - start)} min; {_ending(plan)}")
    else:
        print(f"{path}: nothing to do, everything is up to date; {_ending(plan)}")
    return 0


def _fetch(missing: list) -> None:
    """Fetch the missing sources, after a check that every server can be reached."""
    if found := list(outlook.unreachable(missing)):
        raise UserError("\n".join(found))
    for source in missing:
        fetch(source)


def _alone(path: str, options: list[str], plan: Sequence[Step], stale: list[str]) -> int:
    """Run Snakemake while no other pipeline writes the same runs; remove the temporary files of killed writers."""
    began, log = time.time_ns(), plan[0].paths["snakemake.log"]
    folders = list(dict.fromkeys(step.paths.root for step in plan))
    slurm_runs = slurm.executor(slurm.options_with_profile(options, Path.cwd())) == "slurm"
    with ExitStack() as held:
        for folder in folders:
            lock = try_lock(folder / ".lock")
            if lock is None:
                raise UserError(f"Another ./run_all.sh is writing {folder}; wait for it to end, or stop it.")
            held.callback(lock.release)
        try:
            for folder in folders:
                sweep(folder)
            _none_from_the_future(plan)
            status = snakemake(path, options, plan, stale, log)
        finally:
            for folder in folders:
                sweep(folder, machines=slurm_runs)  # its jobs have ended by now
                _remove_empty(folder / "shards")
    left = [written(file) for folder in folders for file in (folder / "notebooks" / "failed").glob("*")]
    if status and not any(time > began for time in left):  # no notebook or shard failed: Snakemake did
        print(log.read_text(errors="replace")[-2000:], file=sys.stderr)
    return status


def _none_from_the_future(plan: Sequence[Step]) -> None:
    """Give executed notebooks with a time in the future the present time, in their order.

    They were made before the clock was set back. Snakemake would consider every later notebook older than its input,
    and delete it.
    """
    for step in plan:
        now = time.time_ns()
        if written(step.copy) > now:
            os.utime(step.copy, ns=(now, now))


def _remove_empty(folder: Path) -> None:
    for empty in [*folder.glob("*"), folder]:
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


def _ending(plan: Sequence[Step]) -> str:
    """Return the last message: the files that the user can open now."""
    pages = [page for step in plan for page in step.outputs if page.endswith(".html") and Path(page).exists()]
    return f"the report is {', '.join(pages)}" if pages else f"the results are in {plan[0].paths.root}"


def version() -> str:
    """Return the project's version and, in a git checkout, the commit."""
    import tomllib

    number = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    command = ["git", "-C", str(PROJECT), "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    return f"csp-reproduction {number}" + (f", commit {commit}" if commit else "")


def check_options(options: Sequence[str]) -> None:
    """Raise UserError, before anything starts, for an option that neither this command nor Snakemake has."""
    unknown = [name for option in options if (name := option.split("=")[0]).startswith("--") and name not in OWN]
    if not unknown:
        return
    from snakemake.cli import get_argument_parser  # takes two seconds to import

    known = {name for action in get_argument_parser()._actions for name in action.option_strings} | OWN
    for name in unknown:
        if not any(other.startswith(name) for other in known):
            near = nearest(name, sorted(known))
            hint = f"{near} " if near.startswith("did") else ""  # Snakemake has about 150 options
            raise UserError(f"There is no option {name}; {hint}./run_all.sh --help lists them.")


def params_path(name: str, root: Path) -> Path:
    """Return the params file for ``name``: a path, or the bare name of a file in params/."""
    path = Path(name).absolute()
    bare = [root / "params" / f"{name}{suffix}" for suffix in ("", ".yaml", ".yml")]
    return path if path.is_file() else next((file for file in bare if file.is_file()), path)


def main(arguments: list[str]) -> int:
    """Run the command line ``[PARAMS_FILE] [options]``; the default file is params/tiny.yaml."""
    root = project_root(Path(__file__).parent)
    path = root / "params" / "tiny.yaml"
    try:
        if arguments and not arguments[0].startswith("-"):
            path = params_path(arguments.pop(0), root)
        os.chdir(root)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if "--version" in arguments:
            print(version())
            return 0
        check_options(arguments)
        settle(root)
        return run(str(path.relative_to(root) if path.is_relative_to(root) else path), arguments)
    except (UserError, OSError) as error:
        print(error if isinstance(error, UserError) else of_system(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Nothing half-written is left; the same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
