"""A vision-language model and its ms-swift template: prompts with an image in, greedy replies out.

ms-swift loads the model and knows its chat template, so that training and evaluation show a model the same tokens and
pixels.
"""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from csp_utils.checkpoints import adapter_base, check_max_pixels
from csp_utils.errors import UserError
from csp_utils.images import load_image

CANDIDATES = ("Yes", "No")

Progress = Callable[[Iterable, str], Iterable]


@dataclass(frozen=True)
class Reply:
    """What the model answered to one prompt: its text, and the probability of each candidate as the first token."""

    text: str
    first: dict[str, float]


class VLM:
    """A vision-language model with its ms-swift template, ready to be asked.

    Attributes:
        model: the transformers model, in evaluation mode.
        template: ms-swift's template; it makes a prompt's tokens and pixels, and pads a batch on the left.
    """

    def __init__(self, model: Any, template: Any):
        self.model, self.template = model.eval(), template
        template.model = model
        template.set_mode("transformers")
        self.tokenizer = template.tokenizer
        self._batch_images: list[Path] = []
        self._share_image_features()
        self._first_tokens = {c: candidate_tokens(self.tokenizer, c) for c in CANDIDATES}
        for candidate, tokens in self._first_tokens.items():
            if not tokens:
                raise UserError(f"no token of this model's vocabulary begins {candidate!r}; use another model")

    def ask(self, prompts: Sequence[tuple[Path, str]], batch_size: int, max_new_tokens: int,
            progress: Progress = lambda batches, _: batches, description: str = "asking") -> list[Reply]:
        """Greedy replies, in the order of `prompts`.

        Prompts of similar length about the same image share a batch, and a batch is encoded while the model works on
        the one before. In float32 the replies do not depend on the batch size.

        Args:
            prompts: (image file, text); the template puts the image before the text.
            progress: wraps the list of batches, for a progress bar.
        """
        area = {path: _area(path) for path, _ in prompts}

        def similar(i: int) -> tuple:
            path, text = prompts[i]
            return area[path], len(text) // 32, path, len(text), i

        order = sorted(range(len(prompts)), key=similar)
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        replies: list[Reply | None] = [None] * len(prompts)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._encode, [prompts[i] for i in batches[0]]) if batches else None
            for number, batch in enumerate(progress(batches, description)):
                encoded = ahead.result()
                if number + 1 < len(batches):
                    ahead = pool.submit(self._encode, [prompts[i] for i in batches[number + 1]])
                self._batch_images = [prompts[i][0] for i in batch]
                for i, reply in zip(batch, self._generate(encoded, max_new_tokens), strict=True):
                    replies[i] = reply
        return replies

    def _encode(self, prompts: Sequence[tuple[Path, str]]) -> list[dict]:
        """Tokens and pixels of each prompt."""
        image = lru_cache(load_image)
        messages = [[{"role": "user", "content": f"<image>{text}"}] for _, text in prompts]
        return [
            self.template.encode({"messages": message, "images": [image(path)]})
            for message, (path, _) in zip(messages, prompts, strict=True)
        ]

    def _generate(self, encoded: list[dict], max_new_tokens: int) -> list[Reply]:
        """Greedy decoding of one batch, until every row has ended or has `max_new_tokens` tokens."""
        import torch
        from swift.utils import to_device
        from transformers import GenerationConfig

        ends = self._end_tokens()
        config = GenerationConfig(
            do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=self.tokenizer.pad_token_id,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        with torch.inference_mode():
            inputs = to_device(self.template.data_collator(encoded), self.model.device)
            _, inputs = self.template.pre_forward_hook(self.model, None, inputs)
            # ms-swift's positions have an axis more than transformers' generate expects; the model makes its own.
            inputs.pop("position_ids", None)
            length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
            arguments = self.template.prepare_generate_kwargs({"generation_config": config, **inputs}, model=self.model)
            out = self.template.generate(self.model, **arguments)
            tokens = self.template.get_generate_ids(out.sequences, length).tolist()
            # bfloat16 has 3 digits: the probabilities are taken in float32 whatever the weights are.
            probabilities = torch.softmax(out.logits[0].float(), dim=-1)
            first = {c: probabilities[:, ids].amax(-1).tolist() for c, ids in self._first_tokens.items()}
        texts = [self.template.decode_generate_ids(_until(row, ends)) for row in tokens]
        return [Reply(text, {c: first[c][i] for c in CANDIDATES}) for i, text in enumerate(texts)]

    def _share_image_features(self) -> None:
        """Let a vision tower of the Qwen2-VL kind, which sees one image at a time, see equal images of a batch once.

        A benchmark asks some twenty prompts about an image, and the tower is a third of a prompt's cost.
        """
        if self.model.config.model_type not in ("qwen2_vl", "qwen2_5_vl") or not hasattr(self.model, "visual"):
            return
        import torch

        visual, original = self.model.visual, self.model.visual.forward

        def forward(pixels: torch.Tensor, grid_thw: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            names = self._batch_images
            first = {name: i for i, name in reversed(list(enumerate(names)))}
            if len(names) != len(grid_thw) or len(first) == len(names):
                return original(pixels, grid_thw=grid_thw, **kwargs)
            at = sorted(first.values())
            sizes = grid_thw.prod(-1).tolist()  # patches of each image
            parts = pixels.split(sizes)
            features = original(torch.cat([parts[i] for i in at]), grid_thw=grid_thw[at], **kwargs)
            pieces = dict(zip(at, features.split([sizes[i] // visual.spatial_merge_size**2 for i in at]), strict=True))
            return torch.cat([pieces[first[name]] for name in names])

        visual.forward = forward

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
             torch_dtype: Literal["float32", "bfloat16", "float16"], device: str) -> VLM:
    """Load a model folder or hub id through ms-swift.

    Args:
        model_type, template: ms-swift's names; None lets ms-swift find them.
        max_pixels: ms-swift's MAX_PIXELS (it is read once per process); None for its default.
        device: as :func:`csp_utils.devices.pick_device` returns it.

    Raises:
        UserError: the folder holds no model, it was trained with another MAX_PIXELS, or this process already works
            with another one.
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
    return VLM(loaded, get_template(processor, template_type=template))


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


def _until(tokens: list[int], ends: Iterable[int]) -> list[int]:
    """The tokens before the first that ends a reply."""
    return tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))]


def _area(path: Path) -> int:
    """Pixels of an image file, from its header alone; 0 if that cannot be read (load_image then says why)."""
    try:
        with Image.open(path) as image:
            return image.width * image.height
    except OSError:
        return 0
