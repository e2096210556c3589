"""Asks every variant, one model in memory at a time; keeps the replies of a finished one, and checks the engine.

What is asked is the business of the stages (:mod:`csp_utils.elicitation`, :mod:`csp_utils.stress`).
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from csp_utils.artifacts import write_json, write_parquet
from csp_utils.devices import pick_device
from csp_utils.errors import UserError
from csp_utils.replies import Prompt
from csp_utils.vlm import VLM, Engine, load_vlm

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.05}
"""How far a probability of another engine may be from the plain one's: far more than rounding, far less than an error
in positions or attention makes."""


class Settings(Protocol):
    """The parameters that say how a model is loaded and asked; see :class:`csp_utils.params.Eval`."""

    model_type: str | None
    template: str | None
    max_pixels: int | None
    torch_dtype: str
    batch_size: int
    max_new_tokens: int
    engine: Engine
    device: str


def fingerprint(model: str, facts: Any) -> str:
    """What the replies depend on, in 16 hex digits: ``facts`` (anything that JSON can hold), and the model's files (by
    size and time of writing; a hub id by its name)."""
    folder = Path(model)
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    state = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    told = json.dumps([str(model), state, facts], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def kept_or_asked(folder: Path, variant: str, key: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The replies of a variant: those kept from a run that was cut, if ``key`` is the same, else made and kept."""
    path = folder / f"{variant}-{key}.parquet"
    if not path.is_file():
        write_parquet(make(), path)
        for old in folder.glob(f"{variant}-*"):
            if old.stem != path.stem:
                old.unlink()
    return pd.read_parquet(path)


def check_engine(vlm: VLM, prompts: Sequence[Prompt], batch_size: int, max_new_tokens: int, torch_dtype: str
                 ) -> dict[str, Any]:
    """Compares the engine with the plain one on a few ``prompts`` (six levels of each, for the plain one's sake).

    Returns:
        :meth:`csp_utils.vlm.VLM.compare_engines`'s; with the plain engine {"not_compared": why}.

    Raises:
        UserError: a probability differs by more than :data:`TOLERANCE`.
    """
    if vlm.engine == "plain":
        return {"not_compared": vlm.why_not_shared or "engine plain was asked for"}
    prompts = [p._replace(answers=p.answers[::20], seeds=p.seeds[:1]) for p in prompts]
    found = vlm.compare_engines(prompts, batch_size, max_new_tokens)
    if found["largest_difference"] > TOLERANCE[torch_dtype]:
        raise UserError(f"engine {vlm.engine} differs from engine plain by {found['largest_difference']:.3g} in a "
                        f"probability ({torch_dtype}); set engine to plain")
    return found


def ask_variants(p: Settings, checkpoints: Mapping[str, str], facts: Mapping[str, Any], folder: Path,
                 some: Sequence[Prompt], ask: Callable[[VLM, str], pd.DataFrame]) -> Iterator[tuple[str, pd.DataFrame]]:
    """(variant, its replies) for every variant.

    Args:
        checkpoints: variant -> folder or hub id.
        facts: what else the replies depend on; it is recorded, but for long lists.
        folder: where the replies of each finished variant are kept, and settings.json says how they were made, by which
            engine, and how far the engines agree.
        some: prompts on which the engine is compared with the plain one.
        ask: (model, variant) -> the table of replies.

    Raises:
        UserError: a model cannot be loaded, or was trained with another MAX_PIXELS; a GPU or an image is missing; the
            engine cannot ask the model, or differs from the reference.
    """
    device = pick_device(p.device)
    names = ("model_type", "template", "max_pixels", "torch_dtype", "batch_size", "max_new_tokens", "engine")
    settings = {"device": device} | {name: getattr(p, name) for name in names}
    record = {}
    for variant, checkpoint in checkpoints.items():
        began = time.monotonic()
        key = fingerprint(checkpoint, [settings, facts])

        def make(checkpoint: str = checkpoint, variant: str = variant, key: str = key) -> pd.DataFrame:
            vlm = load_vlm(checkpoint, p.model_type, p.template, p.max_pixels, p.torch_dtype, device, p.engine)
            check = check_engine(vlm, some, p.batch_size, p.max_new_tokens, p.torch_dtype)
            write_json({"engine": vlm.engine, "check": check}, folder / f"{variant}-{key}.json")
            return ask(vlm, variant)

        replies = kept_or_asked(folder, variant, key, make)
        seconds = round(time.monotonic() - began, 1)  # next to nothing where the replies were kept
        record[variant] = {"checkpoint": checkpoint, "prompts": len(replies), "seconds": seconds} | settings
        record[variant] |= {name: value for name, value in facts.items() if len(str(value)) < 200}
        record[variant]["asked_by"] = json.loads((folder / f"{variant}-{key}.json").read_text())
        yield variant, replies
    write_json(record, folder / "settings.json")
