"""Run notebooks as Slurm jobs: what ./run_all.sh adds to Snakemake's executor plugin for Slurm (docs/cluster.md).

The plugin submits jobs and asks Slurm for their state. It does not print the jobs' output, and a killed Snakemake
leaves its jobs in the queue. This module prints the output and cancels the jobs. It is used only if the profile or the
options ask for Slurm.
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
"""The version that was tested with this project's Snakemake. It is not among the pinned packages, because it needs a
newer numpy than Colab has; users of a cluster install it themselves.
"""

ENDED = 120.0  # seconds for cancelled jobs to end; Slurm itself kills them after KillWait, 30 s by default

SUBMITTED = re.compile(r"has been submitted with SLURM jobid (\d+) \(log: (.+)\)\.$")
"""The plugin's line about a submitted job in Snakemake's log."""

REFUSED = re.compile(r"    message: ((?:SLURM|Job submission failed|Part of failed).*)")
"""The plugin's line about a job that Slurm refused or ended (time, memory, scancel), in the same log."""

PROGRESS_LINE = re.compile(r"\S.*  \d+:\d\d  (starting|done|FAILED|stopped)$")
"""Lines of csp_utils.pipeline.run_notebook that are printed; many jobs would write too many heartbeats."""


def options_with_profile(options: list[str], root: Path) -> list[str]:
    """Return ``options`` with ``--profile NAME`` replaced by the folder ``root/profiles/NAME`` if it exists."""
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
    """Return the executor that the options or their profiles name: "local", "slurm" or the name of another plugin."""
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
    """Return the file of a Snakemake profile, searched as Snakemake does; None if it does not exist."""
    file = Path(name) / "config.yaml"
    if file.is_file():
        return file
    from snakemake.cli import get_profile_dir  # takes two seconds to import

    found = get_profile_dir(name)
    return found[1] if found else None


def queued(prefix: str) -> list[str]:
    """Return the ids of this user's waiting and running Slurm jobs whose names begin with ``prefix``.

    Raises UserError if squeue is missing or fails.
    """
    try:
        queue = subprocess.run(["squeue", "--me", "--noheader", "--format=%i %j"], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UserError("Slurm's command squeue is not on this machine; start ./run_all.sh on a machine from which "
                        "jobs can be submitted, or leave out --profile slurm.") from error
    if queue.returncode:
        raise UserError(f"squeue failed ({queue.stderr.strip()}); ask Slurm with sinfo whether it runs, then start the "
                        "same command again.")
    rows = (line.split(maxsplit=1) for line in queue.stdout.splitlines())
    return [row[0] for row in rows if len(row) == 2 and row[1].startswith(prefix)]


def cancel(prefix: str) -> None:
    """Cancel the jobs whose names begin with ``prefix``, and wait until they have left the queue.

    Slurm sends them SIGTERM, and run_notebook then cleans up. Raises UserError if jobs remain after :data:`ENDED`
    seconds.
    """
    deadline, cancelled = time.monotonic() + ENDED, False
    while left := queued(prefix):
        if not cancelled:
            subprocess.run(["scancel", *left], capture_output=True)
            cancelled = True
        if time.monotonic() > deadline:
            raise UserError(f"Slurm did not end the jobs {', '.join(left)} within {ENDED:.0f} s; end them (scancel "
                            f"{' '.join(left)}) before the same command runs again.")
        time.sleep(1)


@contextmanager
def jobs(run_folder: Path, log: Path) -> Iterator[list[str]]:
    """Yield the options that Snakemake needs to submit to Slurm; Snakemake runs inside this block and writes ``log``.

    Inside the block, the starts, ends and failures of notebooks are printed. At its end, none of the jobs is left in
    the queue, even after an error. The complete output of a job stays in ``run_folder/slurm/rule_<name>/<job>.log``.

    Raises UserError at the start if jobs of an earlier call are still in the queue: they would write the same files.
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
    log.write_text("")  # the old log names the jobs of an earlier call
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
    """Read the complete lines that were appended to a file since the last read; [] while the file does not exist."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0

    def lines(self) -> list[str]:
        """Return the new lines without their line breaks."""
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
    """Select the lines of a job's output to print: starts and ends of its notebook, and whole failure messages.

    Args:
        inside: True if the earlier lines end inside a failure message.

    Returns:
        the selected lines, and whether ``lines`` end inside a failure message.
    """
    shown = []
    for line in lines:
        inside = inside or bool(re.match(r"Notebook \S+ failed in ", line))
        if inside or PROGRESS_LINE.match(line):
            shown.append(line)
        if line.endswith("the same command goes on from this notebook."):
            inside = False
    return shown, inside


def _follow(log: Path, over: threading.Event) -> None:
    """Print submitted jobs, the notable lines of their output, and Slurm's error messages, until ``over`` is set."""
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
            # Slurm's own message can have several lines; it ends at the sbatch call (long) or the job's properties.
            refused = bool(begun) or refused and not line.startswith("    ")
            if refused:
                reasons.append(begun[1] if begun else line)
        for number, tail in tails.items():
            shown, inside[number] = notable(tail.lines(), inside[number])
            for line in shown:
                print(line, flush=True)
        for reason in reasons:
            print(reason, flush=True)
