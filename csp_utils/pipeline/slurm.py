"""Notebooks as Slurm jobs: what ./run_all.sh has to do around Snakemake's executor plugin (docs/cluster.md).

The plugin submits the jobs and asks Slurm how they are. It prints nothing of what they say, and a Snakemake that is
killed leaves its jobs in the queue; both are seen to here. Where no profile asks for Slurm, nothing of this runs.
"""

import hashlib
import importlib.util
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from csp_utils.base.errors import UserError

PLUGIN = "snakemake-executor-plugin-slurm==2.8.0"
"""The version that was tried with this project's Snakemake. It is not among the pinned packages, as it wants a newer
numpy than Colab has; who has a cluster adds it."""

ENDED = 120.0  # seconds that cancelled jobs have to go: Slurm itself ends them by force after KillWait, 30 s by default

SUBMITTED = re.compile(r"has been submitted with SLURM jobid (\d+) \(log: (.+)\)\.$")
"""What the plugin writes into Snakemake's log about each job."""

REFUSED = re.compile(r"    message: ((?:SLURM|Job submission failed|Part of failed).*)")
"""What it writes there about a job that Slurm does not take, or that Slurm ended (time, memory, scancel)."""

SAID = re.compile(r"\S.*  \d+:\d\d  (starting|done|FAILED|stopped)$")
"""Lines of csp_utils.pipeline.run_notebook that are shown; of its heartbeats, many jobs would make too many."""


def options_with_profile(options: list[str], root: Path) -> list[str]:
    """``options`` in which ``--profile NAME`` is the folder ``root/profiles/NAME``, where there is one."""
    found = list(options)
    for position, option in enumerate(options):
        name, equals, value = option.partition("=")
        if name != "--profile":
            continue
        at = position if equals else position + 1
        own = root / "profiles" / (value or (options[at] if at < len(options) else ""))
        if (own / "config.yaml").is_file() and own != root / "profiles":
            found[at] = f"--profile={own}" if equals else str(own)
    return found


def executor(options: list[str]) -> str:
    """What runs the jobs, by the options or the profiles that they name: "local", "slurm" or another plugin's name."""
    pairs = list(zip(options, options[1:], strict=False)) + [tuple(o.split("=", 1)) for o in options if "=" in o]
    for option, value in pairs:
        if option in ("--executor", "-e"):
            return value
    found = "local"
    for name in [value for option, value in pairs if option == "--profile"] or [os.environ.get("SNAKEMAKE_PROFILE")]:
        file = _profile_file(name) if name else None
        content = yaml.safe_load(file.read_text(encoding="utf-8")) if file else None
        found = str((content or {}).get("executor", found))
    return found


def _profile_file(name: str) -> Path | None:
    """The file of a Snakemake profile, where Snakemake would find it; None if it would not."""
    file = Path(name) / "config.yaml"
    if file.is_file():
        return file
    from snakemake.cli import get_profile_dir  # takes two seconds to import

    found = get_profile_dir(name)
    return found[1] if found else None


