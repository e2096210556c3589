"""Kills a run outright, again and again, and compares what it leaves with a run that was never killed.

    python scripts/try_kill.py [PARAMS_FILE] [--kills 6] [--seed 0]

Twice params/smoke.yaml by default: about a quarter of an hour on two cores, which is why it is no part of the tests.
The whole family of processes gets SIGKILL at moments drawn by the seed, as by a machine that goes down: nothing can
clear up. Then the same command goes on to the end. What is compared: every table, picture, training file and weight
by SHA-256. Not compared: logs and executed notebooks, which hold times.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from csp_utils.base.files import sha256  # noqa: E402
from csp_utils.pipeline.params_file import read  # noqa: E402

COMPARED = {".parquet", ".jsonl", ".png", ".json", ".safetensors", ".txt"}
TIMED = {"args.json", "log.parquet", "trainer_state.json", "state.json", "settings.json", "summary.json",
         "asked_by.json", "ORIGIN.json"}  # fmt: skip
"""Files that hold times, paths of temporary folders or speeds."""
OURS = {"notebooks", "origins"}
"""Folders of copies and records, which hold times as well."""


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of results, by its path in the run's folder."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix in COMPARED]
    return {str(file.relative_to(folder)): sha256(file) for file in files
            if file.name not in TIMED and not file.name.startswith(".") and not OURS & set(file.parts)}  # fmt: skip


def start(params: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "csp_utils.pipeline.run", params], cwd=ROOT)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the process and all its descendants."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(family, timeout=30)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("params", nargs="?", default="params/smoke.yaml")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = ROOT / "outputs" / read(ROOT / given.params)["run"]
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    if start(given.params).wait():
        return 1
    took = time.monotonic() - began
    whole = digests(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        shutil.move(folder, Path(aside) / folder.name)
        moments = random.Random(given.seed)
        killed = 0
        for _ in range(given.kills):
            process = start(given.params)
            wait = moments.uniform(0.1, 2 * took / given.kills)
            try:
                if process.wait(timeout=wait):
                    return 1
                break
            except subprocess.TimeoutExpired:
                kill(process)
                killed += 1
                print(f"-- killed after {wait:.0f} s", flush=True)
        if start(given.params).wait():
            return 1
        again = digests(folder)
    different = sorted(name for name in whole.keys() | again.keys() if whole.get(name) != again.get(name))
    print(f"{killed} kills; {len(whole)} files compared, {len(different)} different", *different, sep="\n  ")
    return 1 if different or not killed else 0


if __name__ == "__main__":
    sys.exit(main())
