"""Asks every variant, one model in memory at a time; keeps the replies of a finished one, and checks the engine.

What is asked is the business of the stages (:mod:`csp_utils.asking.elicitation`, :mod:`csp_utils.asking.stress`).
"""

import gc
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from csp_utils.base.devices import pick_device
from csp_utils.base.errors import UserError
from csp_utils.base.files import write_json, write_parquet
from csp_utils.base.run import RunPaths
from csp_utils.base.shard import WHOLE, Shard
from csp_utils.models.vlm.load import VLM, EngineName, ModelChoice, load_vlm
from csp_utils.models.vlm.reply import TOLERANCE, Asking, Prompt, Reply
from csp_utils.models.vlm.vllm import refuse_answers, refuse_vllm

MOST_DIFFERENT = {"float32": 0.01, "bfloat16": 0.1, "float16": 0.05}
"""Part of the greedy replies that vLLM may give otherwise than the plain engine: two tokens that are equally likely but
for rounding change places, which is rare in float32 and is not in 16 bits. The shared engine is held to the
probabilities alone; too few replies are compared for a share."""
CHECKED = {"vllm": 50}
"""Questions on which an engine is compared with the plain one; :data:`FEW` for one that is not named."""
FEW = 2


class Settings(Protocol):
    """The parameters that say how a model is loaded and asked; see :class:`csp_utils.base.params.Eval`."""

    model_type: str | None
    template: str | None
    max_pixels: int | None
    torch_dtype: str
    batch_size: int
    max_new_tokens: int
    engine: EngineName
    device: str


def checkpoints_of(p: Any, paths: RunPaths) -> dict[str, str]:
    """Variant -> folder or hub id, of the variants that notebook 06 or 08 asks."""
    every = {"base": p.base_model, "sft": str(paths.sft_checkpoint), "csp": str(paths.simpo_checkpoint)}
    return {variant: every[variant] for variant in p.variants}


