"""Stages computed in shards: the same bytes whatever their number, and no shard that was made from other things."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from stage_tools import job_of, masks_of, rlaif_row, run_stage

from csp_utils.base.files import sha256, write_parquet
from csp_utils.base.params import Params
from csp_utils.base.run import RunPaths
from csp_utils.data.rlaif_v import write_rlaif_v
from csp_utils.noise import training_rows
from csp_utils.results.produce import origin_of
from csp_utils.results.shards import gather, shard_folder, write_shard
from csp_utils.results.stage import Job, Shard, Stage
from csp_utils.stages.extract import Extract
from csp_utils.stages.mask import Mask
from csp_utils.stages.perturb import Perturb
from csp_utils.tiny_world.world.scenes import draw_scene

ASSETS = ROOT / "assets" / "tiny_world"


@given(st.lists(st.integers()), st.integers(1, 9))
def test_the_shares_of_all_shards_are_all_items(items, n):
    shares = [Shard(i, n).share(items) for i in range(n)]
    assert sorted(item for share in shares for item in share) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    blocks = [Shard(i, n).block(items) for i in range(n)]
    assert [item for block in blocks for item in block] == items
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


# --------------------------------------------------------------------------------------------- stages 01 to 03


def png(scene) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "PNG")
    return buffer.getvalue()


def write_data(path: Path, scenes: int = 8) -> None:
    """Two questions about each drawn scene, and one row whose image is broken."""
    rows = []
    for number in range(scenes):
        scene = draw_scene("test", 9000 + number)
        for noun in scene.nouns[:2]:
            rows.append(rlaif_row(len(rows), png(scene), question=f"Is there a {noun} in the image?",
                                  chosen=f"Yes, there is a {noun}.", image_path=f"{number}.png"))  # fmt: skip
    rows[3]["image"] = {"bytes": b"broken", "path": "broken.png"}
    write_rlaif_v(path, rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Callable[[int, str], RunPaths]:
    """A function that runs stages 01 to 03 in so many shards, the last one first, and returns the paths of the run."""
    outputs = tmp_path_factory.mktemp("outputs")
    write_data(outputs / "train.parquet")
    rlaif_v = str(outputs / "train.parquet")

    def run(n: int, folder: str) -> RunPaths:
        paths = RunPaths("r", outputs / folder)
        for p in (
            Extract(rlaif_v=rlaif_v, n_rows=None, batch_size=3, device="cpu", shards=n,
                    keyword_model=str(ASSETS / "keyword_lm")),
            Mask(rlaif_v=rlaif_v, batch_size=3, device="cpu", shards=n, sam=str(ASSETS / "sam"),
                 grounding_dino=str(ASSETS / "grounding_dino")),
            Perturb(rlaif_v=rlaif_v, draws_per_row=2, shards=n),
        ):  # fmt: skip
            for i in reversed(range(n if n > 1 else 0)):
                write_shard(job_of(p, paths), Shard(i, n))
            said = run_stage(p, paths)
            assert n == 1 or f"{n} of {n} shards are there" in said
        return paths

    return run


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all results of a run, without shards, records and the data set's own state."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.parent.name != "dataset"
             and file.name != "ORIGIN.json"]  # fmt: skip
    named = {file.relative_to(folder): file for file in files}
    apart = ("shards", "origins", ".locks")
    return {str(name): sha256(file) for name, file in named.items() if name.parts[0] not in apart}


def test_one_two_and_seven_shards_give_the_same_bytes(run, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(training_rows, "portable", lambda path: Path(path).name)  # else it names the run
    runs = [run(n, f"in{n}") for n in (1, 2, 7)]
    found = [digests(paths.root) for paths in runs]
    assert len(found[0]) > 20 and found[0] == found[1] == found[2]
    assert not any(paths["shards"].exists() and any(paths["shards"].iterdir()) for paths in runs)


def test_a_fitted_schedule_uses_the_finished_shards(tmp_path, monkeypatch):
    """The schedule takes the place of t_max and gamma in both, so that the shards are those of these parameters."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "train.parquet", 2)
    paths = RunPaths("r")
    write_parquet(masks_of(Path("train.parquet"), 3), paths["masks.parquet"])
    Path("schedule.json").write_text('{"t_max": 400, "gamma": 0.02}')
    p = Perturb(rlaif_v="train.parquet", schedule_file="schedule.json", shards=2)
    for i in range(2):
        write_shard(job_of(p, paths), Shard(i, 2))
    assert "2 of 2 shards are there" in run_stage(p, paths)
    rows = pd.read_parquet(paths["perturbed/rows.parquet"])
    assert (rows["T_c"] == 400 * (100 - rows["c"]) // 100).all()


# ----------------------------------------------------------------------------------------------- gather and its rules


class Rows(Params):
    """Parameters of a stage that makes ten rows."""

    data: str = "data.txt"
    factor: int = 1
    shards: int = 3


asked: list[int] = []


def open_rows(job: Job) -> Callable:
    def compute(shard: Shard, folder: Path) -> pd.DataFrame:
        asked.append(shard.index)
        (folder / "files").mkdir(parents=True, exist_ok=True)
        (folder / "files" / f"{shard.index}.txt").write_text(str(shard.index))
        return pd.DataFrame({"x": np.arange(10) * job.p.factor}).iloc[shard.index :: shard.of]

    return compute


def compute_rows(job: Job) -> None:
    gather(job, job.out)


ROWS = Stage("30_rows", Rows, compute_rows, reads=lambda p, paths: {"data": Path(p.data)}, open_shard=open_rows,
             schema=lambda: pa.schema([("x", pa.int64())]))  # fmt: skip


def rows_job(paths: RunPaths, say: Callable = lambda line: None, **parameters) -> Job:
    p = Rows(data=str(paths.root / "data.txt"), **parameters)
    return Job(ROWS, p, paths, Path(), origin_of(ROWS, p, paths), say=say)


def test_shards_are_put_together_in_the_order_of_the_rows(tmp_path):
    paths, said = RunPaths("r", tmp_path), []
    paths.root.mkdir()
    (paths.root / "data.txt").write_text("one")
    asked.clear()
    for i in (2, 0, 0):  # the second time it is there
        write_shard(rows_job(paths), Shard(i, 3))
    assert asked == [2, 0]
    table = gather(rows_job(paths, said.append), tmp_path / "first")
    assert table["x"].to_pylist() == list(range(10)) and asked == [2, 0, 1]
    assert said == ["2 of 3 shards are there; 1 are computed here"]
    assert sorted(file.read_text() for file in (tmp_path / "first" / "files").iterdir()) == ["0", "1", "2"]


@pytest.mark.parametrize("changed", ["a parameter", "an input", "the number of shards"])
def test_a_shard_of_another_origin_is_computed_anew(tmp_path, changed):
    paths = RunPaths("r", tmp_path)
    paths.root.mkdir()
    (paths.root / "data.txt").write_text("one")
    for i in range(3):
        write_shard(rows_job(paths), Shard(i, 3))
    asked.clear()
    if changed == "an input":
        (paths.root / "data.txt").write_text("two")
    job = rows_job(paths, **{"a parameter": {"factor": 2}, "the number of shards": {"shards": 2}}.get(changed, {}))
    table = gather(job, tmp_path / "out")
    assert asked == ([0, 1] if changed == "the number of shards" else [0, 1, 2])
    assert table["x"].to_pylist() == [x * job.p.factor for x in range(10)]


def test_a_shard_that_was_cut_is_not_used(tmp_path):
    """A folder without a record, as a kill between its files would leave it."""
    paths = RunPaths("r", tmp_path)
    paths.root.mkdir()
    (paths.root / "data.txt").write_text("one")
    folder = shard_folder(paths, "30_rows", Shard(0, 3))
    folder.mkdir(parents=True)
    (folder / "table.parquet").write_bytes(b"half")
    asked.clear()
    assert gather(rows_job(paths), tmp_path / "out")["x"].to_pylist() == list(range(10)) and asked == [0, 1, 2]
