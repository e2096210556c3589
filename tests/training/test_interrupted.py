"""Trainings that are interrupted, and trainings whose bookkeeping fails: no finished update is computed twice.

ms-swift is pretended by a function that leaves the files it would leave, but for the last two tests (slow).
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from stage_tools import run_stage
from test_training import ROOT, VLM, at_the_root, paths, write_rows  # noqa: F401  (fixtures)

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_jsonl
from csp_utils.base.run import RunPaths
from csp_utils.stages.sft import Sft
from csp_utils.training import command as training
from csp_utils.training import run as training_run
from csp_utils.training.results import FILES, UNCHECKED, WORK


class Swift:
    """Stands for the subprocess: leaves a checkpoint, args.json, logging.jsonl and swift.log; counts the trainings.

    Attributes:
        recorded: what args.json says otherwise than the parameters.
        rows: number of rows that swift.log speaks of; None: it does not.
        ends: what is raised after the first checkpoint with the optimizer's state; None: the training ends well.
    """

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.recorded: dict[str, Any] = {}
        self.rows: int | None = 6
        self.ends: BaseException | None = None

    def __call__(self, words: list[str], log: Path, env: Any, show: Any, failed: Path) -> None:
        self.commands.append(words)
        work, p = log.parent, Sft()
        checkpoint = work / ("checkpoint-1" if self.ends else "checkpoint-2")
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_text(f"weights of training {len(self.commands)}")
        if self.ends:
            (checkpoint / "trainer_state.json").write_text("{}")
            (checkpoint / "optimizer.pt").write_text("moments")
            raise self.ends
        args = {"tuner_type": "full", "num_train_epochs": 1, "per_device_train_batch_size": p.batch_size,
                "gradient_accumulation_steps": p.gradient_accumulation_steps, "learning_rate": p.learning_rate,
                "gradient_checkpointing": True, "seed": 0, "strict": True, "split_dataset_ratio": 0, "fp16": False}
        (work / "args.json").write_text(json.dumps(args | self.recorded))
        write_jsonl([{"loss": 1.0, "global_step/max_steps": "1/1", "train_speed(s/it)": 0.5}], work / "logging.jsonl")
        told = "" if self.rows is None else f"train_dataset: Dataset({{\n    num_rows: {self.rows}\n}})"
        log.write_text(f"[INFO:swift] {told}\n")


@pytest.fixture
def swift(monkeypatch) -> Swift:
    pretended = Swift()
    monkeypatch.setattr(training_run, "stream", pretended)
    return pretended


def published(paths: RunPaths) -> str:  # noqa: F811
    """Return the weights that the stage has published, all else being there as well."""
    assert {path.name for path in paths["sft"].iterdir()} - {"train.jsonl"} == {*FILES}
    return (paths["sft/checkpoint"] / "model.safetensors").read_text()


# ----------------------------------------------------------------------------------- bookkeeping that fails afterwards


def test_an_option_with_an_equals_sign_is_understood(swift, paths):  # noqa: F811
    """Was: compared with the parameter's value all the same, refused, and the weights deleted."""
    swift.recorded = {"learning_rate": 2e-5}
    run_stage(Sft(extra_args=["--learning_rate=2e-5"], device="cpu"), paths)
    assert published(paths) == "weights of training 1" and swift.commands[0][-1] == "--learning_rate=2e-5"


