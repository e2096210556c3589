"""Load a vision-language model with its ms-swift template, and send prompts with images to it.

ms-swift loads the model and knows its chat template, so training and evaluation give a model the same tokens and
pixels. Three engines run the prompts. The plain engine (:mod:`csp_utils.models.vlm.plain`) works for every model and is
the reference. The shared engine (:mod:`csp_utils.models.vlm.shared`) computes common prefixes once. vLLM
(:mod:`csp_utils.models.vlm.vllm`) is for GPU machines.
"""

import logging
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from csp_utils.base.errors import UserError, first_line, gpu_full
from csp_utils.models import families, remote_code
from csp_utils.models.checkpoints import adapter_base, check_max_pixels, image_variables
from csp_utils.models.vlm import vllm as vlm_swift
from csp_utils.models.vlm.plain import PlainEngine
from csp_utils.models.vlm.refusals import refuse
from csp_utils.models.vlm.reply import CANDIDATES, Asking, Prompt, Reply
from csp_utils.models.vlm.shared import SharedEngine, why_not_shared
from csp_utils.results.stage import WHOLE, Shard

EngineName = Literal["auto", "shared", "plain", "vllm"]
Engine = PlainEngine | SharedEngine | vlm_swift.SwiftEngine


@dataclass(frozen=True)
class ModelChoice:
    """Which model to load, and how."""

    model: str
    """Folder or id on the Hugging Face hub."""
    model_type: str | None = None
    """ms-swift's model type; None lets ms-swift find it."""
    template: str | None = None
    """ms-swift's chat template; None lets ms-swift find it."""
    max_pixels: int | None = None
    """ms-swift's MAX_PIXELS, which a process reads once; None for ms-swift's default."""
    torch_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights."""
    device: str = "cpu"
    """As :func:`csp_utils.base.devices.pick_device` returns it."""
    revision: str | None = None
    """Commit, tag or branch of a hub id; None for the newest."""
    trust_remote_code: bool = False
    """Run code that comes with the weights of a model outside the catalogue (:mod:`csp_utils.models.remote_code`)."""


class VLM:
    """A loaded vision-language model.

    Attributes:
        engines: the engines that can run it, by name.
        engine: name of the engine that :meth:`ask` uses by default.
        special: special tokens of its tokenizer, which no question may say.
    """

    def __init__(self, engines: dict[str, Engine], engine: str, special: Sequence[str] = ()):
        self.engines, self.engine, self.special = engines, engine, special

    def ask(self, prompts: Sequence[Prompt | tuple[Path, str]], asking: Asking, engine: str | None = None,
            shard: Shard = WHOLE) -> list[Reply | None]:
        """Send all prompts to the model and return its replies, in the order of ``prompts``.

        A second thread encodes the next batch while the model works on the current one. In float32 the replies depend
        neither on the batch size nor on the order of the prompts, and the engines agree (but vLLM samples with random
        numbers of its own).

        Args:
            prompts: a prompt, or (image, text) for the greedy reply alone. The template puts the image first.
            asking: batch size, token budget, temperature and progress bar.
            engine: name of one of :attr:`engines` for this call; None for :attr:`engine`.
            shard: run only the batches of this shard; the other prompts get None.

        Raises:
            UserError: an image cannot be read or is too thin, a question says a control token or is too long, or a
                batch does not fit into the GPU's memory.
        """
        prompts = [Prompt(*prompt) for prompt in prompts]
        refuse(prompts, self.special)
        batches = shard.share(self._batches(prompts, asking.batch_size, engine or self.engine))
        replies: list[Reply | None] = [None] * len(prompts)
        with ThreadPoolExecutor(1) as pool:

            def encode(number: int) -> Future:
                runs, batch = batches[number]
                return pool.submit(runs.encode, [prompts[i] for i in batch])

            ahead = encode(0) if batches else None
            for number, (runs, batch) in enumerate(asking.progress(batches, asking.description)):
                encoded = ahead.result()
                if number + 1 < len(batches):
                    ahead = encode(number + 1)
                try:
                    some = runs.reply(encoded, [prompts[i] for i in batch], asking)
                except RuntimeError as error:
                    raise gpu_full(error, asking.batch_size) or error from error
                for i, reply in zip(batch, some, strict=True):
                    replies[i] = reply
        return replies

    def _batches(self, prompts: list[Prompt], batch_size: int, engine: str) -> list[tuple[Engine, list[int]]]:
        """Assign prompts to engines and batches. Prompts without an image go to the plain engine, not the shared."""
        blind = [i for i, prompt in enumerate(prompts) if prompt.image is None]
        seeing = [i for i, prompt in enumerate(prompts) if prompt.image is not None]
        return [(self.engines[name], [own[i] for i in batch])
                for name, own in (("plain" if engine == "shared" else engine, blind), (engine, seeing))
                for batch in self.engines[name].batches([prompts[i] for i in own], batch_size)]


class TransformersVLM(VLM):
    """A model of transformers with its ms-swift template, and the engines that can run it.

    Attributes:
        model: the transformers model, in evaluation mode.
        template: ms-swift's template. It encodes prompts and collates batches with left padding.
        why_not_shared: the reason why the shared engine cannot run this model; None if it can.

    Raises:
        UserError: no token begins a candidate, or the requested engine cannot run this model.
    """

    def __init__(self, model: Any, template: Any, engine: EngineName = "auto"):
        self.model, self.template = model.eval(), template
        template.model = model
        template.set_mode("transformers")
        self.tokenizer = template.tokenizer
        ends = end_tokens(template, getattr(model.generation_config, "eos_token_id", None))  # remote code may have none
        parts = (model, template, ends, first_tokens(self.tokenizer), threading.Lock())
        engines: dict[str, Engine] = {"plain": PlainEngine(*parts)}
        self.why_not_shared = why_not_shared(model)
        if self.why_not_shared is None:
            engines["shared"] = SharedEngine(*parts)
        elif engine == "shared":
            raise UserError(f"engine shared cannot ask this model: {self.why_not_shared}; use engine plain")
        super().__init__(engines, next(reversed(engines)) if engine == "auto" else engine,
                         self.tokenizer.all_special_tokens)


def end_tokens(template: Any, own: int | list[int] | None) -> list[int]:
    """Collect the ids of the tokens that end a reply.

    They are the model's eos tokens (``own``), the tokenizer's eos and padding token, and the template's end of a turn.
    """
    tokenizer = template.tokenizer
    ends = set(own if isinstance(own, list) else [own]) | {tokenizer.eos_token_id, tokenizer.pad_token_id}
    for stop in template.template_meta.suffix[-1:]:
        # The suffix may end with a line break, which ends no reply. A suffix of one token counts even if the tokenizer
        # does not list it as a special token (Qwen-VL's does not).
        tokens = tokenizer.encode(stop.strip(), add_special_tokens=False) if isinstance(stop, str) else stop
        ends |= set(tokens) if len(tokens) == 1 else {t for t in tokens if t in tokenizer.all_special_ids}
    return sorted(t for t in ends if t is not None)


def first_tokens(tokenizer: Any) -> dict[str, list[int]]:
    """Return :func:`candidate_tokens` of every candidate. Raises UserError if a candidate has none."""
    found = {c: candidate_tokens(tokenizer, c) for c in CANDIDATES}
    for candidate, tokens in found.items():
        if not tokens:
            raise UserError(f"no token of this model's vocabulary begins {candidate!r}; use another model")
    return found


def candidate_tokens(tokenizer: Any, candidate: str) -> list[int]:
    """Return the ids of the tokens that may begin the answer ``candidate``.

    The spellings of a candidate are its three cases, with and without a leading space. If any spelling is a single
    token, only such spellings count, because the first token of a longer one ("N" of "NO") also begins other words.
    White space, and tokens that begin a spelling of the other candidate, are left out.
    """

    vocabulary = tokenizer.get_vocab()

    def spellings(word: str) -> list[list[int]]:
        cases = (word, word.lower(), word.upper())
        encoded = [tokenizer.encode(space + case, add_special_tokens=False) for space in ("", " ") for case in cases]
        # SentencePiece prepends a space to every text, so encode() never returns the bare word. A model can still
        # generate it, for example after a line break.
        return encoded + [[vocabulary[case]] for case in cases if case in vocabulary]

    others = {ids[0] for c in CANDIDATES if c != candidate for ids in spellings(c) if ids}
    variants = [ids for ids in spellings(candidate) if ids and tokenizer.decode(ids[:1]).strip()]
    variants = [ids for ids in variants if ids[0] not in others]
    whole = {ids[0] for ids in variants if len(ids) == 1}
    return sorted(whole or {ids[0] for ids in variants})


def load_vlm(choice: ModelChoice, engine: EngineName = "auto", batch_size: int = 32) -> VLM:
    """Load a model through ms-swift.

    Args:
        engine: auto is the shared engine where it can run the model, else the plain one. vllm loads no other engine.
        batch_size: for vLLM, the number of prompts that it works on at a time.

    Raises:
        UserError: the folder holds no model; the model was trained with another MAX_PIXELS, or this process already
            uses another one; the engine cannot run it; the environment lacks a package that it needs; or the model
            comes with code that is neither known nor allowed.
    """
    model = choice.model
    if engine == "vllm":
        vlm_swift.refuse_vllm(model, choice.device)
    base = adapter_base(model)
    families.check(choice.model_type, base or model)
    looked_at = remote_code.check(model, choice.revision, choice.trust_remote_code)
    choice = replace(choice, revision=looked_at or choice.revision)  # what was looked at is what is loaded
    if base is None and Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise UserError(f"{model} holds no config.json, so no model; make it again or correct the path")
    check_max_pixels(model, choice.max_pixels)
    _set_max_pixels(choice.max_pixels)
    loaded, processor = _load(choice, base, load_model=engine != "vllm")
    from swift.template import get_template

    template = get_template(processor, template_type=choice.template)
    if engine == "vllm":
        return _in_vllm(model, choice.revision, template, batch_size)
    return TransformersVLM(loaded, template, engine)


def _load(choice: ModelChoice, base: str | None, load_model: bool) -> tuple[Any, Any]:
    """Load the model (None without ``load_model``) and its processor.

    Args:
        base: the model that ``choice.model`` is a LoRA adapter of; None if it is a whole model.
    """
    import torch
    from swift.model import get_model_processor
    from swift.tuners import Swift

    import csp_utils.models.swift_plugins.image_tokens
    import csp_utils.models.swift_plugins.remote_code  # noqa: F401  (both take effect on import)

    logging.getLogger("swift").setLevel(logging.ERROR)  # it warns about optional packages that we do not need
    try:
        loaded, processor = get_model_processor(
            str(base or choice.model), torch_dtype=getattr(torch, choice.torch_dtype), model_type=choice.model_type,
            device_map=choice.device, use_hf=True, load_model=load_model,
            attn_impl=families.attention(choice.model_type, base or choice.model), revision=choice.revision,
        )  # fmt: skip
        if base is not None:
            loaded = Swift.from_pretrained(loaded, str(choice.model))
    except (AttributeError, ImportError, OSError, ValueError, RuntimeError) as error:  # remote code: the first two
        if sentence := gpu_full(error, 1):  # nothing is asked yet: a smaller batch would not help
            raise sentence from error
        reason = first_line(error)
        raise UserError(f"ms-swift cannot load {choice.model} ({reason}); check the model") from error
    return loaded, processor


def _in_vllm(model: str, revision: str | None, template: Any, batch_size: int) -> VLM:
    """Load the model into vLLM. Without a transformers model, its eos tokens are read from its files."""
    from transformers import GenerationConfig

    first = first_tokens(template.tokenizer)
    info = template.processor.model_info
    try:
        own = GenerationConfig.from_pretrained(info.model_dir).eos_token_id
    except OSError:  # a model without generation_config.json names them in config.json
        own = getattr(info.config.get_text_config(), "eos_token_id", None)
    engine = vlm_swift.vllm_engine(model, template, batch_size, revision)
    ends = end_tokens(template, own)
    return VLM({"vllm": vlm_swift.SwiftEngine(engine, ends, first, vlm_swift.TOP_LOGPROBS, seeded=True)}, "vllm",
               template.tokenizer.all_special_tokens)


def _set_max_pixels(max_pixels: int | None) -> None:
    """Set MAX_PIXELS for ms-swift, which passes it to qwen-vl-utils at the first load only.

    Raises UserError if this process has already loaded a model with another value.
    """
    wanted = None if max_pixels is None else str(max_pixels)
    vision = sys.modules.get("qwen_vl_utils.vision_process")
    if vision is not None and hasattr(vision, "_patch") and os.environ.get("MAX_PIXELS") != wanted:
        now = os.environ.get("MAX_PIXELS", "its default")
        raise UserError(f"this process already uses MAX_PIXELS {now}, not {max_pixels}; restart the kernel")
    os.environ |= image_variables(max_pixels)
