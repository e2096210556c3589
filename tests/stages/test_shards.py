"""Stages computed in parts: the same bytes whatever their number, and no part that was made from other things."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest
from conftest import ROOT, Project
from hypothesis import given
from hypothesis import strategies as st

from csp_utils.base.files import sha256, write_parquet
from csp_utils.base.params import Extract, Mask, Perturb
from csp_utils.base.run import RunPaths
from csp_utils.data.rlaif_v import read_rlaif_v, write_rlaif_v
from csp_utils.models import keyword_lm, masks
from csp_utils.models.keyword_lm import KeywordModel
from csp_utils.noise import training_rows
from csp_utils.pipeline import run as pipeline
from csp_utils.pipeline import shards
from csp_utils.pipeline.shards import Shard
from csp_utils.tiny_world.world.scenes import draw_scene

ASSETS = ROOT / "assets" / "tiny_world"


def quiet(items, *_, **__):
    return items


@given(st.lists(st.integers()), st.integers(1, 9))
def test_the_shares_of_all_shards_are_all_items(items, n):
    shares = [Shard(i, n).share(items) for i in range(n)]
    assert sorted(item for share in shares for item in share) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def picture(scene) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "PNG")
    return buffer.getvalue()


def write_data(path: Path, scenes: int = 8) -> None:
    """Two questions about each drawn scene, and one row whose picture is broken."""
    rows = []
    for number in range(scenes):
        scene = draw_scene("test", 9000 + number)
        for noun in scene.nouns[:2]:
            rows.append({"ds_name": "d", "image": {"bytes": picture(scene), "path": f"{number}.png"},
                         "question": f"Is there a {noun} in the image?", "chosen": f"Yes, there is a {noun}.",
                         "rejected": "No.", "origin_dataset": "o", "origin_split": "s", "idx": len(rows),
                         "image_path": f"{number}.png"})  # fmt: skip
    rows[3]["image"] = {"bytes": b"broken", "path": "broken.png"}
    write_rlaif_v(path, rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple:
    """The data, and a function that runs stages 01 to 03 in so many parts and returns the paths of the run."""
    outputs = tmp_path_factory.mktemp("outputs")
    write_data(outputs / "train.parquet")
    data = read_rlaif_v(outputs / "train.parquet")
    extract = Extract(rlaif_v=str(outputs / "train.parquet"), n_rows=None, batch_size=3, device="cpu",
                      keyword_model=str(ASSETS / "keyword_lm"))  # fmt: skip
    mask = Mask(rlaif_v=extract.rlaif_v, batch_size=3, device="cpu", grounding_dino=str(ASSETS / "grounding_dino"),
                sam=str(ASSETS / "sam"))  # fmt: skip
    model, models = KeywordModel(extract.keyword_model, "cpu"), masks.load_models(mask)

    def run(n: int, folder: str) -> RunPaths:
        paths = RunPaths("r", outputs / folder)
        stages = [
            ("01_extract", extract.model_copy(update={"shards": n}), keyword_lm.SCHEMA,
             lambda p: keyword_lm.computing(data, model, p, quiet), lambda p, compute: keyword_lm.run(p, paths, compute)),
            ("02_mask", mask.model_copy(update={"shards": n}), masks.SCHEMA,
             lambda p: masks.computing(shards_input(paths["keywords.parquet"]), data, models, p, quiet),
             lambda p, _: masks.run(p, paths, models, quiet)),
            ("03_perturb", Perturb(rlaif_v=extract.rlaif_v, draws_per_row=2, shards=n), training_rows.SCHEMA,
             lambda p: training_rows.load(p, paths, quiet),
             lambda p, _: training_rows.perturb_all(shards_input(paths["masks.parquet"]), data, paths, p)),
        ]  # fmt: skip
        for name, p, schema, computing, whole in stages:
            if n > 1:
                for i in reversed(range(n)):
                    shards.write(name, p, paths, Shard(i, n), computing(p), schema)
            whole(p, computing(p))
        return paths

    return data, run


def shards_input(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path)


def digests(paths: RunPaths) -> dict[str, str]:
    """SHA-256 of everything that the stages left, without the parts and the data set's own cache files."""
    files = [file for file in sorted(paths.root.rglob("*")) if file.is_file() and paths["shards"] not in file.parents]
    return {str(file.relative_to(paths.root)): sha256(file) for file in files if file.parent.name != "dataset"}


