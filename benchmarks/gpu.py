"""How fast the paper's large models are on a GPU, and how much memory they take, with random weights.

    scripts/try_gpu.sh speed             on the GPU, in their official sizes (four minutes on an H100, 80 GB)
    scripts/try_gpu.sh --small speed     on the CPU, in the tiny world's sizes: does it run?

SAM, GroundingDINO and Qwen2-VL are built from their configurations (benchmarks/flops.py) and called through the
functions that the stages call. What a model sees and says means nothing: images are noise, Qwen2-VL reads with the tiny
world's tokenizer, and with random weights every reply has all of its eight tokens.
"""

import logging
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.flops import official_grounding_dino, qwen2_vl_config
from csp_utils.asking.elicitation import Plan
from csp_utils.base.memory import free_models
from csp_utils.models.grounding_dino import (
    IMAGE_MAX_SIZE,
    IMAGE_SIZE,
    Detector,
    build_grounding_dino,
    detect,
    preprocess,
    read_config,
)
from csp_utils.models.sam import build_sam, encode_in, segment
from csp_utils.models.sam import read_config as read_sam_config
from csp_utils.models.vlm.reply import Asking

Rows = Iterator[dict[str, Any]]
WORDS = ("dog", "cat", "sheep", "car", "boat", "plane", "tree", "cup", "clock")
"""Asked about in every image: POPE and AMBER have nine or ten questions an image."""


def table(title: str, rows: Iterable[dict[str, Any]]) -> None:
    """Print a Markdown table with a column for each key, each row as soon as it is there."""
    for number, row in enumerate(rows):
        if number == 0:
            print(f"\n## {title}\n\n| " + " | ".join(row) + " |\n|" + " --- |" * len(row))
        cells = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values())
        print("| " + " | ".join(cells) + " |", flush=True)
    print(flush=True)


def device_name(device: str) -> str:
    """Return the name of the card or of the processor."""
    return torch.cuda.get_device_name() if device != "cpu" else f"CPU, {platform.machine()}"


def timed(work: Callable[[], Any], times: int, device: str, warm: bool = False) -> dict[str, float | str]:
    """Return the seconds of one call, after one to warm up if it is not ``warm``, and the peak of the GPU's memory.

    The memory is what torch holds tensors in, in GB (10^9 bytes).
    """
    for count in ((times,) if warm else (1, times)):
        if device != "cpu":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.monotonic()
        for _ in range(count):
            work()
        if device != "cpu":
            torch.cuda.synchronize()
    seconds = (time.monotonic() - start) / times
    return {"s a call": seconds, "peak GB": torch.cuda.max_memory_allocated() / 1e9 if device != "cpu" else "-"}


def noise(n: int, width: int, height: int) -> list[Image.Image]:
    """Return ``n`` images of noise."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(n)]


def sam(device: str, small: bool) -> Rows:
    """Time SAM as stage 02 uses it, one image at a time, with one box and with eight; and its encoder alone."""
    from segment_anything import SamPredictor

    config = read_sam_config("assets/tiny_world/sam") if small else {"model_type": "vit_h"}
    (image,) = noise(1, 640, 480)
    for dtype in ("float32", "bfloat16"):
        predictor = SamPredictor(build_sam(config).to(device))
        if dtype != "float32":
            encode_in(dtype, predictor.model)
        row, times = {"model": "SAM ViT-H", "type": dtype}, 2 if small else 10
        for n in (1, 8):
            boxes = np.tile(np.array([100, 100, 300, 300], np.float32), (n, 1))
            seen = timed(lambda p=predictor, boxes=boxes: segment(p, image, boxes), times, device)
            yield {**row, "batch": f"1 image, {n} boxes", "what": "images", "a second": 1 / seen["s a call"], **seen}
        side = predictor.model.image_encoder.img_size
        pixels = torch.zeros(1, 3, side, side, device=device)
        with torch.no_grad():
            seen = timed(lambda p=predictor, pixels=pixels: p.model.image_encoder(pixels), times, device)
        yield {**row, "batch": 1, "what": "encoder passes", "a second": 1 / seen["s a call"], **seen}
        del predictor
        free_models()


def grounding_dino(device: str, small: bool) -> Rows:
    """Time GroundingDINO as stage 02 uses it, its forward pass alone, and the CPU's resizing of the images."""
    if small:
        folder = Path("assets/tiny_world/grounding_dino")
        config = read_config(folder)
        model = build_grounding_dino(config, folder)
    else:
        model, config = official_grounding_dino(), {}
    sizes = config.get("image_size", IMAGE_SIZE), config.get("image_max_size", IMAGE_MAX_SIZE)
    detector, times = Detector(model.to(device), *sizes), 2 if small else 10
    for n in (1, 8):
        images, words = noise(n, 640, 480), ["dog"] * n
        pixels = [preprocess(image, detector.image_size, detector.image_max_size) for image in images]
        stacked = torch.stack(pixels).to(device)
        for what, work in (
            ("images", lambda images=images, words=words, n=n: detect(detector, images, words, batch_size=n)),
            ("forward passes", lambda stacked=stacked, n=n: detector.model(stacked, captions=["dog."] * n)),
            ("images resized on the CPU", lambda images=images: [
                preprocess(image, detector.image_size, detector.image_max_size) for image in images]),
        ):  # fmt: skip
            with torch.no_grad():
                seen = timed(work, times, device)
            yield {"model": "GroundingDINO Swin-T", "type": "float32", "batch": n, "what": what,
                   "a second": n / seen["s a call"], **seen}  # fmt: skip


