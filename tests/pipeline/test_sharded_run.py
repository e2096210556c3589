"""Test shards under Snakemake: computed in parallel, combined by the notebook, resumed after a kill."""

import json
import signal
import subprocess
import time

import psutil
import pytest
from conftest import ROOT, Project

from csp_utils.pipeline import graph
from csp_utils.results.digest import digest
from csp_utils.stages import stages

ROWS_MODULE = '''"""A stage that makes twelve rows and a file for each, slowly."""
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_parquet
from csp_utils.base.params import Params
from csp_utils.results.shards import gather
from csp_utils.results.stage import Stage


class Rows(Params):
    """Parameters of notebook 30."""

    rows: str = "rows.csv"
    seconds: float = 0.0
    shards: int = 1


def reads(p, paths):
    """The file."""
    return {"rows": Path(p.rows)}


def open_shard(job):
    """Returns what computes a shard."""
    if Path(job.p.rows).read_text() == "broken":
        raise UserError(f"{job.p.rows} is broken; mend it.")
    if Path(job.p.rows).read_text() == "too large":
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB.")

    def compute(shard, folder):
        (folder / "table").mkdir(parents=True, exist_ok=True)
        numbers = shard.share(range(12))
        for number in job.progress(numbers):
            time.sleep(job.p.seconds)
            (folder / "table" / f"{number}.txt").write_text(str(number))
        with open("computed.log", "a") as log:
            log.write(f"shard {shard.name}\\n")
        return pd.DataFrame({"x": [number**2 for number in numbers]}, index=numbers)

    return compute


def compute(job):
    """Writes the folder table."""
    (job.out / "table").mkdir()
    write_parquet(gather(job, job.out), job.out / "table" / "rows.parquet")


STAGE = Stage("30_rows", Rows, compute, makes=("table",), reads=reads, open_shard=open_shard,
              schema=lambda: pa.schema([("x", pa.int64())]))
'''


@pytest.fixture
def sharded(project: Project) -> Project:
    """Return the project with only the stage of twelve rows."""
    project.write("stages/rows.py", ROWS_MODULE)
    path = project.notebook("30_rows", "notebook.compute(p)")
    book = json.loads(path.read_text())
    book["cells"][0]["source"] = "run = 'demo'\nseed = 0\nrows = 'rows.csv'\nseconds = 0.0\nshards = 1"
    path.write_text(json.dumps(book))
    return project


def ask_for(project: Project, shards: int, seconds: float = 0.0) -> None:
    project.params.write_text(f"run: mini\n30_rows: {{shards: {shards}, seconds: {seconds}}}\n")


@pytest.mark.slow
def test_the_pipeline_scatters_and_gathers_and_goes_on_after_a_kill(sharded):
    run_folder = sharded.folder / "outputs" / "mini"
    ask_for(sharded, 1)
    assert sharded.run().returncode == 0
    whole = digest(run_folder / "table")
    assert len(list((run_folder / "table").iterdir())) == 13
    ask_for(sharded, 3, 0.5)  # a changed parameter, so that everything is computed again
    # It is killed while shards are being computed, as in a power failure.
    process = subprocess.Popen(sharded.command("--cores", "2"), cwd=sharded.folder, env=sharded.env,
                               stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)  # fmt: skip
    deadline = time.monotonic() + 200
    while not (finished := {file.parent.name for file in (run_folder / "shards").glob("30_rows/*of3/ORIGIN.json")}):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    for member in family:
        if member.is_running():
            member.kill()
    process.wait()
    before = len(sharded.computed())
    again = sharded.run("--cores", "2")
    assert again.returncode == 0, again.stdout
    assert "30_rows shard" in again.stdout and not (run_folder / "shards").exists()
    copy = json.loads((run_folder / "notebooks" / "30_rows.ipynb").read_text())
    assert any("3 of 3 shards are there" in "".join(output.get("text", ""))
               for cell in copy["cells"] for output in cell.get("outputs", []))  # fmt: skip
    assert digest(run_folder / "table") == whole
    assert not {f"shard {name}" for name in finished} & set(sharded.computed()[before:])
    assert "nothing to do" in sharded.run().stdout


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "sentence"), [
    ("broken", "rows.csv is broken; mend it."),
    ("too large", "The GPU has too little memory (CUDA out of memory); set batch_size to a smaller number"),
])
def test_a_shard_that_fails_says_why_and_stops_the_run(sharded, rows, sentence):
    ask_for(sharded, 2)
    sharded.write("rows.csv", rows)
    run = sharded.run()
    assert run.returncode == 1 and "FAILED" in run.stdout and sentence in run.stdout
    assert "Traceback" not in run.stdout and "Error in rule" not in run.stdout
    assert any((sharded.folder / "outputs/mini/notebooks/failed").glob("30_rows.*of2.txt"))


def test_rules_of_a_scattered_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "sharded.yaml"
    path.write_text("run: mini\n00_tiny_world: {}\n01_extract: {}\n02_mask: {shards: 3}\n")
    step = next(step for step in graph.steps(path) if step.name == "02_mask")
    assert step.shard_marks == [f"outputs/mini/shards/02_mask/{i}of3.done" for i in (1, 2, 3)]
    assert step.any_shard_mark == "outputs/mini/shards/02_mask/{shard}of3.done"
    assert stages["02_mask"] is step.stage
