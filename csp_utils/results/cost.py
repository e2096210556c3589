"""Estimate the time, disk and memory of a notebook at full size, from its rows, tokens and weights (docs/scale.md).

Nothing is measured on the present machine. Times are those of an A100 at the assumed share of its peak; they can be
wrong by a factor of two. Sizes are closer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from csp_utils.results.updates import shares, updates

PEAK = {"float32": 19.5e12, "bfloat16": 312e12, "float16": 312e12}
"""Floating-point operations per second of an A100 (NVIDIA's data sheet, dense)."""
TRAINING_SHARE, FORWARD_SHARE = 0.35, 0.30
"""Shares of the peak that training and plain forward passes reach."""
STEP_SECONDS = 0.04
"""Seconds of one decoding step of transformers' ``generate`` for any batch size: Python and kernel starts dominate."""

IMAGE_PIXELS = 640 * 480
"""Pixels of an image of RLAIF-V and of most images of COCO."""
PNG_BYTES = 1.62
"""Bytes per pixel of a perturbed image (benchmarks/image_size.py)."""
ORIGINAL_BYTES = 170_000
"""Bytes of an encoded image of RLAIF-V: 14 GB by 83,132 rows."""
IMAGE_SECONDS = 0.04
"""Seconds to render and write one perturbed image on one core (benchmarks/image_size.py)."""
TEXT_TOKENS = {"keyword": 120, "training": 200, "question": 100}
"""Tokens of a prompt without its image and without the common start of all prompts."""
REPLY_TOKENS = 8
ANSWER_TOKENS = 2
"""Tokens that a scored answer ("95%") adds to the prefix tree of all 101, where the engine shares prefixes."""
SHARES_PREFIXES = ("qwen2_vl", "qwen2_5_vl")
"""Model types that the shared engine (csp_utils/models/vlm/shared.py) can ask; max_pixels limits their image tokens."""
MUCH_DEARER = 3
"""Ratio of the hours with and without scored answers from which the plan warns."""
OVERHEAD_GB = 8.0
"""GPU memory besides weights, gradients and optimizer state: activations, logits, CUDA itself."""
DETECTION_GB = 16.0
"""GPU memory of GroundingDINO Swin-T and SAM ViT-H in float32 with a batch of eight images; an assumption."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Cost:
    """The cost of one notebook.

    Attributes:
        work: description of the work.
        gpu_hours: hours of an A100; None if the size of a model is not known.
        cpu_hours: hours of one core, if they matter.
        disk: size of the results in GB.
        scratch: GB that it takes while it runs, besides its results.
        gpu_memory: GB on each GPU that it uses; 0 for none, None if not known.
        parallel: maximum number of GPUs that can share the work.
        weights: weights of its largest model, as far as known.
        warning: a sentence about something that makes it many times dearer; "" if there is nothing.
    """

    work: str
    gpu_hours: float | None = 0.0
    cpu_hours: float = 0.0
    disk: float = 0.0
    scratch: float = 0.0
    gpu_memory: float | None = 0.0
    parallel: int = 1
    weights: float = 0.0
    warning: str = ""


@dataclass(frozen=True)
class Asked:
    """What a notebook asks of every variant, as numbers.

    Attributes:
        images: different images, changed views included.
        prompts: different prompts; each gets one greedy reply.
        draws: sampled replies.
        answers: texts whose probability as a whole reply is computed.
    """

    images: int
    prompts: int
    draws: int = 0
    answers: int = 0


Facts = dict[str, Any]
"""Known facts about a model or a data set: rows, images, questions, billions of weights, teraflops an image, tokens."""


@dataclass
class Known:
    """Rows and facts of existing files, and of files that earlier notebooks will make.

    Attributes:
        facts_of: path of a source of the catalogue -> facts.
        rows: path of a result that an earlier notebook will make -> its number of rows.
    """

    facts_of: dict[str, Facts] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def facts(self, path: str | Path | None, max_pixels: int | None = None) -> Facts:
        """Return the facts of a source; for a model in the user's own folder, the facts that follow from its files."""
        if path is None:
            return {}
        if (known := self.facts_of.get(str(path))) is not None:
            return known
        weights = _weights(Path(path))
        if weights is None:
            return {}
        found: Facts = {"billions": {"language": weights / 1e9}, "teraflops": 2e-12 * weights * 4096}
        if max_pixels and _model_type(Path(path)) in SHARES_PREFIXES:
            found |= {"tokens": {"language": max_pixels // 784, "vision": max_pixels // 196}, "shared": True}
        return found

    def of(self, path: Path | str | None) -> int:
        """Return the number of rows of RLAIF-V's files, or of a table that a notebook will make; 0 if unknown."""
        if path is None:
            return 0
        if str(path) in self.rows:
            return self.rows[str(path)]
        return self.facts(str(path)).get("rows") or _table_rows(Path(path))


def _model_type(folder: Path) -> str | None:
    config = folder / "config.json"
    return json.loads(config.read_text(encoding="utf-8")).get("model_type") if config.is_file() else None


@cache
def _weights(folder: Path) -> int | None:
    """Return the number of weights in a folder's safetensors files, read from their headers; None without any."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                n = 1
                for side in tensor["shape"]:
                    n *= side
                total += n
    return total or None


def _table_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    return sum(pq.read_metadata(file).num_rows for file in files if file.suffix == ".parquet")


def hours(operations: float, dtype: str, share: float = FORWARD_SHARE) -> float:
    """Return the hours that an A100 needs for ``operations`` floating-point operations."""
    return operations / (PEAK[dtype] * share) / 3600


def billions(model: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the numbers of weights of the language part and of the vision part; None if not known."""
    size = model.get("billions")
    return None if size is None else (size.get("language", 0) * 1e9, size.get("vision", 0) * 1e9)


def train(rows: int, model: dict[str, Any], p: Any, answers: int) -> Cost:
    """Return the cost of notebook 04 (one answer a row) or 05 (two); the vision part runs forward only.

    For each token, a weight costs 2 operations forward, 4 backward, and 2 again if activations are recomputed.
    """
    used, held_out = shares(p, rows)
    all_updates = updates(p, used)
    work = f"{used * p.epochs:,} rows, {all_updates.total:,} updates of {all_updates.size}"
    work += f", {held_out:,} rows held out" if held_out else ""
    work += f", {p.dataloader_workers * p.processes} processes read images" if p.dataloader_workers else ""
    size, known_tokens = billions(model), model.get("tokens")
    if size is None or known_tokens is None:
        return Cost(work, None, gpu_memory=None, parallel=p.processes)
    tokens = known_tokens["language"] + TEXT_TOKENS["training"]
    a_weight = 8 if p.gradient_checkpointing else 6
    if p.tuner_type == "lora":
        a_weight -= 2  # the weights themselves have no gradients
    operations = used * p.epochs * answers * (a_weight * size[0] * tokens + 2 * size[1] * known_tokens["vision"])
    bytes_ = BYTES[p.torch_dtype]
    saved = sum(size) * bytes_ / 1e9 if p.tuner_type == "full" else 0.2
    kept = 2 * (saved + _optimizer_state(size[0], bytes_, p)) if p.save_steps else 0.0  # the new one, then not the old
    return Cost(work, hours(operations, p.torch_dtype, TRAINING_SHARE), disk=saved, scratch=kept,
                gpu_memory=sum(size) * bytes_ / 1e9 + _training_state(size[0], bytes_, p) + OVERHEAD_GB,
                parallel=p.processes, weights=sum(size))  # fmt: skip


def _optimizer_state(weights: float, bytes_: int, p: Any) -> float:
    """Return the GB of AdamW's state in a checkpoint: of DeepSpeed, the weights and both moments in float32."""
    if p.tuner_type == "lora":
        return 0.4
    return weights * (2 * bytes_ if p.deepspeed is None else 12) / 1e9


def _training_state(weights: float, bytes_: int, p: Any) -> float:
    """Return the GB of gradients and of AdamW's state on each GPU, without the weights."""
    if p.tuner_type == "lora":
        return 1.0
    zero = getattr(p, "deepspeed", None)
    if zero is None:  # in the precision of the weights; several GPUs hold a second copy of the gradients for the sum
        return weights * bytes_ * (3 + (p.processes > 1)) / 1e9
    # ZeRO shards the gradients and, in float32, the weights and both moments; stage 3 also shards the weights.
    spread = weights * (bytes_ + 12) / p.processes
    return (spread - (weights * bytes_ * (1 - 1 / p.processes) if "3" in zero else 0)) / 1e9


def ask(asked: Asked, model: dict[str, Any], p: Any, variants: int, what: str) -> Cost:
    """Return the cost of notebook 06, 08 or 10: how every variant replies to all prompts.

    With shared prefixes each image is read once, and a draw or a scored answer costs its own tokens alone. Without them
    every prompt, draw and scored answer reads its image and its text again.
    """
    totals = ((asked.prompts, "prompts"), (asked.draws, "draws"), (asked.answers, "scored answers"))
    work = ", ".join([what, *(f"{n * variants:,} {name}" for n, name in totals if n)])
    size, tokens = billions(model), model.get("tokens")
    shared = model.get("shared", False) and p.engine != "plain"
    if size is None or tokens is None:
        return Cost(work, None, gpu_memory=None, warning="" if shared else _dear(asked, None, p.engine))
    seen = tokens["language"] * 2 * size[0] + tokens["vision"] * 2 * size[1]
    text = 2 * size[0] * TEXT_TOKENS["question"]
    decode = REPLY_TOKENS * STEP_SECONDS / p.batch_size / 3600
    if shared:
        operations = asked.images * seen + asked.prompts * text + asked.draws * 2 * size[0] * REPLY_TOKENS
        scored, steps = asked.answers * ANSWER_TOKENS * 2 * size[0], asked.prompts  # draws grow beside the greedy reply
    else:
        operations = (asked.prompts + asked.draws) * (seen + text)
        scored, steps = asked.answers * (seen + text), asked.prompts + asked.draws
    without = variants * (hours(operations, p.torch_dtype) + steps * decode)
    needed = without + variants * hours(scored, p.torch_dtype)
    return Cost(work, needed, disk=0.001 * asked.prompts * variants / 1000,
                gpu_memory=sum(size) * BYTES[p.torch_dtype] / 1e9 + OVERHEAD_GB,
                parallel=getattr(p, "shards", 1), weights=sum(size),
                warning=_dear(asked, needed / without if without else 1, p.engine))  # fmt: skip


def _dear(asked: Asked, ratio: float | None, engine: str) -> str:
    """Say that scored answers make a run many times dearer; "" if they do not.

    Args:
        ratio: hours with scored answers by hours without; None if the size of the model is not known.
    """
    if not asked.answers or engine == "vllm" or (ratio is not None and ratio < MUCH_DEARER):  # vLLM refuses them
        return ""
    passes = 1 + asked.answers / (asked.prompts + asked.draws)
    unless = " unless the shared engine can ask the model" if ratio is None and engine != "plain" else ""
    return (f"methods: expected scores {asked.answers:,} answers a variant, each in a forward pass of its own, which "
            f"takes about {passes if ratio is None else ratio:.0f} times as long{unless}; leave expected out, or ask "
            "fewer questions (n_questions).")  # fmt: skip
