"""Test ms-swift's command line, the results of a training, and SimPO's loss against the paper's formula (slow)."""

import io
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from stage_tools import masks_of, rlaif_row, run_stage

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_jsonl, write_parquet
from csp_utils.base.run import RunPaths
from csp_utils.data.rlaif_v import write_rlaif_v
from csp_utils.models import checkpoints
from csp_utils.noise.training_rows import training_rows
from csp_utils.results.updates import updates
from csp_utils.stages.perturb import Perturb
from csp_utils.stages.sft import Sft
from csp_utils.stages.simpo import Simpo
from csp_utils.training import command as training
from csp_utils.training import run as training_run
from csp_utils.training.results import FILES, UNCHECKED, WORK

ROOT = Path(__file__).resolve().parents[2]
VLM = "assets/tiny_world/vlm"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Change to the project root, as notebooks do, and remove the shell's variables that affect a training."""
    monkeypatch.chdir(ROOT)
    for name in ("NPROC_PER_NODE", "NNODES", *checkpoints.image_variables(12544)):
        monkeypatch.delenv(name, raising=False)


def write_rows(paths: RunPaths, n: int = 6) -> None:
    """Write ``n`` training rows about noise, in ms-swift's format; one level is c = 50."""
    paths["perturbed/images"].mkdir(parents=True, exist_ok=True)
    sft, simpo = [], []
    for i, c in zip(range(n), [90, 50, 7, 100, 0, 35, 64, 21] * 9, strict=False):
        path = paths["perturbed/images"] / f"{i}.png"
        pixels = np.random.default_rng(i).integers(0, 256, (112, 112, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        row, pair = training_rows(f"Is there a star in the image {i}?", "Yes", c, str(path))
        sft.append(row)
        simpo += [pair] if pair else []
    write_jsonl(sft, paths["perturbed/sft.jsonl"])
    write_jsonl(simpo, paths["perturbed/simpo.jsonl"])


@pytest.fixture
def paths(tmp_path):
    """Return the paths of a run with training rows."""
    paths = RunPaths("r", tmp_path)
    write_rows(paths)
    return paths


def options(words: list[str]) -> dict[str, str]:
    """Return the --name value pairs of a command line."""
    return {word: words[i + 1] for i, word in enumerate(words) if word.startswith("--")}


def test_the_default_command_waits_for_no_import_of_torch():
    """The import takes four seconds at the start of every training, and does not matter for one float32 process."""
    code = ("import sys; from csp_utils.stages.sft import Sft; from csp_utils.training import command; "
            "command.command(Sft(), 'm', 'd', 'o'); "
            "sys.exit('torch' in sys.modules)")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_simpo_is_the_papers():
    words = training.command(Simpo(), VLM, "data.jsonl", "out")
    asked = options(words)
    assert words[1:3] == ["-m", "swift.cli.rlhf"]
    wanted = {"--rlhf_type": "simpo", "--cpo_alpha": "0.0", "--beta": "2.0", "--simpo_gamma": "1.0",
              "--warmup_ratio": "0.03", "--per_device_train_batch_size": "1", "--gradient_accumulation_steps": "16",
              "--num_train_epochs": "1", "--gradient_checkpointing": "true", "--strict": "true"}  # fmt: skip
    assert wanted.items() <= asked.items()


def test_sft_is_the_papers():
    words = training.command(Sft(), VLM, "data.jsonl", "out")
    asked = options(words)
    assert words[1:3] == ["-m", "swift.cli.sft"]
    wanted = {"--tuner_type": "full", "--per_device_train_batch_size": "2", "--gradient_accumulation_steps": "8",
              "--num_train_epochs": "1", "--gradient_checkpointing": "true", "--learning_rate": "1e-05",
              "--model": VLM, "--model_type": "qwen2_vl", "--template": "qwen2_vl"}  # fmt: skip
    assert wanted.items() <= asked.items()
    assert not any("freeze" in word for word in words)  # ms-swift's default, as in the paper


def test_extra_arguments_come_last_and_torchrun_is_the_launchers(monkeypatch):
    monkeypatch.setenv("NPROC_PER_NODE", "4")
    words = training.command(Sft(extra_args=["--deepspeed", "zero3"]), VLM, "d", "o")
    assert words[1:4] == ["-m", "swift.cli.main", "sft"] and words[-2:] == ["--deepspeed", "zero3"]


def test_a_local_model_waits_for_no_network_and_a_hub_model_may(tmp_path):
    local = training.environment(Sft(), VLM, tmp_path)
    assert local["HF_HUB_OFFLINE"] == "1" and local["MAX_PIXELS"] == "12544"
    hub = training.environment(Sft(max_pixels=None), "Qwen/Qwen2-VL-7B-Instruct", tmp_path)
    assert "HF_HUB_OFFLINE" not in hub and "MAX_PIXELS" not in hub and hub["USE_HF"] == "1"


def test_what_the_shell_says_about_images_is_not_taken_in_silence(tmp_path, monkeypatch):
    for name in ("MAX_PIXELS", "IMAGE_MAX_TOKEN_NUM"):
        with monkeypatch.context() as shell:
            shell.setenv(name, "7")
            with pytest.raises(UserError, match=f"{name} is 7 in this shell.*max_pixels"):
                training.environment(Sft(max_pixels=None), VLM, tmp_path)
            ours = training.environment(Sft(), VLM, tmp_path)
            assert ours["MAX_PIXELS"] == "12544" and ours["IMAGE_MAX_TOKEN_NUM"] == "16"
    for name in checkpoints.SHELL:
        with monkeypatch.context() as shell:
            shell.setenv(name, "7")
            for p in (Sft(), Simpo(max_pixels=None)):
                with pytest.raises(UserError, match=f"{name} is 7 in this shell"):
                    training.environment(p, VLM, tmp_path)


def test_float32_weights_are_not_trained_in_float16():
    """On a GPU, ms-swift's default for them is mixed precision."""
    for stage in (Sft, Simpo):
        assert options(training.command(stage(), VLM, "d", "o"))["--fp16"] == "false"
        for other in ("bfloat16", "float16"):
            assert "--fp16" not in options(training.command(stage(torch_dtype=other), VLM, "d", "o"))


def test_a_gpu_that_is_not_there_is_said(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no GPU"):
        training.environment(Sft(device="cuda:1"), VLM, tmp_path)
    assert training.environment(Sft(device="cpu"), VLM, tmp_path)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in training.environment(Sft(), VLM, tmp_path)


def test_command_txt_can_be_pasted_into_a_shell():
    words = ["python", "-m", "swift.cli.sft", "--model", "a folder", "--lr", "1e-05"]
    text = training.shell(words, {"A": "x y", "B": ""})
    assert shlex.split(text.replace("\\\n", " ")) == ["A=x y", "B=", *words]
    assert text.count("\n") == 4


def test_max_pixels_travels_with_the_checkpoint(tmp_path):
    checkpoints.check_max_pixels(tmp_path, 12544)  # nothing is recorded, so nothing is compared
    checkpoints.record_max_pixels(tmp_path, 12544)
    checkpoints.check_max_pixels(tmp_path, 12544)
    for other in (50176, None):
        with pytest.raises(UserError, match="trained with max_pixels 12544"):
            checkpoints.check_max_pixels(tmp_path, other)
    with pytest.raises(UserError, match="max_pixels 12544"):
        training.command(Simpo(max_pixels=784), str(tmp_path), "d", "o")


def test_an_adapter_goes_on_as_an_adapter(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    asked = options(training.command(Simpo(tuner_type="lora"), str(tmp_path), "d", "o"))
    assert asked["--model"] == "org/base" and asked["--adapters"] == str(tmp_path)
    with pytest.raises(UserError, match="LoRA adapter"):
        training.command(Simpo(), str(tmp_path), "d", "o")


def test_recorded_arguments_are_compared():
    p = Simpo()
    args = {"tuner_type": "full", "num_train_epochs": 1, "per_device_train_batch_size": 1, "beta": 2.0,
            "gradient_accumulation_steps": 16, "learning_rate": 1e-5, "gradient_checkpointing": True, "seed": 0,
            "strict": True, "split_dataset_ratio": 0.0, "rlhf_type": "cpo", "loss_type": "simpo", "simpo_gamma": 1,
            "cpo_alpha": 0.0, "warmup_ratio": 0.03, "fp16": False}  # fmt: skip
    training.recorded(args, p)
    with pytest.raises(UserError, match="fp16 True, not False"):
        training.recorded(args | {"fp16": True}, p)  # ms-swift's default for float32 weights
    with pytest.raises(UserError, match="cpo_alpha 1.0, not 0.0"):
        training.recorded(args | {"cpo_alpha": 1.0}, p)  # ms-swift's default: CPO-SimPO


def test_missing_data_is_said_before_anything_runs(paths):
    with pytest.raises(UserError, match="line 3 .*03_perturb"):
        (paths["perturbed/images"] / "2.png").unlink()
        run_stage(Sft(device="cpu"), paths)
    paths["perturbed/sft.jsonl"].write_text("")
    with pytest.raises(UserError, match="holds no rows"):
        run_stage(Sft(), paths)
    assert not paths["sft"].exists()


# ------------------------------------------------------------------------------------------------- with ms-swift


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train SFT, then SimPO on its checkpoint with one update on all pairs; a few rows each."""
    os.chdir(ROOT)
    paths = RunPaths("r", tmp_path_factory.mktemp("training"))
    write_rows(paths)
    run_stage(Sft(n_rows=None, device="cpu", max_pixels=12544), paths)
    run_stage(Simpo(n_rows=4, gradient_accumulation_steps=4, device="cpu", max_pixels=12544), paths)
    return paths, *(json.loads(paths[f"{name}/summary.json"].read_text()) for name in ("sft", "simpo"))


@pytest.mark.slow
def test_what_the_trainings_leave(trained):
    paths, sft, simpo = trained
    assert sft["rows"] == 6 and simpo["rows"] == 4 and sft["steps"] == simpo["steps"] == 1
    for folder, own in ((paths["sft"], set()), (paths["simpo"], {"train.jsonl"})):  # 4 pairs of 5
        names = {path.name for path in folder.iterdir()}
        assert names == {*FILES} | own
        assert (folder / "checkpoint" / "model.safetensors").is_file()
        assert not (folder / "checkpoint").is_symlink()
        checkpoints.check_max_pixels(folder / "checkpoint", 12544)
        log = pd.read_parquet(folder / "log.parquet")
        assert len(log) == 1 and np.isfinite(log["loss"]).all() and log["grad_norm"][0] > 0
        assert (folder / "command.txt").read_text().startswith("USE_HF=1 MAX_PIXELS=12544 ")
    args = json.loads(paths["sft/args.json"].read_text())
    assert args["freeze_vit"] and args["freeze_aligner"]
    assert (args["per_device_train_batch_size"], args["gradient_accumulation_steps"]) == (2, 8)


@pytest.mark.slow
def test_simpo_was_the_papers(trained):
    paths, _, _ = trained
    args = json.loads(paths["simpo/args.json"].read_text())
    assert (args["rlhf_type"], args["loss_type"]) == ("cpo", "simpo")
    assert (args["cpo_alpha"], args["beta"], args["simpo_gamma"]) == (0.0, 2.0, 1.0)
    assert args["model"].endswith("sft/checkpoint") and args["warmup_ratio"] == 0.03
    for line in paths["perturbed/simpo.jsonl"].read_text().splitlines():
        row = json.loads(line)
        said = row["messages"][1]["content"], row["rejected_response"]
        chosen, rejected = (int(text.removesuffix("%")) for text in said)
        assert chosen + rejected == 100 != 2 * chosen


def log_likelihood(model, processor, row: dict, answer: str) -> tuple[float, int]:
    """Return the sum of log p over the tokens of ``answer``, <|im_end|> and a line break, and their number.

    It is computed with transformers.
    """
    import torch

    text = row["messages"][0]["content"].removeprefix("<image>")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    image = Image.open(row["images"][0])
    inputs = processor(text=[prompt + answer + "<|im_end|>\n"], images=[image], return_tensors="pt")
    n = len(processor.tokenizer(answer + "<|im_end|>\n")["input_ids"])
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits[0, -n - 1 : -1]
    tokens = inputs["input_ids"][0, -n:]
    return logits.log_softmax(-1).gather(1, tokens[:, None]).sum().item(), n


@pytest.mark.slow
def test_simpo_loss_is_the_papers_formula(trained):
    """The equation of section 3.3, with beta 2 and lambda 1, is computed over the four pairs of the first update."""
    from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    paths, _, _ = trained
    model = Qwen2VLForConditionalGeneration.from_pretrained(paths["sft/checkpoint"]).float().eval()
    processor = Qwen2VLProcessor.from_pretrained(paths["sft/checkpoint"])
    losses, margins = [], []
    for line in (paths["simpo"] / "train.jsonl").read_text().splitlines():
        row = json.loads(line)
        chosen, n_w = log_likelihood(model, processor, row, row["messages"][1]["content"])
        rejected, n_l = log_likelihood(model, processor, row, row["rejected_response"])
        margin = 2.0 / n_w * chosen - 2.0 / n_l * rejected
        margins.append(margin)
        losses.append(math.log1p(math.exp(-(margin - 1.0))))
    log = pd.read_parquet(paths["simpo/log.parquet"])
    assert log["loss"][0] == pytest.approx(np.mean(losses), abs=2e-4)
    assert log["rewards/margins"][0] == pytest.approx(np.mean(margins), abs=2e-4)


@pytest.mark.slow
def test_a_row_that_does_not_encode_stops_the_training_and_leaves_the_old_checkpoint(trained):
    paths, _, _ = trained
    before = (paths["sft/checkpoint"] / "model.safetensors").stat()
    image = paths["perturbed/images"] / "3.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    try:
        with pytest.raises(UserError, match=r"^ms-swift stopped: .*swift.failed.log") as error:
            run_stage(Sft(n_rows=None, device="cpu"), paths)
    finally:
        image.write_bytes(whole)
    assert "\n" not in str(error.value)
    assert (paths["sft/checkpoint"] / "model.safetensors").stat() == before
    assert not (paths["sft"] / WORK).exists() and not (paths["sft"] / UNCHECKED).exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Sft, Simpo])
def test_two_processes_train_as_one_does(kind, tmp_path):
    """Each update has the same rows, divided among two processes, and therefore the same losses.

    Without --use_cpu, ms-swift would silently train two separate models on a machine without a GPU.
    """
    losses = {}
    for processes in (1, 2):
        paths = RunPaths(f"p{processes}", tmp_path)
        write_rows(paths, 36)  # 32 pairs, because an incomplete update pads its rows
        p = kind(model=VLM, n_rows=32 if kind is Sft else 16, batch_size=2, learning_rate=1e-3, device="cpu",
                 gradient_accumulation_steps=8 // processes, processes=processes)  # fmt: skip
        run_stage(p, paths)
        log = paths["sft/log.parquet"] if kind is Sft else paths["simpo/log.parquet"]
        losses[processes] = pd.read_parquet(log)["loss"].tolist()
        command = (paths["sft/command.txt"] if kind is Sft else paths["simpo/command.txt"]).read_text()
        assert ("NPROC_PER_NODE=2" in command) == (processes == 2) and "--use_cpu true" in command
    assert losses[1] == pytest.approx(losses[2], rel=1e-4) and len(losses[1]) == (2 if kind is Sft else 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Sft, Simpo])
def test_held_out_rows_are_not_trained_on_and_have_a_loss_of_their_own(kind, tmp_path):
    """Here with TensorBoard's log as well, and images that are read in processes of their own."""
    paths = RunPaths("r", tmp_path)
    write_rows(paths, 60)
    p = kind(model=VLM, n_rows=None, eval_share=0.2, device="cpu", batch_size=2, gradient_accumulation_steps=2,
             report_to="tensorboard", dataloader_workers=2)  # fmt: skip
    run_stage(p, paths)
    folder = paths[p.folder]
    given = [json.loads(line) for line in (paths[p.rows]).read_text().splitlines()]
    trained, held_out = ([json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
                         for name in ("train", "held_out"))  # fmt: skip
    assert len(trained) + len(held_out) == len(given) and held_out == [row for row in given if row not in trained]
    summary, log = json.loads((folder / "summary.json").read_text()), pd.read_parquet(folder / "log.parquet")
    planned = updates(p, len(trained))
    assert (summary["rows"], summary["held_out_rows"]) == (len(trained), len(held_out))
    assert summary["steps"] == planned.total == len(log) and planned.total >= 10
    seen = log.dropna(subset="eval_loss")
    assert len(seen) >= 10 and seen["step"].iloc[-1] == planned.total
    assert summary["eval_loss"] == seen["eval_loss"].iloc[-1] and np.isfinite(seen["eval_loss"]).all()
    rising = (log["learning_rate"].diff() > 0).sum()
    assert rising == max(0, planned.warmup - 1)
    assert any((folder / "tensorboard").glob("events.out.tfevents*"))


@pytest.mark.slow
def test_images_that_are_rendered_are_read_in_other_processes_as_well(tmp_path):
    losses = {}
    for workers in (0, 2):
        paths = RunPaths(f"w{workers}", tmp_path)
        write_masked_data(paths, 8)
        run_stage(Perturb(images="drawn"), paths)
        run_stage(Sft(model=VLM, n_rows=None, device="cpu", batch_size=2, gradient_accumulation_steps=1,
                      dataloader_workers=workers), paths)  # fmt: skip
        losses[workers] = pd.read_parquet(paths["sft/log.parquet"])["loss"].tolist()
    assert len(losses[0]) == 4 and losses[0] == losses[2]


def write_masked_data(paths: RunPaths, n: int) -> None:
    """Write ``n`` rows of RLAIF-V with images of 112 x 112 pixels, and a mask for each."""
    rows = []
    for i in range(n):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(i).integers(0, 256, (112, 112, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        rows.append(rlaif_row(i, image=buffer.getvalue()))
    write_rlaif_v(paths["data/rlaif_v/train.parquet"], rows)
    write_parquet(masks_of(paths["data/rlaif_v/train.parquet"], n), paths["masks.parquet"])


@pytest.mark.slow
def test_bfloat16_weights_train_without_a_gpu(paths):
    from safetensors.torch import load_file

    run_stage(Sft(model=VLM, learning_rate=1e-3, torch_dtype="bfloat16", device="cpu"), paths)
    before, after = load_file(f"{VLM}/model.safetensors"), load_file(paths["sft/checkpoint"] / "model.safetensors")
    assert {str(weight.dtype) for weight in after.values()} == {"torch.bfloat16"}
    assert any((weight != before[name].bfloat16()).any() for name, weight in after.items())
    assert pd.read_parquet(paths["sft/log.parquet"])["loss"].between(0, 50).all()


def test_trainings_of_several_processes_do_not_meet_at_one_port(monkeypatch):
    monkeypatch.delenv("MASTER_PORT", raising=False)
    assert training_run._meeting_point(Sft()) == {}
    first, second = (training_run._meeting_point(Sft(processes=2))["MASTER_PORT"] for _ in range(2))
    assert first != second and int(first) > 1023
    monkeypatch.setenv("MASTER_PORT", "29501")
    assert training_run._meeting_point(Simpo(processes=2)) == {}