def new_qwen2_vl(device: str, small: bool, folder: Path) -> tuple[Any, Any]:
    """Return a Qwen2-VL of random bfloat16 weights and ms-swift's template; the tokenizer is the tiny world's."""
    from swift.model import get_model_processor
    from swift.template import get_template
    from transformers import Qwen2VLForConditionalGeneration
    from transformers.utils.logging import set_verbosity_error

    import csp_utils.models.swift_plugins.image_tokens  # noqa: F401  (takes effect on import)
    from csp_utils.tiny_world.models.vlm import new_vlm

    set_verbosity_error()
    logging.getLogger("swift").setLevel(logging.ERROR)
    tiny, _ = new_vlm(folder)
    config = tiny.config
    if small:
        config.text_config.vocab_size = 1000  # more than the tokenizer knows, as at full size
    else:
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        config = qwen2_vl_config(**{name: getattr(tiny.config, name) for name in names})
    config.save_pretrained(folder)
    with torch.device(device):
        model = Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model.generation_config = tiny.generation_config
    _, processor = get_model_processor(str(folder), torch_dtype=torch.bfloat16, model_type="qwen2_vl", use_hf=True,
                                       load_model=False)  # fmt: skip
    return model, get_template(processor, template_type="qwen2_vl")


def qwen2_vl(device: str, small: bool) -> Rows:
    """Time Qwen2-VL as stage 04 trains it, and as stage 06 asks it: three prompts about each question."""
    from csp_utils.models.vlm.load import TransformersVLM

    with tempfile.TemporaryDirectory() as home:
        model, template = new_qwen2_vl(device, small, Path(home))
        prompts = []
        for number, image in enumerate(noise(4, *((224, 168) if small else (640, 480)))):
            path = Path(home) / f"{number}.png"
            image.save(path)
            prompts += [Plan().prompt(str(path), f"Is there a {word} in the image?", *pair)
                        for pair in Plan().kinds() for word in WORDS]  # fmt: skip
        yield from training(model, template, Path(prompts[0].image), device, small)
        vlm = TransformersVLM(model, template)
        for engine in ("shared", "plain"):
            yield from asking(vlm, engine, prompts, device)
        model.save_pretrained(home)
        del vlm, template, model
        free_models()
        yield training_by_swift(Path(home), Path(prompts[0].image), device, small)


def asking(vlm: Any, engine: str, prompts: list[Any], device: str) -> Rows:
    """Time an engine: all prompts with replies of eight tokens, a decoding step, and the encoding on the CPU."""
    row = {"model": f"Qwen2-VL-7B, engine {engine}", "type": "bfloat16"}
    few = len(WORDS) * 3
    vlm.ask(prompts[:few], Asking(few, 8), engine)
    for n in (few, 4 * few):
        whole = timed(lambda n=n: vlm.ask(prompts, Asking(n, 8), engine), 1, device, warm=True)
        yield {**row, "batch": n, "what": "prompts", "a second": len(prompts) / whole["s a call"], **whole}
    one, eight = (timed(lambda tokens=tokens: vlm.ask(prompts[:few], Asking(few, tokens), engine), 1, device, warm=True)
                  for tokens in (1, 8))  # fmt: skip
    step = (eight["s a call"] - one["s a call"]) / 7
    yield {**row, "batch": few, "what": "decoding steps", "a second": 1 / step, "s a call": step, "peak GB": "-"}
    seen = timed(lambda: vlm.engines[engine].encode(prompts[:few]), 1, device, warm=True)
    yield {**row, "batch": few, "what": "prompts encoded on the CPU", "a second": few / seen["s a call"], **seen}