def test_one_two_and_seven_parts_give_the_same_bytes(world, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, run = world
    monkeypatch.setattr(training_rows, "portable", lambda path: Path(path).name)  # else it names the run
    found = [digests(run(n, f"in{n}")) for n in (1, 2, 7)]
    assert len(found[0]) > 20 and found[0] == found[1] == found[2]


def test_parts_are_put_together_in_the_order_of_the_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    write_data(tmp_path / "train.parquet", 3)
    p = Extract(rlaif_v=str(tmp_path / "train.parquet"), shards=3, keyword_model=str(ASSETS / "keyword_lm"))
    paths, asked = RunPaths("r", tmp_path), []

    def compute(shard, folder):
        asked.append(shard.index)
        (folder / "files").mkdir(parents=True, exist_ok=True)
        (folder / "files" / f"{shard.index}.txt").write_text(str(shard.index))
        return pd.DataFrame({"x": np.arange(10)}).iloc[shard.index :: shard.of]

    schema = pa.schema([("x", pa.int64())])
    for i in (2, 0):
        shards.write("01_extract", p, paths, Shard(i, 3), compute, schema)
    table = shards.gather("01_extract", p, paths, compute, schema, tmp_path)
    assert table["x"].to_pylist() == list(range(10)) and asked == [2, 0, 1]
    assert sorted(file.read_text() for file in (tmp_path / "files").iterdir()) == ["0", "1", "2"]

    other = p.model_copy(update={"max_new_tokens": 4})  # made from something else: computed anew
    shards.gather("01_extract", other, paths, compute, schema, tmp_path / "other")
    assert asked[3:] == [0, 1, 2]
    write_data(tmp_path / "train.parquet", 4)
    shards.gather("01_extract", p, paths, compute, schema, tmp_path / "third")
    assert asked[6:] == [0, 1, 2]


SHARDED = """\
run: mini
rlaif_v: {data}
03_perturb:
  masks_file: {masks}
  draws_per_row: 2
  shards: {n}
"""


@pytest.fixture(scope="module")
def perturbing(tmp_path_factory, world) -> tuple[Project, Path]:
    """A project that has notebook 03 alone, and masks to perturb."""
    data, run = world
    project = Project(tmp_path_factory.mktemp("project"))
    project.notebook("03_perturb", "from csp_utils.base.files import read_parquet\n"
                     "from csp_utils.data.benchmarks import read_rlaif_v\nfrom csp_utils.noise.training_rows import perturb_all\n"
                     "perturb_all(read_parquet(p.masks_file), read_rlaif_v(p.rlaif_v), paths, p)")  # fmt: skip
    (project.folder / "train.parquet").write_bytes((data._groups[0][0]).read_bytes())
    masks_of = [{"row_id": f"{i:06d}", "image_path": "", "question": "Is it?", "answer": "Yes", "keyword": "k",
                 "width": 112, "height": 112, "drop_reason": None, "boxes": [], "scores": [], "phrases": [],
                 "rle_counts": masks.encode_mask(np.eye(112) > 0), "area_fraction": 0.1} for i in (0, 1, 2, 5, 6, 7)]
    write_parquet(pa.Table.from_pylist(masks_of, masks.SCHEMA), project.folder / "masks.parquet")
    return project, project.folder / "outputs" / "mini"


def set_shards(project: Project, n: int) -> None:
    project.params.write_text(SHARDED.format(data="train.parquet", masks="masks.parquet", n=n))


@pytest.mark.slow
def test_the_pipeline_scatters_and_gathers_and_goes_on_after_a_kill(perturbing):
    import subprocess

    project, run_folder = perturbing
    paths = RunPaths("mini", project.folder / "outputs")
    set_shards(project, 1)
    assert project.run().returncode == 0
    whole = digests(paths)
    set_shards(project, 3)
    # Killed outright, as by a machine that goes down, while parts are being computed.
    process = subprocess.Popen(project.command("--cores", "2"), cwd=project.folder, env=project.env,
                               stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)  # fmt: skip
    deadline = time.monotonic() + 200
    while not any((run_folder / "shards").glob("03_perturb/*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    for member in family:
        if member.is_running():
            member.kill()
    process.wait()
    again = project.run("--cores", "2")
    assert again.returncode == 0, again.stdout
    assert "03_perturb part" in again.stdout and not paths["shards"].exists()
    copy = json.loads((run_folder / "notebooks" / "03_perturb.ipynb").read_text())
    assert any("3 of 3 parts are there" in "".join(output.get("text", ""))
               for cell in copy["cells"] for output in cell.get("outputs", []))  # fmt: skip
    pictures = {name for name in whole if name.endswith((".png", ".jsonl", "rows.parquet"))}
    after = digests(paths)
    assert len(pictures) == 15 and {name: after[name] for name in pictures} == {name: whole[name] for name in pictures}
    assert "nothing to do" in project.run().stdout


@pytest.mark.slow
def test_a_part_that_fails_says_why_and_stops_the_run(perturbing):
    project, run_folder = perturbing
    set_shards(project, 2)
    project.params.write_text(project.params.read_text().replace("draws_per_row: 2", "levels: [50]"))
    (project.folder / "other.parquet").write_bytes(b"no parquet")
    project.params.write_text(project.params.read_text().replace("train.parquet", "other.parquet"))
    run = project.run()
    assert run.returncode == 1 and "FAILED" in run.stdout and "other.parquet" in run.stdout
    assert "Traceback" not in run.stdout and "Error in rule" not in run.stdout
    assert any((run_folder / "notebooks" / "failed").glob("03_perturb.*of2.txt"))


def test_rules_of_a_scattered_stage(perturbing, monkeypatch):
    project, _ = perturbing
    monkeypatch.chdir(project.folder)
    set_shards(project, 3)
    (step,) = pipeline.steps("params/mini.yaml")
    assert step.parts == [f"outputs/mini/shards/03_perturb/{i}of3" for i in (1, 2, 3)]
    assert step.any_part == "outputs/mini/shards/03_perturb/{part}of3"
