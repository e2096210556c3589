"""A vision-language model and its ms-swift template: prompts with an image in, replies out.

ms-swift loads the model and knows its chat template, so that training and evaluation show a model the same tokens and
pixels. Two engines ask it: the plain one (:mod:`csp_utils.vlm_plain`) asks any model and is the reference, the shared
one (:mod:`csp_utils.vlm_shared`) computes once what prompts have in common.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from csp_utils.checkpoints import adapter_base, check_max_pixels
from csp_utils.errors import UserError
from csp_utils.replies import CANDIDATES, Progress, Prompt, Reply
from csp_utils.vlm_plain import PlainEngine
from csp_utils.vlm_shared import SharedEngine, why_not_shared

Engine = Literal["auto", "shared", "plain"]


class VLM:
    """A vision-language model with its ms-swift template, ready to be asked.

    Attributes:
        model: the transformers model, in evaluation mode.
        template: ms-swift's template; it makes a prompt's tokens and pixels, and pads a batch on the left.
        engines: the engines that can ask it: plain, and shared unless ``why_not_shared`` says why not.
        engine: the one that :meth:`ask` uses, "plain" or "shared".

    Raises:
        UserError: no token begins a candidate, or the engine that is asked for cannot ask this model.
    """

    def __init__(self, model: Any, template: Any, engine: Engine = "auto"):
        self.model, self.template = model.eval(), template
        template.model = model
        template.set_mode("transformers")
        self.tokenizer = template.tokenizer
        first_tokens = {c: candidate_tokens(self.tokenizer, c) for c in CANDIDATES}
        for candidate, tokens in first_tokens.items():
            if not tokens:
                raise UserError(f"no token of this model's vocabulary begins {candidate!r}; use another model")
        parts = (model, template, self._end_tokens(), first_tokens)
        self.engines: dict[str, PlainEngine | SharedEngine] = {"plain": PlainEngine(*parts)}
        self.why_not_shared = why_not_shared(model)
        if self.why_not_shared is None:
            self.engines["shared"] = SharedEngine(*parts)
        elif engine == "shared":
            raise UserError(f"engine shared cannot ask this model: {self.why_not_shared}; use engine plain")
        self.engine = next(reversed(self.engines)) if engine == "auto" else engine

    def ask(self, prompts: Sequence[Prompt | tuple[Path, str]], batch_size: int, max_new_tokens: int,
            progress: Progress = lambda batches, _: batches, description: str = "asking", temperature: float = 1.0,
            engine: str | None = None) -> list[Reply]:
        """The replies, in the order of ``prompts``.

        A batch is encoded while the model works on the one before. In float32 the replies depend neither on the batch
        size nor on the order, and the engines agree.

        Args:
            prompts: the template puts the image before the text. (image, text) alone wants the greedy reply.
            progress: wraps the list of batches, for a progress bar.
            temperature: of the sampled replies; above 0.
            engine: "plain" or "shared" for this call; None for :attr:`engine`.
        """
        prompts = [Prompt(*prompt) for prompt in prompts]
        batches = self._batches(prompts, batch_size, engine or self.engine)
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

    def _batches(self, prompts: list[Prompt], batch_size: int, engine: str
                 ) -> list[tuple[PlainEngine | SharedEngine, list[int]]]:
        """Which engine asks which prompts. The plain one asks those without an image: there is nothing to share."""
        blind = [i for i, prompt in enumerate(prompts) if prompt.image is None]
        seeing = [i for i, prompt in enumerate(prompts) if prompt.image is not None]
        return [(self.engines[name], [own[i] for i in batch])
                for name, own in (("plain", blind), (engine, seeing))
                for batch in self.engines[name].batches([prompts[i] for i in own], batch_size)]

    def compare_engines(self, prompts: Sequence[Prompt], batch_size: int, max_new_tokens: int,
                        temperature: float = 1.0) -> dict[str, Any]:
        """How far its engine agrees with the plain one: {"prompts", "replies", "different_replies",
        "largest_difference"}.

        The difference is between probabilities, 0..1, of first tokens and of whole answers.
        """
        one, two = (self.ask(prompts, batch_size, max_new_tokens, temperature=temperature, engine=engine)
                    for engine in ("plain", self.engine))
        texts = [(a, b) for x, y in zip(one, two, strict=True)
                 for a, b in zip((x.text, *x.samples), (y.text, *y.samples), strict=True)]
        numbers = [abs(a - b) for x, y in zip(one, two, strict=True)
                   for a, b in zip((*x.first.values(), *x.answers), (*y.first.values(), *y.answers), strict=True)]
        return {"prompts": len(prompts), "replies": len(texts), "different_replies": sum(a != b for a, b in texts),
                "largest_difference": max(numbers, default=0.0)}

    def _end_tokens(self) -> list[int]:
        """Tokens that end a reply: the model's own, the tokenizer's, and the template's end of a turn."""
        own = self.model.generation_config.eos_token_id
        ends = set(own if isinstance(own, list) else [own]) | {self.tokenizer.eos_token_id, self.tokenizer.pad_token_id}
        for stop in self.template.template_meta.suffix[-1:]:
            tokens = self.tokenizer.encode(stop, add_special_tokens=False) if isinstance(stop, str) else []
            ends |= {t for t in tokens if t in self.tokenizer.all_special_ids}
        return sorted(t for t in ends if t is not None)


