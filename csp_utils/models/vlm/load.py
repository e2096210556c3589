"""A vision-language model and its ms-swift template: prompts with an image in, replies out.

ms-swift loads the model and knows its chat template, so that training and evaluation show a model the same tokens and
pixels. Three engines ask it: the plain one (:mod:`csp_utils.models.vlm.plain`) asks any model and is the reference, the shared
one (:mod:`csp_utils.models.vlm.shared`) computes once what prompts have in common, and vLLM (:mod:`csp_utils.models.vlm.vllm`) is
for GPU machines.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from csp_utils.base.errors import UserError, first_line
from csp_utils.base.stage import WHOLE, Shard
from csp_utils.models import families
from csp_utils.models.checkpoints import adapter_base, check_max_pixels, image_variables
from csp_utils.models.vlm import vllm as vlm_swift
from csp_utils.models.vlm.plain import PlainEngine
from csp_utils.models.vlm.reply import CANDIDATES, Progress, Prompt, Reply
from csp_utils.models.vlm.shared import SharedEngine, why_not_shared

Engine = Literal["auto", "shared", "plain", "vllm"]
Asking = PlainEngine | SharedEngine | vlm_swift.SwiftEngine


class VLM:
    """A vision-language model, ready to be asked.

    Attributes:
        engines: the engines that can ask it, by name.
        engine: the name of the one that :meth:`ask` uses.
    """

    def __init__(self, engines: dict[str, Asking], engine: str):
        self.engines, self.engine = engines, engine

    def ask(self, prompts: Sequence[Prompt | tuple[Path, str]], batch_size: int, max_new_tokens: int,
            progress: Progress = lambda batches, _: batches, description: str = "asking", temperature: float = 1.0,
            engine: str | None = None, shard: Shard = WHOLE) -> list[Reply | None]:
        """The replies, in the order of ``prompts``; of a shard, those to its batches, and None for the others.

        A batch is encoded while the model works on the one before. In float32 the replies depend neither on the batch
        size nor on the order, and the engines agree (draws of vLLM are its own).

        Args:
            prompts: the template puts the image before the text. (image, text) alone wants the greedy reply.
            progress: wraps the list of batches, for a progress bar.
            temperature: of the sampled replies; above 0.
            engine: the name of one of :attr:`engines` for this call; None for :attr:`engine`.
        """
        prompts = [Prompt(*prompt) for prompt in prompts]
        batches = shard.share(self._batches(prompts, batch_size, engine or self.engine))
        replies: list[Reply | None] = [None] * len(prompts)
        with ThreadPoolExecutor(1) as pool:

            def encode(number: int) -> Future:
                asking, batch = batches[number]
                return pool.submit(asking.encode, [prompts[i] for i in batch])

            ahead = encode(0) if batches else None
            for number, (asking, batch) in enumerate(progress(batches, description)):
                encoded = ahead.result()
                if number + 1 < len(batches):
                    ahead = encode(number + 1)
                some = asking.reply(encoded, [prompts[i] for i in batch], max_new_tokens, temperature)
                for i, reply in zip(batch, some, strict=True):
                    replies[i] = reply
        return replies

    def _batches(self, prompts: list[Prompt], batch_size: int, engine: str) -> list[tuple[Asking, list[int]]]:
        """Which engine asks which prompts. The plain one asks those without an image: there is nothing to share."""
        blind = [i for i, prompt in enumerate(prompts) if prompt.image is None]
        seeing = [i for i, prompt in enumerate(prompts) if prompt.image is not None]
        return [(self.engines[name], [own[i] for i in batch])
                for name, own in (("plain" if engine == "shared" else engine, blind), (engine, seeing))
                for batch in self.engines[name].batches([prompts[i] for i in own], batch_size)]


class TransformersVLM(VLM):
    """A transformers model with its ms-swift template, and the engines that ask it.

    Attributes:
        model: the transformers model, in evaluation mode.
        template: ms-swift's template; it makes a prompt's tokens and pixels, and pads a batch on the left.
        why_not_shared: why there is no shared engine among its engines beside the plain one; None if there is.

    Raises:
        UserError: no token begins a candidate, or the engine that is asked for cannot ask this model.
    """

    def __init__(self, model: Any, template: Any, engine: Engine = "auto"):
        self.model, self.template = model.eval(), template
        template.model = model
        template.set_mode("transformers")
        self.tokenizer = template.tokenizer
        ends = end_tokens(template, getattr(model.generation_config, "eos_token_id", None))  # remote code may have none
        parts = (model, template, ends, first_tokens(self.tokenizer))
        engines: dict[str, Asking] = {"plain": PlainEngine(*parts)}
        self.why_not_shared = why_not_shared(model)
        if self.why_not_shared is None:
            engines["shared"] = SharedEngine(*parts)
        elif engine == "shared":
            raise UserError(f"engine shared cannot ask this model: {self.why_not_shared}; use engine plain")
        super().__init__(engines, next(reversed(engines)) if engine == "auto" else engine)


def end_tokens(template: Any, own: int | list[int] | None) -> list[int]:
    """Tokens that end a reply: the model's ``own``, the tokenizer's, and the template's end of a turn."""
    tokenizer = template.tokenizer
    ends = set(own if isinstance(own, list) else [own]) | {tokenizer.eos_token_id, tokenizer.pad_token_id}
    for stop in template.template_meta.suffix[-1:]:
        # Without the line break behind it. Not every tokenizer counts its end of a turn among its special tokens
        # (Qwen-VL's does not), so that a single token is taken for it whatever it counts as.
        tokens = tokenizer.encode(stop.strip(), add_special_tokens=False) if isinstance(stop, str) else stop
        ends |= set(tokens) if len(tokens) == 1 else {t for t in tokens if t in tokenizer.all_special_ids}
    return sorted(t for t in ends if t is not None)