def fingerprint(model: str, facts: Any) -> str:
    """What the replies depend on, in 16 hex digits: ``facts`` (anything that JSON can hold), and the model's files (by
    size and time of writing; a hub id by its name)."""
    folder = Path(model)
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    state = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    told = json.dumps([str(model), state, facts], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def kept_or_asked(folder: Path, name: str, key: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The replies of a variant, or of a part of them: those kept from a run that was cut, if ``key`` is the same, else
    made and kept."""
    path = folder / f"{name}-{key}.parquet"
    if not path.is_file():
        write_parquet(make(), path)
        for old in folder.glob(f"{name}-*"):
            if old.stem != path.stem:
                old.unlink()
    return pd.read_parquet(path)


def checked_prompts(engine: str, prompts: Sequence[Prompt]) -> list[Prompt]:
    """What the engines are compared on: of each prompt six levels and a draw, for the plain one's sake; no draw of
    vLLM's, which has a random generator of its own."""
    return [p._replace(answers=p.answers[::20], seeds=() if engine == "vllm" else p.seeds[:1]) for p in prompts]


def compare(one: Sequence[Reply], two: Sequence[Reply]) -> dict[str, Any]:
    """How far the replies agree: {"prompts", "replies", "different_replies", "largest_difference"}.

    The difference is between probabilities, 0..1, of first tokens and of whole answers.
    """
    texts = [pair for x, y in zip(one, two, strict=True)
             for pair in zip((x.text, *x.samples), (y.text, *y.samples), strict=True)]
    numbers = [abs(a - b) for x, y in zip(one, two, strict=True)
               for a, b in zip((*x.first.values(), *x.answers), (*y.first.values(), *y.answers), strict=True)]
    return {"prompts": len(one), "replies": len(texts), "different_replies": sum(a != b for a, b in texts),
            "largest_difference": max(numbers, default=0.0)}


def check_engine(vlm: VLM, prompts: Sequence[Prompt], asking: Asking, torch_dtype: str,
                 reference: Sequence[Reply] | None = None) -> dict[str, Any]:
    """Compares the engine with the plain one on a few ``prompts``.

    Args:
        reference: what the plain engine said to :func:`checked_prompts`; None if it is among ``vlm``'s engines.

    Returns:
        :func:`compare`'s, for vLLM with :meth:`csp_utils.models.vlm.vllm.SwiftEngine.report`'s; with the plain engine
        {"not_compared": why}.

    Raises:
        UserError: a probability differs by more than :data:`TOLERANCE`, or more of vLLM's replies than
            :data:`MOST_DIFFERENT`.
    """
    if vlm.engine == "plain":
        return {"not_compared": vlm.why_not_shared or "engine plain was asked for"}
    prompts = checked_prompts(vlm.engine, prompts)
    if reference is None:
        reference = vlm.ask(prompts, asking, engine="plain")
    found = compare(reference, vlm.ask(prompts, asking))
    instead = "auto" if vlm.engine == "vllm" else "plain"
    if found["largest_difference"] > TOLERANCE[torch_dtype]:
        raise UserError(f"engine {vlm.engine} differs from engine plain by {found['largest_difference']:.3g} in a "
                        f"probability ({torch_dtype}); set engine to {instead}")
    if vlm.engine != "vllm":
        return found
    if found["different_replies"] > MOST_DIFFERENT[torch_dtype] * found["replies"]:
        raise UserError(f"engine vllm gives {found['different_replies']} of {found['replies']} replies otherwise than "
                        f"engine plain ({torch_dtype}); set engine to auto")
    return found | vlm.engines["vllm"].report()


def free_memory() -> None:
    """Gives back the memory of models that are no longer used (a model and its engines refer to each other)."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def ask_variants(p: Settings, checkpoints: Mapping[str, str], facts: Mapping[str, Any], folder: Path,
                 some: Sequence[Prompt], ask: Callable[[VLM, str], pd.DataFrame], shard: Shard = WHOLE
                 ) -> Iterator[tuple[str, pd.DataFrame]]:
    """(variant, its replies) for every variant.

    Args:
        checkpoints: variant -> folder or hub id.
        facts: what else the replies depend on; it is recorded, but for long lists.
        folder: where the replies of each finished variant are kept, and settings.json (of a shard, settings.1of7.json
            and so on) says how they were made, by which engine, and how far the engines agree.
        some: prompts on which the engine is compared with the plain one; vLLM before all others are asked, but after
            the plain one has left the memory.
        ask: (model, variant) -> the table of replies, of a shard its own.

    Raises:
        UserError: a model cannot be loaded, or was trained with another MAX_PIXELS; a GPU or an image is missing; the
            engine cannot ask the model or give what is wanted, or differs from the reference.
    """
    device = pick_device(p.device)
    if p.engine == "vllm":  # before the first of the variants is asked for an hour
        refuse_answers(some)
        for checkpoint in checkpoints.values():
            refuse_vllm(checkpoint, device)
    names = ("model_type", "template", "max_pixels", "torch_dtype", "batch_size", "max_new_tokens", "engine")
    settings = {"device": device} | {name: getattr(p, name) for name in names}
    record, part = {}, "" if shard == WHOLE else f".{shard.name}"
    for variant, checkpoint in checkpoints.items():
        began = time.monotonic()
        key = fingerprint(checkpoint, [settings, facts])

        def make(checkpoint: str = checkpoint, variant: str = variant, key: str = key) -> pd.DataFrame:
            choice = ModelChoice(checkpoint, p.model_type, p.template, p.max_pixels, p.torch_dtype, device)
            load = partial(load_vlm, choice)
            asking = Asking(p.batch_size, p.max_new_tokens)
            reference = None
            if p.engine == "vllm":  # the GPU need not hold the model twice
                free_memory()
                prompts = checked_prompts("vllm", some)
                reference = load("plain").ask(prompts, replace(asking, description="the reference"))
            free_memory()
            vlm = load(p.engine, p.batch_size)
            try:
                asked_by = {"engine": vlm.engine}
                asked_by["check"] = check_engine(vlm, some, asking, p.torch_dtype, reference)
                table = ask(vlm, variant)
                if vlm.engine == "vllm":
                    asked_by |= vlm.engines["vllm"].report()
            finally:
                if vlm.engine == "vllm":
                    vlm.engines["vllm"].close()
            write_json(asked_by, folder / f"{variant}{part}-{key}.json")
            return table

        replies = kept_or_asked(folder, f"{variant}{part}", key, make)
        seconds = round(time.monotonic() - began, 1)  # next to nothing where the replies were kept
        record[variant] = {"checkpoint": checkpoint, "rows": len(replies), "seconds": seconds} | settings
        record[variant] |= {name: value for name, value in facts.items() if len(str(value)) < 200}
        record[variant]["asked_by"] = json.loads((folder / f"{variant}{part}-{key}.json").read_text())
        yield variant, replies
    write_json(record, folder / f"settings{part}.json")