def fails_once(monkeypatch, owner: Any, name: str, error: Exception) -> None:
    """Have a function raise when it is called for the first time."""
    function, calls = getattr(owner, name), []

    def failing(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return function(*arguments, **named)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize("owner, name, error, said", [
    (pq, "write_table", OSError(28, "No space left on device"), "The disk is full: .*log.parquet"),
    (training, "recorded", UserError("ms-swift recorded seed 1, not 0 as asked."), "recorded seed 1"),
    (training_run, "read_logging", KeyError("train_speed(s/it)"), None),
    (training_run.checkpoints, "record_max_pixels", OSError(5, "Input/output error"), None),
])  # fmt: skip
def test_weights_survive_bookkeeping_that_fails(swift, paths, monkeypatch, owner, name, error, said):  # noqa: F811
    """Was: the work folder with hours of training was deleted by whatever failed after it."""
    fails_once(monkeypatch, owner, name, error)
    p = Sft(device="cpu")
    with pytest.raises(UserError if said else type(error), match=said) as raised:
        run_stage(p, paths)
    unchecked = paths["sft"] / UNCHECKED
    assert (unchecked / "checkpoint-2" / "model.safetensors").read_text() == "weights of training 1"
    assert not said or f"weights are in {unchecked}" in str(raised.value) and "\n" not in str(raised.value)
    assert not paths["sft/checkpoint"].exists()
    lines = run_stage(p, paths)
    assert any("it is not repeated" in line for line in lines)
    assert published(paths) == "weights of training 1" and len(swift.commands) == 1


def test_a_log_that_does_not_say_the_rows_costs_no_weights(swift, paths):  # noqa: F811
    """Was: an AttributeError of None, and no weights."""
    swift.rows = None
    p = Sft(device="cpu")
    for _ in range(2):
        with pytest.raises(UserError, match=r"trained on None rows instead of 6; see .*swift.log"):
            run_stage(p, paths)
    log = paths["sft"] / UNCHECKED / "swift.log"
    log.write_text("train_dataset: Dataset({ num_rows: 6 })")
    run_stage(p, paths)
    assert published(paths) == "weights of training 1" and len(swift.commands) == 1


def test_mending_the_bookkeeping_costs_no_training(swift, paths, monkeypatch):  # noqa: F811
    """The code that checks and keeps the weights may change between the two calls; that which trains may not."""
    from csp_utils.results import code

    source = code._source
    changed = {"csp_utils/training/run.py": ("def _check_and_keep(", "ONE_MORE = 1\n\n\ndef _check_and_keep(")}

    def mended(path: Path) -> str:
        text = source(path)
        for name, (old, new) in changed.items():
            if path.as_posix().endswith(name):
                assert old in text
                text = text.replace(old, new).replace("rows instead of", "rows, not")
        return text

    p = Sft(device="cpu")
    fails_once(monkeypatch, training_run, "read_logging", ValueError("a bug"))
    with pytest.raises(ValueError):
        run_stage(p, paths)
    monkeypatch.setattr(code, "_source", mended)
    code._module.cache_clear()
    try:
        run_stage(p, paths)
        assert published(paths) == "weights of training 1" and len(swift.commands) == 1
        fails_once(monkeypatch, training_run, "read_logging", ValueError("another bug"))
        changed["csp_utils/training/command.py"] = ('"--save_total_limit": 1', '"--save_total_limit": 2')
        code._module.cache_clear()
        with pytest.raises(ValueError):
            run_stage(p, paths)
        assert len(swift.commands) == 2
    finally:
        monkeypatch.undo()
        code._module.cache_clear()


def test_weights_of_another_training_are_not_taken(swift, paths, monkeypatch):  # noqa: F811
    fails_once(monkeypatch, training, "recorded", UserError("refused."))
    with pytest.raises(UserError, match="refused"):
        run_stage(Sft(device="cpu"), paths)
    swift.recorded = {"learning_rate": 1e-3}
    other = Sft(device="cpu", learning_rate=1e-3)
    swift.ends = UserError("ms-swift stopped.")
    with pytest.raises(UserError, match="ms-swift stopped"):
        run_stage(other, paths)
    kept = paths["sft"] / UNCHECKED / "checkpoint-2" / "model.safetensors"
    assert kept.read_text() == "weights of training 1"  # until others are whole
    swift.ends = None
    said = run_stage(other, paths)
    assert any("another training (learning_rate was 1e-05 and is 0.001)" in line for line in said)
    assert published(paths) == "weights of training 3"


def test_older_results_stay_until_new_ones_are_whole(swift, paths, monkeypatch):  # noqa: F811
    run_stage(Sft(device="cpu"), paths)
    swift.recorded = {"learning_rate": 1e-3}
    fails_once(monkeypatch, pq, "write_table", OSError(28, "No space left on device"))
    with pytest.raises(UserError, match="The disk is full"):
        run_stage(Sft(device="cpu", learning_rate=1e-3), paths)
    assert (paths["sft/checkpoint"] / "model.safetensors").read_text() == "weights of training 1"
    assert pd.read_parquet(paths["sft/log.parquet"])["loss"].tolist() == [1.0]
    run_stage(Sft(device="cpu", learning_rate=1e-3), paths)
    assert published(paths) == "weights of training 2"


def test_nothing_is_trained_again_where_nothing_changed(swift, paths):  # noqa: F811
    for device in ("cpu", "cpu", "auto"):  # where it runs is no reason
        run_stage(Sft(device=device), paths)
    assert len(swift.commands) == 1


# ------------------------------------------------------------------------------------------------ resumed trainings


@pytest.fixture
def interrupted(swift, paths) -> RunPaths:  # noqa: F811
    """A training that was stopped after its first checkpoint."""
    swift.ends = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_stage(Sft(device="cpu"), paths)
    assert (paths["sft"] / WORK / "checkpoint-1" / "optimizer.pt").is_file()
    swift.ends = None
    return paths


def test_an_interrupted_training_goes_on(swift, interrupted):
    said = run_stage(Sft(device="cpu"), interrupted)
    resume = str(interrupted["sft"] / WORK / "checkpoint-1")
    assert swift.commands[1][-2:] == ["--resume_from_checkpoint", resume]
    assert "--resume_from_checkpoint" not in interrupted["sft/command.txt"].read_text()
    assert any("is continued" in line for line in said) and published(interrupted) == "weights of training 2"


@pytest.mark.parametrize("changed", ["the training rows", "their images", "the start model"])
def test_an_interrupted_training_of_other_data_is_neither_continued_nor_deleted(swift, interrupted, changed, tmp_path):
    """Was: continued on other rows without a word, so that one half had learned other answers than the other."""
    p = Sft(device="cpu")
    if changed == "the training rows":
        write_rows(interrupted, 5)
        (interrupted["perturbed/images"] / "5.png").touch()
    if changed == "their images":
        image = interrupted["perturbed/images"] / "0.png"
        image.write_bytes((interrupted["perturbed/images"] / "1.png").read_bytes())
    if changed == "the start model":
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2_vl"}')
        p = Sft(device="cpu", model=str(tmp_path / "model"))
    with pytest.raises(UserError, match=f"interrupted training, but .*{changed}.* changed since; .*or delete"):
        run_stage(p, interrupted)
    assert (interrupted["sft"] / WORK / "checkpoint-1" / "optimizer.pt").is_file() and len(swift.commands) == 1


def test_another_learning_rate_is_trained_from_the_start(swift, interrupted):
    swift.recorded = {"learning_rate": 1e-3}
    said = run_stage(Sft(device="cpu", learning_rate=1e-3), interrupted)
    assert any("is not continued (learning_rate was 1e-05 and is 0.001); it is trained from the start" in line
               for line in said)  # fmt: skip
    assert "--resume_from_checkpoint" not in swift.commands[1] and published(interrupted) == "weights of training 2"


def test_a_training_of_unknown_origin_is_not_continued(swift, interrupted):
    """As one that an older version of this project has left."""
    (interrupted["sft"] / WORK / "ORIGIN.json").unlink()
    said = run_stage(Sft(device="cpu"), interrupted)
    assert any("unknown origin" in line for line in said) and "--resume_from_checkpoint" not in swift.commands[1]


# ------------------------------------------------------------------------------------------------------ with ms-swift


@pytest.mark.slow
def test_real_weights_survive_a_full_disk(paths, monkeypatch):  # noqa: F811
    """One real training; what is published after the failure are its weights, and no second training runs."""
    p = Sft(n_rows=None, device="cpu")
    fails_once(monkeypatch, pq, "write_table", OSError(28, "No space left on device"))
    with pytest.raises(UserError, match="The disk is full"):
        run_stage(p, paths)
    (kept,) = (paths["sft"] / UNCHECKED).glob("checkpoint-*/model.safetensors")
    weights = kept.read_bytes()
    monkeypatch.setattr(training_run, "stream", lambda *_, **__: pytest.fail("trained a second time"))
    run_stage(p, paths)
    assert (paths["sft/checkpoint"] / "model.safetensors").read_bytes() == weights
    assert not (paths["sft"] / UNCHECKED).exists() and len(pd.read_parquet(paths["sft/log.parquet"])) == 1


RESUMABLE = ["--save_only_model", "false", "--save_strategy", "steps", "--save_steps", "4"]


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path):
    """Killed outright after the first checkpoint; the same call goes on and makes as many updates as were planned."""
    paths = RunPaths("r", tmp_path)  # noqa: F811
    write_rows(paths, 60)
    p = Sft(n_rows=None, batch_size=1, gradient_accumulation_steps=1, device="cpu", model=VLM, extra_args=RESUMABLE)
    code = ("import sys; from csp_utils.results.produce import produce; from csp_utils.base.run import RunPaths; "
            "from csp_utils.stages import stages; stage = stages['04_sft']; "
            "produce(stage, stage.params.model_validate_json(sys.argv[1]), RunPaths('r', sys.argv[2]))")  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code, p.model_dump_json(), str(tmp_path)], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    work, deadline = paths["sft"] / WORK, time.monotonic() + 200
    while not any(work.glob("checkpoint-*/trainer_state.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert any(work.glob("checkpoint-*/optimizer.pt")) and not paths["sft/checkpoint"].exists()
    said = run_stage(p, paths)
    assert any("is continued" in line for line in said)
    log = paths["sft/swift.log"].read_text()
    assert "resume_from_checkpoint" in log
    table = pd.read_parquet(paths["sft/log.parquet"])
    assert table["step"].tolist() == list(range(1, 61))
    updates = [line for line in log.splitlines() if line.startswith("{'loss'")]
    assert 0 < len(updates) < 60  # those before the checkpoint are not in the second training's log
