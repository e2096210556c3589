"""Test interrupted trainings, and trainings whose bookkeeping fails: no finished update is computed twice.

A function replaces ms-swift and writes its files, except in the last two tests (slow).
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
from safetensors.torch import load_file
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
    """Replace the subprocess: write a checkpoint, args.json, logging.jsonl and swift.log, and count the trainings.

    Attributes:
        recorded: values in args.json that differ from the parameters.
        rows: number of rows in swift.log; None: swift.log does not contain it.
        ends: exception after the first checkpoint with the optimizer state; None: the training succeeds.
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
    """Return the weights that the stage has published, and check that all other results exist."""
    assert {path.name for path in paths["sft"].iterdir()} - {"train.jsonl"} == {*FILES}
    return (paths["sft/checkpoint"] / "model.safetensors").read_text()


# ----------------------------------------------------------------------------------- bookkeeping that fails afterwards


def test_an_option_with_an_equals_sign_is_understood(swift, paths):  # noqa: F811
    """Formerly, it was compared with the parameter's value and refused, and the weights were deleted."""
    swift.recorded = {"learning_rate": 2e-5}
    run_stage(Sft(extra_args=["--learning_rate=2e-5"], device="cpu"), paths)
    assert published(paths) == "weights of training 1" and swift.commands[0][-1] == "--learning_rate=2e-5"


def fails_once(monkeypatch, owner: Any, name: str, error: Exception) -> None:
    """Make a function raise at its first call."""
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
    """Formerly, any later failure deleted the work folder with hours of training."""
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
    """Formerly, this raised an AttributeError of None, and the weights were lost."""
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
    """The code that checks and stores the weights may change between the two calls; the code that trains may not."""
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
    assert kept.read_text() == "weights of training 1"  # until the new weights are complete
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
    for device in ("cpu", "cpu", "auto"):  # the device is no reason to train again
        run_stage(Sft(device=device), paths)
    assert len(swift.commands) == 1


# ------------------------------------------------------------------------------------------------ resumed trainings


@pytest.fixture
def interrupted(swift, paths) -> RunPaths:  # noqa: F811
    """Return the paths of a training that was interrupted after its first checkpoint."""
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
    assert swift.commands[1][swift.commands[1].index("--model") + 1] == resume  # or the start model would be trained
    assert "--resume_from_checkpoint" not in interrupted["sft/command.txt"].read_text()
    assert any("is continued" in line for line in said) and published(interrupted) == "weights of training 2"


@pytest.mark.parametrize("changed", ["the training rows", "their images", "the start model"])
def test_an_interrupted_training_of_other_data_is_neither_continued_nor_deleted(swift, interrupted, changed, tmp_path):
    """Formerly, it silently resumed with other rows, so its two halves learned different answers."""
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
    """An older version of this project leaves such trainings."""
    (interrupted["sft"] / WORK / "ORIGIN.json").unlink()
    said = run_stage(Sft(device="cpu"), interrupted)
    assert any("unknown origin" in line for line in said) and "--resume_from_checkpoint" not in swift.commands[1]


# ------------------------------------------------------------------------------------------------------ with ms-swift


@pytest.mark.slow
def test_real_weights_survive_a_full_disk(paths, monkeypatch):  # noqa: F811
    """After one real training and the failure, its weights are published, and no second training runs."""
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


def killed_at_a_checkpoint(p: Sft, tmp_path: Path) -> RunPaths:
    """Kill a training with its parent after its first checkpoint."""
    paths = RunPaths("r", tmp_path)  # noqa: F811
    write_rows(paths, 60)
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
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path, workers):
    """It is killed after the first checkpoint; the same call makes all planned updates, and no other ones."""
    p = Sft(n_rows=50, batch_size=1, gradient_accumulation_steps=1, device="cpu", model=VLM, save_steps=4, epochs=1,
            learning_rate=1e-3, eval_share=0.1)  # fmt: skip
    interrupted = killed_at_a_checkpoint(p, tmp_path / "killed")
    said = run_stage(p.model_copy(update={"dataloader_workers": workers}), interrupted)
    assert any("is continued" in line for line in said)
    log = interrupted["sft/swift.log"].read_text()
    assert "resume_from_checkpoint" in log
    assert 0 < len([line for line in log.splitlines() if line.startswith("{'loss'")]) < 50  # only those after it
    whole = RunPaths("r", tmp_path / "whole")
    write_rows(whole, 60)
    run_stage(p, whole)
    one, other = (pd.read_parquet(each["sft/log.parquet"]) for each in (interrupted, whole))
    assert one["step"].tolist() == other["step"].tolist() == list(range(1, len(one) + 1))
    assert one["loss"].tolist() == pytest.approx(other["loss"].tolist(), rel=1e-5)
    weights = [load_file(each["sft/checkpoint"] / "model.safetensors") for each in (interrupted, whole)]
    start = load_file(f"{VLM}/model.safetensors")
    moved = max((weights[1][name] - value.float()).abs().max() for name, value in start.items())
    assert max((weights[0][name] - value).abs().max() for name, value in weights[1].items()) <= 1e-3 * moved
    assert not any(any(interrupted["sft/checkpoint"].glob(name)) for name in training_run.STATE)  # is not published


def test_a_checkpoint_that_was_not_written_whole_is_not_resumed(tmp_path):
    for step, state in ((2, "{}"), (4, '{"global_st'), (6, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "optimizer.pt").touch()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert training_run._resumable(tmp_path) == tmp_path / "checkpoint-2"
