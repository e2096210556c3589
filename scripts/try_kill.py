"""Kill a run with SIGKILL at twenty moments, resume it, and compare its results with those of a run without a kill.

    python scripts/try_kill.py [PARAMS_FILE] [--kills 20]

It runs params/smoke.yaml twice, once without and once with the kills, which takes less than an hour on two cores;
therefore it is not part of the tests. A moment is a state of the run, such as "the kernel of notebook 02 runs" or
"between the two renames that replace the folder perturbed". At each moment all processes of the run get SIGKILL, as in
a power failure: none can clean up. Then the same command goes on from what is there, up to the next moment. At the end
every table, image, training file and weight is compared by SHA-256. Logs and executed notebooks are not compared,
because they contain times.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from csp_utils.base.files import sha256  # noqa: E402
from csp_utils.pipeline.params_file import read  # noqa: E402

COMPARED = {".parquet", ".jsonl", ".png", ".json", ".safetensors", ".txt"}
TIMED = {"args.json", "log.parquet", "trainer_state.json", "state.json", "settings.json", "summary.json",
         "asked_by.json", "ORIGIN.json"}  # fmt: skip
"""Files that contain times, speeds or paths of temporary folders."""
OURS = {"notebooks", "origins"}
"""Folders of copies and records, which hold times as well."""

STOP = '''"""Stop this process at a rename that scripts/try_kill.py waits for; Python imports this module first."""
import os, time
rename, asked, there = os.replace, os.environ["CSP_TRY_KILL"] + "/asked", os.environ["CSP_TRY_KILL"] + "/there"

def stop():
    open(there, "w").close()
    time.sleep(600)

def replace(old, new, **more):
    when, name = open(asked).read().split() if os.path.exists(asked) else ("", "")
    base = os.path.basename(new)
    is_old = base.startswith(f".{name}.tmp-") and base.endswith("-old")
    if when == "before" and base == name:
        stop()
    rename(old, new, **more)
    if when == "after" and base == name or when == "between" and is_old:
        stop()

os.replace = replace
'''


class Moment(NamedTuple):
    """When to kill a run."""

    name: str
    words: tuple[str, ...] = ()
    """A process of the run whose command line holds all of these words runs ..."""
    without: str = ""
    """... and none whose command line holds this one."""
    rename: str = ""
    """A rename before, after or between (the two renames of a folder that is replaced): "before masks.parquet"."""
    lost: str = ""
    """File of the run's folder that is removed first, once it is there, so that a result is made again."""


def kernel(notebook: str) -> Moment:
    # Snakemake's own command line may name every notebook.
    words = ("csp_utils.pipeline.run_notebook", f"notebook_{notebook}")
    return Moment(f"the kernel of {notebook} runs", words, rename="kernel")


MOMENTS = [
    Moment("the driver has begun", ("csp_utils.pipeline.run",), "snakemake"),
    Moment("Snakemake has begun", ("snakemake",), "run_notebook"),
    Moment("notebook 00 waits for its kernel", ("run_notebook",), "ipykernel"),
    kernel("00_tiny_world"),
    Moment("data/pope is complete and not renamed", rename="before pope"),
    Moment("train.parquet is renamed, other data are not", rename="after train.parquet"),
    kernel("01_extract"),
    Moment("keywords.parquet is complete and not renamed", rename="before keywords.parquet"),
    kernel("02_mask"),
    Moment("masks.parquet is renamed, funnel.parquet is not", rename="after masks.parquet"),
    kernel("03_perturb"),
    kernel("04_sft"),
    Moment("between the two renames that replace perturbed", rename="between perturbed",
           lost="origins/03_perturb.json"),
    Moment("ms-swift trains by SFT", ("swift.cli.sft",)),
    Moment("the checkpoint of SFT is complete and not renamed", rename="before checkpoint"),
    Moment("ms-swift trains by SimPO", ("swift.cli.rlhf",)),
    Moment("the replies of base are kept, those of other variants are not", rename="after base"),
    kernel("07_correlation"),
    Moment("stress.parquet is complete and not renamed", rename="before stress.parquet"),
    kernel("11_claims"),
]


