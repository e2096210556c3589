"""How long a page of 1,000 replies takes: reading, measuring with intervals, drawing, writing (aim: 10 s at most).

    python benchmarks/replies_page.py [--rows 1000]

A CSV of random confidences and answers, four about each image, is measured twice: by the command, in a process of its
own from its start to its end, imports included, and by the stage alone, in this process after the imports. Times are
CPU seconds, so that they hold on a busy machine, too.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from csp_utils.base.run import RunPaths  # noqa: E402
from csp_utils.results.produce import produce  # noqa: E402
from csp_utils.show import replies_page  # noqa: E402, F401  the imports that the second time leaves out
from csp_utils.stages.replies import STAGE, Replies  # noqa: E402


def rows(n: int) -> pd.DataFrame:
    """Draw n answers, four about each image: too sure by ten points, on a scale of 101 percents."""
    rng = np.random.default_rng(0)
    percent = np.clip(np.round(rng.normal(80, 12, n)), 0, 100).astype(int)
    right = rng.random(n) < (percent - 10) / 100
    return pd.DataFrame({"image": np.arange(n) // 4, "confidence": percent, "correct": right})


def children() -> float:
    """Return the CPU seconds of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1000)
    n = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "replies.csv"
        rows(n).to_csv(file, index=False)
        start = time.process_time()
        produce(STAGE, Replies(file=str(file)), RunPaths("page", folder), say=lambda line: None)
        alone = time.process_time() - start
        size = (Path(folder) / "page" / "replies.html").stat().st_size
        run = f"benchmark_replies_{os.getpid()}"  # of a run that exists, the command would use the results
        before = children()
        try:
            subprocess.run([sys.executable, "-m", "csp_utils.pipeline.replies", str(file), "--run", run], cwd=ROOT,
                           check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
        finally:
            shutil.rmtree(ROOT / "outputs" / run, ignore_errors=True)
        whole = children() - before
    print(f"{n} rows, 1,000 resamples, a page of {size / 1e3:.0f} kB, CPU seconds")
    print(f"the stage after the imports: {alone:.1f} s; the command with its imports: {whole:.1f} s")


if __name__ == "__main__":
    main()