def candidate_tokens(tokenizer: Any, candidate: str) -> list[int]:
    """First tokens of the answer `candidate`, over its variants in case and with a leading space.

    A variant that is a single token stands for itself alone; the first token of a longer one ("N" of "NO") begins other
    words too, and counts only if no variant is a single token. A token is left out if it is white space or if the other
    candidate's variants begin with it.
    """

    def first_tokens(word: str) -> list[list[int]]:
        cases = (word, word.lower(), word.upper())
        return [tokenizer.encode(space + case, add_special_tokens=False) for space in ("", " ") for case in cases]

    others = {ids[0] for c in CANDIDATES if c != candidate for ids in first_tokens(c) if ids}
    variants = [ids for ids in first_tokens(candidate) if ids and tokenizer.decode(ids[:1]).strip()]
    variants = [ids for ids in variants if ids[0] not in others]
    whole = {ids[0] for ids in variants if len(ids) == 1}
    return sorted(whole or {ids[0] for ids in variants})


def load_vlm(model: str, model_type: str | None, template: str | None, max_pixels: int | None,
             torch_dtype: Literal["float32", "bfloat16", "float16"], device: str, engine: Engine = "auto") -> VLM:
    """Load a model folder or hub id through ms-swift.

    Args:
        model_type, template: ms-swift's names; None lets ms-swift find them.
        max_pixels: ms-swift's MAX_PIXELS (it is read once per process); None for its default.
        device: as :func:`csp_utils.devices.pick_device` returns it.
        engine: auto takes the shared one where it can ask the model, else the plain one.

    Raises:
        UserError: the folder holds no model, it was trained with another MAX_PIXELS, or this process already works
            with another one, or the engine cannot ask it.
    """
    base = adapter_base(model)  # the model that a LoRA adapter belongs to
    if base is None and Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise UserError(f"{model} holds no config.json, so no model; make it again or correct the path")
    check_max_pixels(model, max_pixels)
    _set_max_pixels(max_pixels)
    import logging

    import torch
    from swift.model import get_model_processor
    from swift.template import get_template
    from swift.tuners import Swift

    import csp_utils.swift_plugins.image_tokens  # noqa: F401  (takes effect on import)

    logging.getLogger("swift").setLevel(logging.ERROR)  # its warnings are about packages that are not needed here
    try:
        loaded, processor = get_model_processor(
            str(base or model), torch_dtype=getattr(torch, torch_dtype), model_type=model_type, device_map=device,
            use_hf=True,
        )  # fmt: skip
        if base is not None:
            loaded = Swift.from_pretrained(loaded, str(model))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"ms-swift cannot load {model} ({reason}); check the model") from error
    return VLM(loaded, get_template(processor, template_type=template), engine)


def _set_max_pixels(max_pixels: int | None) -> None:
    """MAX_PIXELS for ms-swift, which hands it to qwen-vl-utils at the first load and never again."""
    wanted = None if max_pixels is None else str(max_pixels)
    vision = sys.modules.get("qwen_vl_utils.vision_process")
    if vision is not None and hasattr(vision, "_patch") and os.environ.get("MAX_PIXELS") != wanted:
        now = os.environ.get("MAX_PIXELS", "its default")
        raise UserError(f"this process already uses MAX_PIXELS {now}, not {max_pixels}; restart the kernel")
    if wanted is None:
        os.environ.pop("MAX_PIXELS", None)
    else:
        os.environ["MAX_PIXELS"] = wanted
