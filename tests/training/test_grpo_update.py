"""One update of the plugin, run by ms-swift, against a reference in plain torch; and by two processes (slow).

The replies are prescribed, token by token, so that everything is known: which are right, well formed and cut, and which
tokens are the description. The reference computes prompts, pixels, log-probabilities, labels, advantages, factors,
loss and gradients by itself, one reply at a time, without padding.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from grpo_reference import Reply, Update
from PIL import Image

from csp_utils.base.files import portable, read_jsonl, write_json, write_jsonl
from csp_utils.tiny_world.models.vlm import new_vlm
from csp_utils.training import command as training
from csp_utils.training.grpo.parameters import ARMS, Grpo
from csp_utils.training.grpo.results import PLUGIN
from csp_utils.training.grpo.rows import grpo_row
from csp_utils.training.grpo.run import read_completions, with_plugin

HERE = Path(__file__).resolve().parent
SIDE, TEMPERATURE, SEED = 56, 0.8, 5
COMMON = {"generations": 4, "batch_size": 2, "gradient_accumulation_steps": 4, "updates": 1, "max_new_tokens": 200,
          "temperature": TEMPERATURE, "device": "cpu", "max_pixels": SIDE * SIDE, "seed": SEED, "beta": 0.04,
          "learning_rate": 1.0e-3}  # fmt: skip
RUNS: dict[str, dict] = {
    "reweighted": {"kl": "full", "strength": 0.5},
    "estimated": {"strength": 0.3, "top_tokens": 0.25},
    "released": {**ARMS["released"], "reply_format": "decoupled"},
    "entropy": {**ARMS["entropy"], "single_labels": "rank"},
    "kl": ARMS["kl"],
    "grpo": {**ARMS["both"], "loss_type": "grpo", "perturbation": "grey"},
    "decoupled": ARMS["decoupled"],
    "rlvr": {**ARMS["rlvr"]},
}
"""Names of the runs -> the parameters in which they differ."""


def said(see: str, reason: str, answer: str, visual: str, reasoned: str) -> list[str]:
    """The pieces of a reply in the format decoupled."""
    return ["<vision>", see, f"</vision><reasoning>{reason}</reasoning> \\boxed{{{answer}}}",
            f"<vision_confidence>{visual}</vision_confidence><reasoning_confidence>{reasoned}</reasoning_confidence>"]


PROMPTS = {
    "q0": ("<image>\nHow many stars?", "7", "number", [
        Reply(said("one star", "one", "7", "8", "6"), True, 0.8, 0.6),
        Reply(said("two red clouds and a star", "two", "6", "9", "9"), False, 0.9, 0.9),
        Reply(["It is ", "7", " \\boxed{7}"], True, well_formed=False, described=False),
        Reply(said("star cloud star", "three", "5", "high", "0"), False, None, 0.0, well_formed=False),
    ]),
    "q1": ("<image>\nWhich one is it?\nA. cup\nB. boat", "B", "choice", [
        Reply(said("a blue boat", "boat", "(B)", "10", "10"), True, 1.0, 1.0),
        Reply(said("cup cup cup cup", "cup", "A", "2", "3"), False, 0.2, 0.3),
        Reply(["<vision>", "a boat", "</vision><reasoning>it"], False, well_formed=False, ended=False),
        Reply(said("boat", "no", "B", "0", "4"), True, 0.0, 0.4),
    ]),
}  # fmt: skip
"""row_id -> problem, solution, kind, replies. Their order is that of the reference; ms-swift shuffles the prompts."""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with a model, rows, images and the script. The random weights are large enough for images to matter."""
    folder = tmp_path_factory.mktemp("world")
    model, tokenizer = new_vlm(folder / "vlm", seed=1)
    model.float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(8.0 if "lm_head" in name or "merger" in name else 2.0 if weight.dim() > 1 else 1.0)
    model.save_pretrained(folder / "vlm")
    rows, script = [], {}
    for number, (row_id, (problem, solution, kind, replies)) in enumerate(PROMPTS.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{row_id}.png")
        item = {"item_id": row_id, "problem": problem, "answer": solution, "kind": kind, "options": []}
        rows.append(grpo_row(item, [str(folder / f"{row_id}.png")], "{problem}"))
        script[problem] = [reply.tokens(tokenizer) for reply in replies]
    write_jsonl(rows, folder / "rows.jsonl")
    write_json(script, folder / "script.json")
    return folder


def parameters(world: Path, name: str, **changes) -> Grpo:
    """The parameters of a run."""
    return Grpo(model=str(world / "vlm"), **{**COMMON, **RUNS[name], **changes})


def words_of(world: Path, p: Grpo, out: Path) -> tuple[list[str], dict[str, str]]:
    """The words of ms-swift's command line after ``rlhf``, with the plugin for tests, and its environment."""
    p = with_plugin(p, p.model)
    words = training.command(p, p.model, str(world / "rows.jsonl"), str(out / "work"))
    words.insert(words.index(portable(PLUGIN)) + 1, str(HERE / "grpo_script.py"))
    variables = training.environment(p, p.model, out / "work")
    paths = {"CSP_TEST_SCRIPT": str(world / "script.json"), "CSP_TEST_RECORD": str(out / "record")}
    return words, variables | paths


def run(words: list[str], variables: dict[str, str]) -> None:
    """Run a command; where it fails, its last lines say why."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, "PYTHONPATH": path} | variables)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture(scope="module")
def runs(world: Path) -> dict[str, Path]:
    """The folder of each run, all by one process."""
    specs = []
    for name in RUNS:
        (world / name).mkdir()
        words, variables = words_of(world, parameters(world, name), world / name)
        specs.append({"words": words[words.index("swift.cli.rlhf") + 1 :], "variables": variables})
    write_json(specs, world / "runs.json")
    run([sys.executable, str(HERE / "grpo_runs.py"), str(world / "runs.json")], specs[0]["variables"])
    return {name: world / name for name in RUNS}


@pytest.fixture(scope="module")
def of(world: Path, runs: dict[str, Path]):
    """A function that returns what a run recorded, its replies, its log, and the reference."""
    cache: dict[str, tuple] = {}

    def one(name: str) -> tuple:
        if name not in cache:
            record = torch.load(runs[name] / "record.0", weights_only=False)
            replies = read_completions(runs[name] / "work/completions.jsonl")
            (log,) = [line for line in read_jsonl(runs[name] / "work/logging.jsonl") if "loss" in line]
            order = replies["row_id"].iloc[:: COMMON["generations"]].tolist()
            assert sorted(order) == sorted(PROMPTS)
            cache[name] = record, replies, log, Update(world, parameters(world, name), PROMPTS, order)
        return cache[name]

    return one


def per_reply(record: dict, name: str) -> list[np.ndarray]:
    """A (B, T) tensor of the micro-batches, as one array over the sampled tokens for each reply."""
    return [values[mask.bool()].numpy() for batch in record["batches"] for values, mask in
            zip(batch[name], batch["completion_mask"], strict=True)]  # fmt: skip


def close(found, expected, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Compare numbers, NaN included."""
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol=rtol, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_tokens_of_replies_and_descriptions_are_the_prescribed_ones(name, of):
    record, replies, _, expected = of(name)
    for found, want in zip(per_reply(record, "description"), expected.described, strict=True):
        assert found.tolist() == want.tolist()
    for found, want in zip(per_reply(record, "old_per_token_logps"), expected.logp, strict=True):
        close(found, want)
    assert replies["description_tokens"].tolist() == [int(one.sum()) for one in expected.described]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_rewards_and_labels_are_the_references(name, of):
    record, replies, log, expected = of(name)
    names = {"accuracy": "Accuracy", "calibration": "Calibration", "format": "Format", "visual": "Visual"}
    assert {column for column in names.values() if column in replies} == {names[reward] for reward in expected.rewards}
    for reward, values in expected.rewards.items():
        close(replies[names[reward]], values)
        close(log[f"rewards/{names[reward]}/mean"], values.mean())
    if hasattr(expected, "labels"):
        close(replies["soft_label"], expected.labels)
        assert np.ptp(expected.labels[~np.isnan(expected.labels)]) > 0.3  # else the test would see no difference
    else:
        assert "soft_label" not in replies
    close(replies["description_entropy"], expected.h)
    if parameters(Path(), name).settings().masks:
        close(replies["description_kl"], expected.kl)
    else:
        assert replies["description_kl"].isna().all() and record["batches"][0]["teacher_per_token_logps"] is None


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_advantages_and_their_factors_are_the_references(name, of):
    record, replies, _, expected = of(name)
    close(replies["advantages"], expected.base, rtol=1e-3)
    for found, want in zip(per_reply(record, "advantages"), expected.advantages, strict=True):
        close(found, want, rtol=1e-3)
    p = parameters(Path(), name)
    unequal = [len(np.unique(np.round(one, 6))) > 1 for one in expected.advantages]
    assert any(unequal) == (p.strength > 0 or p.top_tokens < 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_loss_and_gradients_are_the_references(name, of):
    record, _, log, expected = of(name)
    close(log["loss"], expected.loss, rtol=1e-3, atol=1e-4)
    close(log["grad_norm"], expected.norm, rtol=1e-3)
    assert record["gradients"].keys() == expected.gradients.keys()
    assert any("visual" in weight for weight in expected.gradients)
    for weight, gradient in expected.gradients.items():
        close(record["gradients"][weight].numpy(), gradient.numpy(), rtol=1e-2, atol=1e-5)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(world, runs, of, tmp_path):
    """Each process has one prompt, so labels, advantages and gradients agree only if they are gathered."""
    p = parameters(world, "reweighted", processes=2, gradient_accumulation_steps=2)
    words, variables = words_of(world, p, tmp_path)
    with socket.socket() as free:
        free.bind(("", 0))
        variables["MASTER_PORT"] = str(free.getsockname()[1])
    run(words, variables)
    one, replies, _, _ = of("reweighted")
    both = read_completions(tmp_path / "work/completions.jsonl")
    pd.testing.assert_frame_equal(both, replies, rtol=1e-4, atol=1e-5)
    halves = [torch.load(tmp_path / f"record.{process}", weights_only=False) for process in (0, 1)]
    found = [values for half in halves for values in per_reply(half, "advantages")]
    for two_processes, one_process in zip(found, per_reply(one, "advantages"), strict=True):
        close(two_processes, one_process, rtol=1e-3)
    for weight, gradient in one["gradients"].items():
        close(halves[0]["gradients"][weight.replace("module.", "")], gradient, rtol=1e-2, atol=1e-5)