def chat(image: Path) -> dict[str, Any]:
    """Return a training row as stage 03 writes them, with about 200 tokens beside the image's."""
    text = " ".join(["Is there a dog in the image?"] * 15)
    return {"messages": [{"role": "user", "content": f"<image>{text}"}, {"role": "assistant", "content": "100%"}],
            "images": [str(image)]}  # fmt: skip


def training(model: Any, template: Any, image: Path, device: str, small: bool) -> Rows:
    """Time updates of 16 rows as stage 04 makes them on one GPU, but by a loop of its own in place of ms-swift's.

    Trained is the language part, by AdamW in bfloat16; activations are recomputed.
    """
    template.set_mode("train")
    row = template.encode(chat(image))
    template.model = model.train()
    model.model.visual.requires_grad_(False)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=device != "cpu")
    of = 4 if small else 16
    for n in (2, 4):
        given = template.data_collator([dict(row) for _ in range(n)])  # it empties them
        given = {key: value.to(device) for key, value in given.items() if isinstance(value, torch.Tensor)}
        given["pixel_values"] = given["pixel_values"].to(torch.bfloat16)

        def update(given: dict[str, Any] = given, n: int = n) -> None:
            for _ in range(of // n):
                (model(**given, use_cache=False).loss * n / of).backward()
            optimizer.step()
            optimizer.zero_grad()

        name = {"model": f"Qwen2-VL-7B, SFT, {len(row['input_ids'])} tokens a row", "type": "bfloat16", "batch": n}
        try:
            seen = timed(update, 1 if small else 2, device)
        except torch.OutOfMemoryError:
            yield {**name, "what": "does not fit", "a second": "-", "s a call": "-", "peak GB": "-"}
            break
        yield {**name, "what": "rows", "a second": of / seen["s a call"], **seen}
    model.gradient_checkpointing_disable()


def training_by_swift(model: Path, image: Path, device: str, small: bool) -> dict[str, Any]:
    """Time stage 04's own command line of ms-swift, without its checkpoint at the end; the memory is what it logs."""
    from csp_utils.base.files import write_jsonl
    from csp_utils.stages.sft import Sft
    from csp_utils.training.command import command, environment
    from csp_utils.training.log import read_logging

    rows, work = model / "rows.jsonl", model / "work"
    p = Sft(torch_dtype="bfloat16", device=device, max_pixels=None, n_rows=None, extra_args=["--save_strategy", "no"],
            gradient_accumulation_steps=1 if small else 8)  # fmt: skip
    update = p.batch_size * p.gradient_accumulation_steps
    write_jsonl([chat(image)] * (3 * update), rows)
    done = subprocess.run(command(p, str(model), str(rows), str(work)), text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env=os.environ | environment(p, str(model), work))  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:])
    updates, _ = read_logging(work / "logging.jsonl")
    ends = [one["train_speed(s/it)"] * one["step"] for one in updates]
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1)  # the first update warms up
    memory = max((one.get("memory(GiB)", 0.0) for one in updates), default=0.0) * 1.073741824
    return {"model": "Qwen2-VL-7B, SFT by ms-swift", "type": "bfloat16", "batch": p.batch_size, "what": "rows",
            "a second": update / seconds, "s a call": seconds, "peak GB": memory or "-"}  # fmt: skip


MODELS = {"SAM": sam, "GroundingDINO": grounding_dino, "Qwen2-VL": qwen2_vl}


def speed(device: str, small: bool, models: Iterable[str] = MODELS) -> None:
    """Print a table for each of the models; ``small``: each in the tiny world's size."""
    for name in models:
        table(f"{name}{', tiny' if small else ''}, random weights: {device_name(device)}", MODELS[name](device, small))
        free_models()
