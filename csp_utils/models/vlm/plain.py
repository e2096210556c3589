"""The reference engine: every prompt is a sequence of its own, and any model that ms-swift loads will do.

Greedy and sampled replies come from the model's own ``generate``. A model without one, or whose code comes with its
weights and keeps its cache in a way that current transformers do not (:func:`csp_utils.models.families.without_generate`), is
asked by calls of the model alone (:mod:`csp_utils.models.vlm.passes`). The probability of a whole reply comes from the forward
pass of ms-swift's training, with the reply as the label and without a cache.
"""

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from PIL import Image

from csp_utils.data.views import Shown, open_shown, shown_area
from csp_utils.models.families import without_generate
from csp_utils.models.vlm.passes import Cache, Passes
from csp_utils.models.vlm.reply import CANDIDATES, Draw, Prompt, Reply, until


class PlainEngine:
    """Asks prompt by prompt, in batches padded on the left.

    Args:
        model, template: ms-swift's.
        ends: tokens that end a reply.
        first_tokens: of each candidate, as :func:`csp_utils.models.vlm.load.candidate_tokens` returns them.
    """

    def __init__(self, model: Any, template: Any, ends: list[int], first_tokens: dict[str, list[int]]):
        self.model, self.template, self._ends, self._first_tokens = model, template, ends, first_tokens
        self.tokenizer = template.tokenizer
        self._training = copy.copy(template)  # a template has one mode at a time
        self._training.model = model  # a copy drops it
        self._training.set_mode("train")
        self._decode = self._by_forward_passes if without_generate(model) else self._generate
        self._cache = Cache()
        self._lock = threading.Lock()  # the tokenizer is shared, and one thread encodes ahead
        self._batch_images: list[Shown] = []
        self._share_image_features()

    def batches(self, prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
        """Which prompts share a batch: those of similar length about the same image, ``batch_size`` at most."""
        area = {prompt.image: shown_area(prompt.image) for prompt in prompts}

        def similar(i: int) -> tuple:
            image, text = prompts[i].image, prompts[i].text
            return area[image], len(text) // 32, str(image), len(text), i

        order = sorted(range(len(prompts)), key=similar)
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def encode(self, prompts: Sequence[Prompt]) -> list[dict]:
        """Tokens and pixels of each prompt."""
        image = lru_cache(open_shown)
        return [self._encode(self.template, prompt, image(prompt.image)) for prompt in prompts]

    def reply(self, encoded: list[dict], prompts: Sequence[Prompt], max_new_tokens: int, temperature: float
              ) -> list[Reply]:
        """The replies to one batch. Draws and answers are asked in batches of the same size."""
        greedy, first = self._decode(encoded, [p.image for p in prompts], max_new_tokens, [])
        draws = [(i, seed) for i, prompt in enumerate(prompts) for seed in prompt.seeds]
        samples: list[list[str]] = [[] for _ in prompts]
        for at in range(0, len(draws), len(prompts)):
            some = draws[at : at + len(prompts)]
            texts, _ = self._decode(
                [encoded[i] for i, _ in some], [prompts[i].image for i, _ in some], max_new_tokens,
                [Draw(seed, temperature) for _, seed in some],
            )  # fmt: skip
            for (i, _), text in zip(some, texts, strict=True):
                samples[i].append(text)
        answers = [self._answers(prompt, len(prompts)) for prompt in prompts]
        return [Reply(*parts) for parts in zip(greedy, first, answers, map(tuple, samples), strict=True)]

    def _encode(self, template: Any, prompt: Prompt, image: Image.Image | None, answer: str | None = None
                ) -> dict:
        place = "" if image is None else "<image>"
        messages = [{"role": "user", "content": f"{place}{prompt.text}"}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        with self._lock:
            return template.encode({"messages": messages, "images": [] if image is None else [image]})

    def _generate(self, encoded: list[dict], images: list[Shown], max_new_tokens: int, draws: list[Draw]
                  ) -> tuple[list[str], list[dict[str, float]]]:
        """Decoding of one batch, until every row has ended or has ``max_new_tokens`` tokens; greedy without draws."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        config = GenerationConfig(
            do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=self._ends,
            pad_token_id=self.tokenizer.pad_token_id, return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip

        def drawn(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            """Leaves of each row only the token that its draw picks, so that "greedy" decoding takes it."""
            only = torch.full_like(scores, -torch.inf)
            for row, draw in enumerate(draws):
                only[row, draw.token(scores[row])] = 0
            return only

        with torch.inference_mode():
            inputs = self._inputs(encoded)
            length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
            arguments = self.template.prepare_generate_kwargs({"generation_config": config, **inputs}, model=self.model)
            if draws:
                arguments["logits_processor"] = LogitsProcessorList([drawn])
            with self._seeing(images):
                out = self.template.generate(self.model, **arguments)
            tokens = self.template.get_generate_ids(out.sequences, length).tolist()
            first = first_probabilities(out.logits[0], self._first_tokens)
        return [self.template.decode_generate_ids(until(row, self._ends)) for row in tokens], first

    def _by_forward_passes(self, encoded: list[dict], images: list[Shown], max_new_tokens: int, draws: list[Draw]
                           ) -> tuple[list[str], list[dict[str, float]]]:
        """As :meth:`_generate`, by calls of the model alone (:class:`csp_utils.models.vlm.passes.Passes`)."""
        import torch

        said: list[list[int]] = [[] for _ in encoded]
        with torch.inference_mode(), self._seeing(images):
            passes = Passes(self.model, self._inputs, encoded, self._cache)
            logits = passes.start()
            first = first_probabilities(logits, self._first_tokens)
            growing = list(range(len(encoded)))
            for step in range(max_new_tokens):
                likeliest = logits.argmax(-1).tolist()
                tokens = {i: draws[i].token(logits[i]) if draws else likeliest[i] for i in growing}
                growing = [i for i in growing if tokens[i] not in self._ends]
                for i in growing:
                    said[i].append(tokens[i])
                if not growing or step == max_new_tokens - 1:
                    break
                logits = passes.go_on({i: tokens[i] for i in growing})
        return [self.template.decode_generate_ids(tokens) for tokens in said], first

    def _inputs(self, rows: list[dict]) -> dict[str, Any]:
        """What the model takes, on its device: ``rows`` as ms-swift encodes them, padded on the left."""
        from swift.utils import to_device

        inputs = to_device(self.template.data_collator([dict(row) for row in rows]), self.model.device)
        _, inputs = self.template.pre_forward_hook(self.model, None, inputs)
        inputs.pop("position_ids", None)  # ms-swift's have an axis more than models expect, which make their own
        return inputs

    def _answers(self, prompt: Prompt, batch_size: int) -> tuple[float, ...]:
        """Probability of each of the prompt's answers as the whole reply."""
        import torch
        from swift.utils import to_device

        found: list[float] = []
        for at in range(0, len(prompt.answers), batch_size):
            some = prompt.answers[at : at + batch_size]
            image = open_shown(prompt.image)
            encoded = [self._encode(self._training, prompt, image, answer) for answer in some]
            with torch.inference_mode(), self._seeing([prompt.image] * len(some)):
                inputs = to_device(self._training.data_collator(encoded), self.model.device)
                _, inputs = self._training.pre_forward_hook(self.model, None, inputs)
                labels = inputs.pop("labels")
                log = torch.log_softmax(self.model(**inputs, use_cache=False).logits.float(), dim=-1)
            for row, answer in enumerate(some):
                at_label = (labels[row] != -100).nonzero()[:, 0].tolist()
                tokens = until(labels[row, at_label].tolist(), self._ends)
                before = [i - 1 for i in at_label[: len(tokens) + 1]]  # a token is predicted one place before it
                if len(before) <= len(tokens):
                    raise RuntimeError(f"the template does not end the reply {answer!r} with a token of {self._ends}")
                said = log[row, before[:-1], tokens].sum()
                found.append(float((said + log[row, before[-1], self._ends].logsumexp(-1)).exp()))
        return tuple(found)

    @contextmanager
    def _seeing(self, images: list[Shown]) -> Iterator[None]:
        """Within it, the vision tower knows which images the rows of a batch show."""
        self._batch_images = images
        try:
            yield
        finally:
            self._batch_images = []

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


def first_probabilities(logits: Any, first_tokens: dict[str, list[int]]) -> list[dict[str, float]]:
    """Probability of each candidate as the token, of its likeliest spelling, per row of ``logits`` (tensor (B, V))."""
    import torch

    # bfloat16 has 3 digits: the probabilities are taken in float32 whatever the weights are.
    probabilities = torch.softmax(logits.float(), dim=-1)
    columns = {c: probabilities[:, ids].amax(-1).tolist() for c, ids in first_tokens.items()}
    return [{c: columns[c][row] for c in CANDIDATES} for row in range(len(logits))]

