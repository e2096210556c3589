"""Stage 06 as a whole: in shards, after a cut, with and without AMBER."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from pydantic import ValidationError
from stage_tools import job_of, run_stage

from csp_utils.asking import evaluation
from csp_utils.asking import variants as asking
from csp_utils.base.files import sha256
from csp_utils.base.run import RunPaths
from csp_utils.models.vlm import load as vlm
from csp_utils.results.shards import write_shard
from csp_utils.results.stage import Shard
from csp_utils.stages.evaluate import STAGE, Eval
from csp_utils.tiny_world.world.data import write_world


@pytest.fixture
def world(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Eval, Callable]:
    """Parameters of 06, and a function that runs it in so many shards in a run of its own and returns its paths."""
    monkeypatch.chdir(ROOT)
    data = RunPaths("data", tmp_path)
    write_world(data, 1, 1, 3, 0)
    loaded = vlm.load_vlm(vlm.ModelChoice(str(model_folder), "qwen2_vl", "qwen2_vl", 12544))
    monkeypatch.setattr(asking, "load_vlm", lambda *_: loaded)
    monkeypatch.setattr(asking, "check_engine", lambda *_: {})  # once a shard and variant: most of the time
    p = Eval(run="r", base_model=str(model_folder), variants=["base", "csp"], pope=str(data["data/pope"]),
             amber=str(data["data/amber"]), n_questions=2, batch_size=4, max_new_tokens=4,
             methods=["greedy", "sampled"], n_samples=1, n_bootstrap=40)  # fmt: skip

    def run(n: int, folder: str, beforehand: int | None = None) -> RunPaths:
        paths, q = RunPaths("r", tmp_path / folder), p.model_copy(update={"shards": n})
        paths["simpo/checkpoint"].parent.mkdir(parents=True, exist_ok=True)
        if not paths["simpo/checkpoint"].exists():
            paths["simpo/checkpoint"].symlink_to(model_folder)
        for i in range(n if beforehand is None else beforehand):
            write_shard(job_of(q, paths), Shard(i, n))
        run_stage(q, paths)
        return paths

    return p, run


def test_one_two_and_seven_shards_give_the_same_bytes(world) -> None:
    _, run = world
    found = [run(n, f"in{n}", 0 if n == 1 else None) for n in (1, 2, 7)]
    assert len({(sha256(paths["responses.parquet"]), sha256(paths["elicitations.parquet"])) for paths in found}) == 1
    responses = pd.read_parquet(found[0]["responses.parquet"])
    assert responses["variant"].unique().tolist() == ["base", "csp"] and responses["raw"].nunique() > 2
    told, one, two, seven = ({name: settings(paths, name) for name in ("base", "csp")} for paths in (found[1], *found))
    assert told["csp"]["asked_by"]["engine"] == "shared" and list(told["csp"]["shards"]) == ["1of2", "2of2"]
    for parts in (two, seven):
        assert {name: record["rows"] for name, record in parts.items()} == {
            name: record["rows"] for name, record in one.items()}
    rows = [json.loads(file.read_text())["base"]["rows"] for file in found[2]["elicited"].glob("settings.*of7.json")]
    assert len(rows) == 7 and min(rows) == 0  # fewer batches than shards


def settings(paths: RunPaths, variant: str) -> dict:
    """Return what settings.json says about a variant."""
    return json.loads((paths["elicited"] / "settings.json").read_text())[variant]


def test_settings_of_shards_hold_the_largest_difference_of_the_engines(tmp_path: Path) -> None:
    """Whoever reads settings.json wants to know how far the engines agree, in however many shards they were asked."""
    for number, far in enumerate((2e-6, 5e-5, 1e-7)):
        check = {"prompts": 6, "replies": 6, "different_replies": 0, "largest_difference": far}
        record = {"base": {"checkpoint": "m", "rows": 4, "seconds": 1.5, "asked_by": {"engine": "shared",
                                                                                      "check": check}}}  # fmt: skip
        (tmp_path / f"settings.{number + 1}of3.json").write_text(json.dumps(record))
    (tmp_path / "settings.1of2.json").write_text("{}")  # of an earlier run in two shards
    asking.write_settings_of_shards(tmp_path, 3)
    found = json.loads((tmp_path / "settings.json").read_text())["base"]
    assert found["asked_by"]["check"]["largest_difference"] == 5e-5 and found["rows"] == 12
    assert found["seconds"] == 4.5 and list(found["shards"]) == ["1of3", "2of3", "3of3"]


def test_what_a_cut_shard_had_asked_is_not_asked_again(world, monkeypatch: pytest.MonkeyPatch) -> None:
    _, run = world
    whole, asked, elicit = run(1, "whole"), [], evaluation.elicit

    def cut(model, *arguments):
        asked.append(arguments[1].description)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return elicit(model, *arguments)

    monkeypatch.setattr(evaluation, "elicit", cut)
    with pytest.raises(KeyboardInterrupt):
        run(2, "cut")  # while csp is asked the second shard
    paths = run(2, "cut")
    assert asked == ["asking base", "asking csp"] * 2 + ["asking csp"]
    assert sha256(paths["responses.parquet"]) == sha256(whole["responses.parquet"])


def test_amber_can_be_left_out(world) -> None:
    p, _ = world
    both = evaluation.questions(p, RunPaths("r"))
    without = p.model_copy(update={"benchmarks": ["pope"], "amber": None})
    pope = evaluation.questions(without, RunPaths("r"))  # whose own AMBER is not there
    assert sorted(set(both["split"]) - set(pope["split"])) == ["amber_attribute", "amber_relation"]
    pd.testing.assert_frame_equal(pope, both[both["split"].str.startswith("pope")])
    paths = RunPaths("r")
    assert Path(p.amber) in STAGE.reads(p, paths).values()
    assert not {paths["data/amber"], Path(p.amber)} & set(STAGE.reads(without, paths).values())
    with pytest.raises(ValidationError, match="pope has to be among them"):
        Eval(benchmarks=["amber"])
