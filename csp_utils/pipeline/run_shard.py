"""Compute one shard of a stage; the Snakefile calls this for every shard before the stage's notebook.

    python -m csp_utils.pipeline.run_shard outputs/paper/.plan.json notebook_02_mask 3 1

computes the third shard on one GPU, into ``outputs/<run>/shards/02_mask/3of7`` (:mod:`csp_utils.results.shards`).
"""

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from csp_utils.base.errors import UserError, gpu_full
from csp_utils.notebook import prepare
from csp_utils.pipeline import gpus, graph
from csp_utils.pipeline.run_notebook import HEARTBEAT, clock, end_with_pipeline, title_of
from csp_utils.results.produce import origin_of, why_not_current
from csp_utils.results.shards import write_shard
from csp_utils.results.stage import Job, Shard


class Progress:
    """Iterate over the items of a stage and print the progress, at most once in 30 seconds."""

    def __init__(self, title: str) -> None:
        self.title, self.start, self.reported = title, time.monotonic(), time.monotonic()

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        print(f"{self.title}  {clock(time.monotonic() - self.start)}  {text}", flush=True)
        self.reported = time.monotonic()

    def __call__(self, items: Iterable, description: str = "", total: int | None = None, unit: str = "row") -> Iterator:
        total = len(items) if total is None and hasattr(items, "__len__") else total
        for number, item in enumerate(items):
            if time.monotonic() - self.reported >= HEARTBEAT:
                self.say(f"{description}: {number} of {total} {unit}s")
            yield item


def failure_file(step: graph.Step, shard: Shard) -> Path:
    """Return the file that stores why a shard failed."""
    return step.paths.notebooks / "failed" / f"{step.name}.{shard.name}.txt"


def main(arguments: list[str]) -> int:
    """Compute the shard that the command line names, unless the stage's results are current; return the exit status."""
    plan = graph.read_plan(arguments[0])
    step = next(step for step in plan if step.rule == arguments[1])
    number, gpu = int(arguments[2]), int(arguments[3])
    stage, p, paths, shard = step.stage, step.p, step.paths, Shard(number - 1, step.shards)
    progress = Progress(f"{title_of(plan, step)} shard {number} of {step.shards}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    failed = failure_file(step, shard)
    failed.unlink(missing_ok=True)
    try:
        end_with_pipeline()
        if not why_not_current(stage, p, paths):
            return 0
        prepare(stage, p)
        with gpus.held(gpu, getattr(p, "device", "cpu")):
            progress.say("starting")
            write_shard(Job(stage, p, paths, Path(), origin_of(stage, p, paths), progress, progress.say), shard)
    except (UserError, RuntimeError) as error:
        sentence = error if isinstance(error, UserError) else gpu_full(error, getattr(p, "batch_size", None))
        if sentence is None:
            raise
        progress.say(f"FAILED\n\n{sentence}\n")
        failed.parent.mkdir(parents=True, exist_ok=True)
        failed.write_text(f"{sentence}\n", encoding="utf-8")
        return 1
    except KeyboardInterrupt:
        progress.say("stopped")
        os._exit(130)
    progress.say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