def first_tokens(tokenizer: Any) -> dict[str, list[int]]:
    """:func:`candidate_tokens` of every candidate. Raises UserError if one has none."""
    found = {c: candidate_tokens(tokenizer, c) for c in CANDIDATES}
    for candidate, tokens in found.items():
        if not tokens:
            raise UserError(f"no token of this model's vocabulary begins {candidate!r}; use another model")
    return found


def candidate_tokens(tokenizer: Any, candidate: str) -> list[int]:
    """First tokens of the answer `candidate`, over its variants in case and with or without a leading space.

    A variant that is a single token stands for itself alone; the first token of a longer one ("N" of "NO") begins other
    words too, and counts only if no variant is a single token. A token is left out if it is white space or if the other
    candidate's variants begin with it.
    """

    vocabulary = tokenizer.get_vocab()

    def first_tokens(word: str) -> list[list[int]]:
        cases = (word, word.lower(), word.upper())
        encoded = [tokenizer.encode(space + case, add_special_tokens=False) for space in ("", " ") for case in cases]
        # SentencePiece begins every text with a space, so that it never encodes to the bare word, which a model may say
        # all the same (after a line break).
        return encoded + [[vocabulary[case]] for case in cases if case in vocabulary]

    others = {ids[0] for c in CANDIDATES if c != candidate for ids in first_tokens(c) if ids}
    variants = [ids for ids in first_tokens(candidate) if ids and tokenizer.decode(ids[:1]).strip()]
    variants = [ids for ids in variants if ids[0] not in others]
    whole = {ids[0] for ids in variants if len(ids) == 1}
    return sorted(whole or {ids[0] for ids in variants})


def load_vlm(model: str, model_type: str | None, template: str | None, max_pixels: int | None,
             torch_dtype: Literal["float32", "bfloat16", "float16"], device: str, engine: Engine = "auto",
             batch_size: int = 32) -> VLM:
    """Load a model folder or hub id through ms-swift.

    Args:
        model_type, template: ms-swift's names; None lets ms-swift find them.
        max_pixels: ms-swift's MAX_PIXELS (it is read once per process); None for its default.
        device: as :func:`csp_utils.base.devices.pick_device` returns it.
        engine: auto takes the shared one where it can ask the model, else the plain one; of vllm, there is no other.
        batch_size: prompts that vLLM works on at a time.

    Raises:
        UserError: the folder holds no model, it was trained with another MAX_PIXELS, or this process already works
            with another one, the engine cannot ask it, or the environment lacks what its family needs.
    """
    if engine == "vllm":
        vlm_swift.refuse_vllm(model, device)
    base = adapter_base(model)  # the model that a LoRA adapter belongs to
    families.check(model_type, base or model)
    if base is None and Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise UserError(f"{model} holds no config.json, so no model; make it again or correct the path")
    check_max_pixels(model, max_pixels)
    _set_max_pixels(max_pixels)
    import logging

    import torch
    from swift.model import get_model_processor
    from swift.template import get_template
    from swift.tuners import Swift

    import csp_utils.models.swift_plugins.image_tokens  # noqa: F401  (takes effect on import)
    import csp_utils.models.swift_plugins.remote_code  # noqa: F401

    logging.getLogger("swift").setLevel(logging.ERROR)  # its warnings are about packages that are not needed here
    try:
        loaded, processor = get_model_processor(
            str(base or model), torch_dtype=getattr(torch, torch_dtype), model_type=model_type, device_map=device,
            use_hf=True, load_model=engine != "vllm", attn_impl=families.attention(model_type, base or model),
        )  # fmt: skip
        if base is not None:
            loaded = Swift.from_pretrained(loaded, str(model))
    except (AttributeError, ImportError, OSError, ValueError, RuntimeError) as error:  # the first two of remote code
        reason = first_line(error)
        raise UserError(f"ms-swift cannot load {model} ({reason}); check the model") from error
    made = get_template(processor, template_type=template)
    return _in_vllm(model, made, batch_size) if engine == "vllm" else TransformersVLM(loaded, made, engine)


def _in_vllm(model: str, template: Any, batch_size: int) -> VLM:
    """The model in vLLM; no transformers model is loaded, so that what ends a reply is read from its files."""
    from transformers import GenerationConfig

    first = first_tokens(template.tokenizer)
    info = template.processor.model_info
    try:
        own = GenerationConfig.from_pretrained(info.model_dir).eos_token_id
    except OSError:  # a model without this file says it in config.json
        own = getattr(info.config.get_text_config(), "eos_token_id", None)
    engine = vlm_swift.vllm_engine(model, template, batch_size)
    ends = end_tokens(template, own)
    return VLM({"vllm": vlm_swift.SwiftEngine(engine, ends, first, vlm_swift.TOP_LOGPROBS, seeded=True)}, "vllm")


def _set_max_pixels(max_pixels: int | None) -> None:
    """MAX_PIXELS for ms-swift, which hands it to qwen-vl-utils at the first load and never again."""
    wanted = None if max_pixels is None else str(max_pixels)
    vision = sys.modules.get("qwen_vl_utils.vision_process")
    if vision is not None and hasattr(vision, "_patch") and os.environ.get("MAX_PIXELS") != wanted:
        now = os.environ.get("MAX_PIXELS", "its default")
        raise UserError(f"this process already uses MAX_PIXELS {now}, not {max_pixels}; restart the kernel")
    os.environ |= image_variables(max_pixels)
