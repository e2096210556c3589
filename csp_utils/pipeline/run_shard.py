"""Computes one part of a stage; the Snakefile calls this for every shard before the stage's notebook.

    python -m csp_utils.pipeline.run_shard 02_mask '{"run": "paper", "shards": 7, ...}' 3 1

computes the third of seven parts on one GPU, into ``outputs/<run>/shards/02_mask/3of7`` (:mod:`csp_utils.pipeline.shards`).
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from csp_utils.base import params
from csp_utils.base.errors import UserError
from csp_utils.base.run import RunPaths
from csp_utils.notebook import prepare
from csp_utils.pipeline import gpus, shards
from csp_utils.pipeline.run_notebook import HEARTBEAT, clock, title_of

STAGES = {"01_extract": "keywords", "02_mask": "masks", "03_perturb": "perturbed", "06_eval": "evaluation"}
"""The modules whose ``load(p, paths, progress)`` gives what computes a shard, a table of their ``SCHEMA``."""


class Progress:
    """Wraps the items of a stage and says, at most every half minute, how far it is."""

    def __init__(self, title: str) -> None:
        self.title, self.start, self.said = title, time.monotonic(), time.monotonic()

    def say(self, text: str) -> None:
        """A line with the time since the start."""
        print(f"{self.title}  {clock(time.monotonic() - self.start)}  {text}", flush=True)
        self.said = time.monotonic()

    def __call__(self, items: Iterable, description: str = "", total: int | None = None, unit: str = "row") -> Iterator:
        total = len(items) if total is None and hasattr(items, "__len__") else total
        for number, item in enumerate(items):
            if time.monotonic() - self.said >= HEARTBEAT:
                self.say(f"{description}: {number} of {total} {unit}s")
            yield item


def failure_file(paths: RunPaths, name: str, shard: shards.Shard) -> Path:
    """Where the reason of a failure is left."""
    return paths.notebooks / "failed" / f"{name}.{shard.name}.txt"


def main(arguments: list[str]) -> int:
    """Computes the part that the command line names; returns the exit status."""
    name, values, part, gpu = arguments[0], json.loads(arguments[1]), int(arguments[2]), int(arguments[3])
    p: Any = params.build(name, values, where="the command line")
    paths, shard = RunPaths(p.run), shards.Shard(part - 1, p.shards)
    progress = Progress(f"{title_of(str(paths.notebooks / f'{name}.ipynb'), name)} part {part} of {p.shards}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    failed = failure_file(paths, name, shard)
    failed.unlink(missing_ok=True)
    try:
        prepare(p)
        with gpus.held(gpu, getattr(p, "device", "cpu")):
            progress.say("starting")
            stage = import_module(f"csp_utils.{STAGES[name]}")
            shards.write(name, p, paths, shard, stage.load(p, paths, progress), stage.SCHEMA)
    except UserError as error:
        progress.say(f"FAILED\n\n{error}\n")
        failed.parent.mkdir(parents=True, exist_ok=True)
        failed.write_text(f"{error}\n", encoding="utf-8")
        return 1
    except KeyboardInterrupt:
        progress.say("stopped")
        os._exit(130)
    progress.say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