def queued(prefix: str) -> list[str]:
    """Numbers of this user's Slurm jobs, waiting or running, whose names begin with ``prefix``.

    Raises UserError if Slurm cannot be asked.
    """
    try:
        said = subprocess.run(["squeue", "--me", "--noheader", "--format=%i %j"], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UserError("Slurm's command squeue is not on this machine; start ./run_all.sh on a machine from which "
                        "jobs can be submitted, or leave out --profile slurm.") from error
    if said.returncode:
        raise UserError(f"squeue failed ({said.stderr.strip()}); ask Slurm with sinfo whether it runs, then start the "
                        "same command again.")
    rows = (line.split(maxsplit=1) for line in said.stdout.splitlines())
    return [row[0] for row in rows if len(row) == 2 and row[1].startswith(prefix)]


def cancel(prefix: str) -> None:
    """Ends the jobs whose names begin with ``prefix`` and waits until they are gone; does nothing if there is none.

    They are told to stop (SIGTERM, upon which run_notebook clears up). Raises UserError if some stay all the same.
    """
    deadline, asked = time.monotonic() + ENDED, False
    while left := queued(prefix):
        if not asked:
            subprocess.run(["scancel", *left], capture_output=True)
            asked = True
        if time.monotonic() > deadline:
            raise UserError(f"Slurm did not end the jobs {', '.join(left)} within {ENDED:.0f} s; end them (scancel "
                            f"{' '.join(left)}) before the same command runs again.")
        time.sleep(1)


@contextmanager
def jobs(run_folder: Path, log: Path) -> Iterator[list[str]]:
    """Around a Snakemake that submits to Slurm and writes ``log``: yields the options that it needs for this.

    Meanwhile the notebooks' starts, ends and failures are printed; afterwards none of its jobs is in the queue, however
    it ended. The jobs' whole output stays in ``run_folder/slurm/rule_<name>/<job>.log``.

    Raises UserError at the start if jobs of an earlier call are still there: they would write the same files.
    """
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        raise UserError(f"Snakemake's plugin for Slurm is not installed; install it by `uv pip install {PLUGIN}`, as "
                        "docs/cluster.md says, then start the same command again.")
    run_folder = run_folder.resolve()
    name = re.sub(r"[^A-Za-z0-9]", "-", run_folder.name)[:30]
    prefix = f"csp-{name}-{hashlib.sha256(str(run_folder).encode()).hexdigest()[:8]}"
    if left := queued(prefix):
        raise UserError(f"Slurm jobs of an earlier ./run_all.sh still write {run_folder}: {', '.join(left)}; wait for "
                        f"them, or end them (scancel {' '.join(left)}), then start the same command again.")
    log.write_text("")  # an earlier call's names that call's jobs
    over = threading.Event()
    reader = threading.Thread(target=_follow, args=(log, over), daemon=True)
    reader.start()
    try:
        yield ["--slurm-jobname-prefix", prefix, "--slurm-logdir", str(run_folder / "slurm"),
               "--slurm-keep-successful-logs"]  # fmt: skip
    finally:
        try:
            cancel(prefix)
        finally:
            over.set()
            reader.join()


class Tail:
    """The complete lines that a file has got since it was last asked; none while it is not there."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0

    def lines(self) -> list[str]:
        """The new lines, without their ends."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                new = file.read()
        except FileNotFoundError:
            return []
        complete = new[: new.rfind(b"\n") + 1]
        self.position += len(complete)
        return complete.decode(errors="replace").splitlines()


def notable(lines: list[str], inside: bool) -> tuple[list[str], bool]:
    """Of a job's output, what a reader is told: its notebook's start and end, and the whole of a failure's message.

    ``inside`` is whether such a message had begun in earlier lines; returned is whether one goes on after these.
    """
    shown = []
    for line in lines:
        inside = inside or bool(re.match(r"Notebook \S+ failed in ", line))
        if inside or SAID.match(line):
            shown.append(line)
        if line.endswith("the same command goes on from this notebook."):
            inside = False
    return shown, inside


def _follow(log: Path, over: threading.Event) -> None:
    """Prints what is submitted, what the jobs say, and what Slurm did to them, until ``over``."""
    snakemake, tails, inside = Tail(log), {}, {}
    last = refused = False
    while not last:
        last = over.wait(1.0)
        reasons = []
        for line in snakemake.lines():
            if submitted := SUBMITTED.search(line):
                number, file = submitted[1], Path(submitted[2])
                tails[number], inside[number] = Tail(file), False
                print(f"Slurm job {number}: {file.parent.name.removeprefix('rule_')}, its output is {file}", flush=True)
            begun = REFUSED.match(line)
            # What Slurm says itself goes on in lines of its own, until the sbatch call (long) or the job's properties.
            refused = bool(begun) or refused and not line.startswith("    ")
            if refused:
                reasons.append(begun[1] if begun else line)
        for number, tail in tails.items():
            shown, inside[number] = notable(tail.lines(), inside[number])
            for line in shown:
                print(line, flush=True)
        for reason in reasons:
            print(reason, flush=True)
