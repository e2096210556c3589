"""Ask every variant, one model in memory at a time; cache the replies of each, and check the engine that asks.

The prompts come from :mod:`csp_utils.asking.elicitation`, :mod:`csp_utils.asking.stress` and
:mod:`csp_utils.asking.schedule`.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from csp_utils.base.devices import pick_device
from csp_utils.base.errors import UserError
from csp_utils.base.files import write_json, write_parquet
from csp_utils.base.memory import free_models
from csp_utils.models.checkpoints import adapter_base
from csp_utils.models.vlm.load import VLM, EngineName, ModelChoice, load_vlm
from csp_utils.models.vlm.reply import TOLERANCE, Asking, Prompt, Reply
from csp_utils.models.vlm.variants import ENGINE_LIBRARIES
from csp_utils.models.vlm.vllm import refuse_answers, refuse_vllm
from csp_utils.results.digest import digest
from csp_utils.results.origin import Origin, code_and_libraries, plain, source_digest
from csp_utils.results.produce import cached
from csp_utils.results.stage import WHOLE, Shard

MOST_DIFFERENT = {"float32": 0.01, "bfloat16": 0.1, "float16": 0.05}
"""Largest share of greedy replies in which vLLM may differ from the plain engine. Rounding decides between two tokens
that are equally probable, which is rare in float32 and common in 16 bits. For the shared engine only probabilities are
compared: :data:`FEW` questions are too few for a share."""
CHECKED = {"vllm": 50}
"""Number of questions on which an engine is compared with the plain one; :data:`FEW` for all other engines."""
FEW = 2


class Settings(Protocol):
    """The parameters that say how a model is loaded and asked; see :class:`csp_utils.base.params.Asking`."""

    model_type: str | None
    template: str | None
    max_pixels: int | None
    torch_dtype: str
    batch_size: int
    max_new_tokens: int
    engine: EngineName
    device: str
    revision: str | None
    trust_remote_code: bool


@dataclass(frozen=True)
class Questionnaire:
    """The prompts for every variant, and all that the replies depend on besides the model.

    Attributes:
        ask: (model, variant) -> the table of replies; for a shard, its own rows.
        code: the function that asks, as :func:`csp_utils.results.code.code_of` takes it. Its code is in the cache key.
        facts: further values of the cache key; settings.json shows the short ones.
        inputs: role -> digest of the data behind the prompts, such as the images; in the cache key.
        checks: prompts on which the engine is compared with the plain one.
    """

    ask: Callable[[VLM, str], pd.DataFrame]
    code: str
    facts: Mapping[str, Any]
    inputs: Mapping[str, str]
    checks: Sequence[Prompt]


def digest_of_files(files: Iterable[str | Path]) -> str:
    """Return one digest for the names and contents of many files."""
    lines = [f"{Path(file).name} {digest(file)}" for file in sorted(map(str, files))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def checked_prompts(engine: str, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts on which engines are compared: each with six levels and one draw, as the plain engine is slow.

    For vLLM there is no draw: it has a random generator of its own.
    """
    return [p._replace(answers=p.answers[::20], seeds=() if engine == "vllm" else p.seeds[:1]) for p in prompts]


def compare(one: Sequence[Reply], two: Sequence[Reply]) -> dict[str, Any]:
    """Compare the replies of two engines: {"prompts", "replies", "different_replies", "largest_difference"}.

    The largest difference is one between probabilities, 0..1, of first tokens or of whole answers.
    """
    texts = [pair for x, y in zip(one, two, strict=True)
             for pair in zip((x.text, *x.samples), (y.text, *y.samples), strict=True)]
    numbers = [abs(a - b) for x, y in zip(one, two, strict=True)
               for a, b in zip((*x.first.values(), *x.answers), (*y.first.values(), *y.answers), strict=True)]
    return {"prompts": len(one), "replies": len(texts), "different_replies": sum(a != b for a, b in texts),
            "largest_difference": max(numbers, default=0.0)}


