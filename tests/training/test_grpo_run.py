"""A training by GRPO as a stage runs it, with sampled replies: what it leaves, and how it goes on (slow)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_jsonl, write_jsonl
from csp_utils.base.run import RunPaths
from csp_utils.results.origin import Origin
from csp_utils.results.stage import Job, Stage
from csp_utils.tiny_world.models.vlm import new_vlm
from csp_utils.training.grpo.parameters import Grpo
from csp_utils.training.grpo.results import FILES
from csp_utils.training.grpo.rows import grpo_row
from csp_utils.training.grpo.run import train
from csp_utils.training.results import WORK

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Change to the project root, as notebooks do."""
    monkeypatch.chdir(ROOT)


def compute(job) -> None:
    """Train."""
    train(job)


STAGE = Stage("13_grpo", Grpo, compute, makes=tuple(f"grpo/{name}" for name in FILES))


def run(p: Grpo, folder: Path, **inputs: str) -> tuple[Path, list[str]]:
    """Run a training into a new folder; return the folder of its results, and what it said."""
    said: list[str] = []
    out = folder / f"out{len(list(folder.glob('out*')))}"
    out.mkdir()
    train(Job(STAGE, p, RunPaths("r", folder), out, Origin("13_grpo", inputs=inputs), say=said.append))
    return out / "grpo", said


def world(folder: Path, rows: int = 5) -> Grpo:
    """Make a model of random weights and rows; return parameters of three updates of two prompts."""
    model, _ = new_vlm(folder / "vlm")
    model.float().save_pretrained(folder / "vlm")
    found = []
    for i in range(rows):
        path = folder / f"{i}.png"
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (60, 45, 3), np.uint8)).save(path)
        item = {"item_id": f"q{i}", "problem": "<image>\nHow many?", "answer": str(i), "kind": "number", "options": []}
        found.append(grpo_row(item, [str(path)], "{problem}"))
    write_jsonl(found, RunPaths("r", folder)["reasoned/grpo.jsonl"])
    return Grpo(model=str(folder / "vlm"), generations=8, batch_size=8, gradient_accumulation_steps=2, updates=3,
                max_new_tokens=12, device="cpu", max_pixels=3136, kl="full", learning_rate=1e-3,
                n_rows=None)  # fmt: skip


def test_a_training_leaves_its_command_arguments_log_and_replies(tmp_path):
    p = world(tmp_path)
    out, said = run(p, tmp_path)
    assert said[0] == "3 updates of 2 prompts; each pass leaves 1 rows out, which do not fill an update."
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    args, log = json.loads((out / "args.json").read_text()), pd.read_parquet(out / "log.parquet")
    assert args["model_kwargs"] == p.settings().as_argument() and args["teacher_kl_coef"] == 0
    assert all(word in (out / "command.txt").read_text() for word in ("visual_certainty.py", "vl_calibration"))
    assert log["step"].tolist() == [1, 2, 3] and (log["teacher_kl"] > 0).all()  # the image matters to random weights
    replies = pd.read_parquet(out / "completions.parquet")
    assert replies.groupby("step").size().tolist() == [16, 16, 16]
    ids = replies["row_id"].to_numpy().reshape(6, 8)  # the replies to a prompt lie side by side
    assert (ids == ids[:, :1]).all() and all(ids[i, 0] != ids[i + 1, 0] for i in (0, 2, 4))
    assert replies["completion"].nunique() > 6  # they are sampled, and beyond the second token
    assert (replies["form"] != "well formed").all() and (replies["Visual"] == -1).all()
    assert (replies["advantages"] == 0).all() and log["loss"][0] == 0  # all rewards are equal: nothing is learned
    assert {"kl", "reward", "rewards/Visual/mean", "replies/right"} <= set(log.columns)


def test_a_killed_training_goes_on_with_the_same_replies(tmp_path):
    p = world(tmp_path).model_copy(update={"save_steps": 1, "beta": 0.1})
    whole = tmp_path / "whole"
    whole.mkdir()
    paths = RunPaths("r", whole)
    write_jsonl(read_jsonl(RunPaths("r", tmp_path)["reasoned/grpo.jsonl"]), paths["reasoned/grpo.jsonl"])
    expected = pd.read_parquet(run(p, whole)[0] / "completions.parquet")
    code = ("import sys; sys.path.insert(0, 'tests/training'); from pathlib import Path; import test_grpo_run as t; "
            "t.run(t.Grpo.model_validate_json(sys.argv[1]), Path(sys.argv[2]))")  # fmt: skip
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen([sys.executable, "-c", code, p.model_dump_json(), str(tmp_path)], cwd=ROOT,
                               env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL)  # fmt: skip
    work, deadline = RunPaths("r", tmp_path)["grpo"] / WORK, time.monotonic() + 200
    while not any(work.glob("checkpoint-*/trainer_state.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    out, said = run(p, tmp_path)
    assert any("is continued" in line for line in said)
    assert json.loads((out / "args.json").read_text())["ref_model"] == p.model  # and not the checkpoint
    pd.testing.assert_frame_equal(pd.read_parquet(out / "completions.parquet"), expected, rtol=1e-4)


def test_rows_and_settings_are_refused_before_anything_is_trained(tmp_path):
    p = world(tmp_path, 1)
    with pytest.raises(UserError, match="An update takes 2 prompts, and there are 1 rows"):
        run(p, tmp_path)
    paths = RunPaths("r", tmp_path)
    rows = read_jsonl(paths["reasoned/grpo.jsonl"])
    write_jsonl([{**row, "kind": "colour"} for row in rows], paths["reasoned/grpo.jsonl"])
    with pytest.raises(UserError, match="has the kind 'colour'"):
        run(p, tmp_path)
    assert not (paths["grpo"] / WORK).exists()