def digests(folder: Path) -> dict[str, str]:
    """Return path in the run's folder -> SHA-256 of every result file."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix in COMPARED]
    return {str(file.relative_to(folder)): sha256(file) for file in files
            if file.name not in TIMED and not file.name.startswith(".") and not OURS & set(file.parts)}  # fmt: skip


def start(params: str, signs: Path | None = None) -> subprocess.Popen:
    """Start the run; with ``signs``, its processes stop at the rename that a file in this folder asks for."""
    more = {"CSP_TRY_KILL": str(signs), "PYTHONPATH": os.pathsep.join([str(signs), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([sys.executable, "-m", "csp_utils.pipeline.run", params], cwd=ROOT,
                            env={**os.environ, **(more if signs else {})})  # fmt: skip


def commands(process: subprocess.Popen) -> list[str]:
    """Return the command lines of a process and its descendants."""
    found = []
    for member in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        try:
            found.append(" ".join(member.cmdline()))
        except psutil.NoSuchProcess:
            pass
    return found


def reached(moment: Moment, process: subprocess.Popen, signs: Path) -> bool:
    """Return True if the run is at the moment."""
    if moment.rename and moment.rename != "kernel":
        return (signs / "there").exists()
    lines = commands(process)
    here = any(all(word in line for word in moment.words) for line in lines)
    kernels = moment.rename != "kernel" or any("ipykernel" in line for line in lines)
    return here and kernels and not (moment.without and any(moment.without in line for line in lines))


def kill(process: subprocess.Popen) -> None:
    """Send SIGKILL to the process and all its descendants."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(family, timeout=30)
    process.wait()


def until(moment: Moment, folder: Path, begin: Callable[[], subprocess.Popen], signs: Path) -> bool:
    """Start the run and kill it at the moment; return False if it ended before."""
    if moment.lost:
        if not (folder / moment.lost).exists():
            until(kernel("04_sft"), folder, begin, signs)
        (folder / moment.lost).unlink(missing_ok=True)
    for sign in ("asked", "there"):
        (signs / sign).unlink(missing_ok=True)
    if moment.rename and moment.rename != "kernel":
        (signs / "asked").write_text(moment.rename)
    process = begin()
    while process.poll() is None:
        if reached(moment, process, signs):
            kill(process)
            return True
        time.sleep(0.1)
    return False


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("params", nargs="?", default="params/smoke.yaml")
    parser.add_argument("--kills", type=int, default=len(MOMENTS), help=f"at most {len(MOMENTS)}")
    given = parser.parse_args()
    moments = [MOMENTS[i * len(MOMENTS) // given.kills] for i in range(given.kills)]
    folder = ROOT / "outputs" / read(ROOT / given.params)["run"]
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    if start(given.params).wait():
        return 1
    whole = digests(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        shutil.move(folder, Path(aside) / folder.name)
        signs = Path(aside) / "signs"
        signs.mkdir()
        (signs / "sitecustomize.py").write_text(STOP)
        missed = []
        for number, moment in enumerate(moments, 1):
            if until(moment, folder, lambda: start(given.params, signs), signs):
                print(f"-- kill {number} of {len(moments)}: {moment.name}", flush=True)
            else:
                missed.append(moment.name)
                print(f"-- missed: {moment.name}", flush=True)
        (signs / "asked").unlink(missing_ok=True)
        if start(given.params).wait():
            return 1
        again = digests(folder)
    different = sorted(name for name in whole.keys() | again.keys() if whole.get(name) != again.get(name))
    minutes = (time.monotonic() - began) / 60
    print(f"{len(moments) - len(missed)} kills in {minutes:.0f} min; {len(whole)} files compared, "
          f"{len(different)} different", *different, sep="\n  ")  # fmt: skip
    return 1 if different or missed else 0


if __name__ == "__main__":
    sys.exit(main())