def check_engine(vlm: VLM, prompts: Sequence[Prompt], asking: Asking, torch_dtype: str,
                 reference: Sequence[Reply] | None = None) -> dict[str, Any]:
    """Compare the engine with the plain one on a few ``prompts``.

    Args:
        reference: the plain engine's replies to :func:`checked_prompts`; None if ``vlm`` has a plain engine.

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


SETTINGS = ("model_type", "template", "max_pixels", "torch_dtype", "batch_size", "max_new_tokens", "engine")
"""Parameters of the cache key: how a model is loaded and asked. Where it runs is not among them."""


def ask_variants(p: Settings, checkpoints: Mapping[str, str], questionnaire: Questionnaire, folder: Path,
                 shard: Shard = WHOLE) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (variant, its replies) for every variant, one model in memory at a time.

    The replies of a variant are cached in ``folder`` with the record of their origin: model, prompts, images, settings,
    code of the engines, and versions of the libraries. After an interruption only variants without replies are asked.

    Args:
        checkpoints: variant -> folder or hub id.
        folder: of the cache. Its settings.json (for a shard, settings.1of7.json) says how each variant was asked, by
            which engine, and how far the engines agree; :func:`write_settings_of_shards` combines those of shards.

    Raises:
        UserError: a model cannot be loaded, or was trained with another MAX_PIXELS; a GPU or an image is missing; the
            engine cannot ask the model, cannot give what a method needs, or differs from the plain engine.
    """
    device = pick_device(p.device)
    if p.engine == "vllm":  # before the first of the variants is asked for an hour
        refuse_answers(questionnaire.checks)
        for checkpoint in checkpoints.values():
            refuse_vllm(checkpoint, device)
    settings = {name: getattr(p, name) for name in SETTINGS}
    code, libraries = code_and_libraries([questionnaire.code], libraries=ENGINE_LIBRARIES)
    record, part = {}, "" if shard == WHOLE else f".{shard.name}"
    for variant, checkpoint in checkpoints.items():
        began = time.monotonic()
        base = adapter_base(checkpoint)
        inputs = {"model": source_digest(checkpoint, p.revision), **questionnaire.inputs}
        inputs |= {"base": source_digest(base, p.revision)} if base else {}
        facts = plain(settings | dict(questionnaire.facts) | {"shard": shard.name})
        origin = Origin(f"replies of {variant}{part}", facts, inputs, code, libraries)

        def make(new: Path, checkpoint: str = checkpoint, variant: str = variant) -> None:
            table, asked_by = _ask_one(p, checkpoint, variant, questionnaire, device)
            write_parquet(table, new / "replies.parquet")
            write_json(asked_by | {"device": device}, new / "asked_by.json")

        there = cached(folder / f"{variant}{part}", origin, make)
        replies = pd.read_parquet(there / "replies.parquet")
        seconds = round(time.monotonic() - began, 1)  # almost 0 where the replies come from the cache
        asked_by = json.loads((there / "asked_by.json").read_text(encoding="utf-8"))
        record[variant] = {"checkpoint": checkpoint, "rows": len(replies), "seconds": seconds,
                           "device": asked_by.pop("device"), **settings,
                           **{name: value for name, value in questionnaire.facts.items() if len(str(value)) < 200},
                           "asked_by": asked_by}  # fmt: skip
        yield variant, replies
    write_json(record, folder / f"settings{part}.json")


def write_settings_of_shards(folder: Path, shards: int) -> None:
    """Combine the settings files of all shards into settings.json, as a run without shards has it.

    ``rows`` and ``seconds`` are sums, ``asked_by`` is that of the shard whose engines differ most, and ``shards`` holds
    the ``asked_by`` of every shard.
    """
    files = {name: folder / f"settings.{name}.json" for name in (Shard(i, shards).name for i in range(shards))}
    parts = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
    record: dict[str, Any] = {}
    for variant in dict.fromkeys(variant for part in parts.values() for variant in part):
        own = {name: part[variant] for name, part in parts.items() if variant in part}
        worst = max(own.values(), key=lambda one: one["asked_by"].get("check", {}).get("largest_difference", -1.0))
        record[variant] = worst | {
            "rows": sum(one["rows"] for one in own.values()),
            "seconds": round(sum(one["seconds"] for one in own.values()), 1),
            "shards": {name: one["asked_by"] for name, one in own.items()},
        }
    write_json(record, folder / "settings.json")


def load_example(p: Any, checkpoint: str, say: Callable[[str], object] = print) -> VLM | None:
    """Load a model as :func:`ask_variants` does, for one example; None, with a sentence, where that is too dear.

    Args:
        p: parameters of notebook 06.
    """
    if p.engine == "vllm":
        say("The example is not asked: vLLM would reserve the GPU's memory, which the plain engine needs first.")
        return None
    if p.shards > 1:
        say(f"The example is not asked: the {p.shards} shards load the model, and it is not loaded again for it.")
        return None
    free_models()
    return load_vlm(_choice(p, checkpoint, pick_device(p.device)), p.engine, p.batch_size)


def _choice(p: Settings, checkpoint: str, device: str) -> ModelChoice:
    return ModelChoice(checkpoint, p.model_type, p.template, p.max_pixels, p.torch_dtype, device, p.revision,
                       p.trust_remote_code)  # fmt: skip


def _ask_one(p: Settings, checkpoint: str, variant: str, questionnaire: Questionnaire, device: str
             ) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Load one model, compare its engine with the plain one, and ask it; return the replies and how it was asked.

    With vLLM, the plain engine answers the checks first and is then freed, so that the GPU never holds both models.
    """
    load = partial(load_vlm, _choice(p, checkpoint, device))
    asking, reference = Asking(p.batch_size, p.max_new_tokens), None
    if p.engine == "vllm":
        free_models()
        prompts = checked_prompts("vllm", questionnaire.checks)
        reference = load("plain").ask(prompts, replace(asking, description="the reference"))
    free_models()
    vlm = load(p.engine, p.batch_size)
    try:
        check = check_engine(vlm, questionnaire.checks, asking, p.torch_dtype, reference)
        asked_by = {"engine": vlm.engine, "check": check}
        table = questionnaire.ask(vlm, variant)
        if vlm.engine == "vllm":
            asked_by |= vlm.engines["vllm"].report()
    finally:
        if vlm.engine == "vllm":
            vlm.engines["vllm"].close()
    return table, asked_by
