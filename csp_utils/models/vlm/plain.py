"""The plain engine, our reference: each prompt is its own sequence, for every model that ms-swift loads.

Greedy and sampled replies come from the model's ``generate()``. Some models have none, or are remote code whose
key/value cache current transformers cannot handle (:func:`csp_utils.models.families.without_generate`); these are
decoded by :mod:`csp_utils.models.vlm.passes`. The probability of a whole reply comes from the forward pass of
ms-swift's training, with the reply as the label and without a cache.
"""

import copy
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

from PIL import Image

from csp_utils.data.views import Shown, open_shown, shown_areas
from csp_utils.models.families import without_generate
from csp_utils.models.vlm.passes import Cache, Passes
from csp_utils.models.vlm.refusals import fitting
from csp_utils.models.vlm.reply import CANDIDATES, Asking, Decoded, Draw, Prompt, Reply, decoded, reply_of, until


class PlainEngine:
    """Runs each prompt as its own sequence, in batches with left padding.

    Args:
        model, template: as ms-swift loads them.
        ends: ids of the tokens that end a reply.
        first_tokens: candidate -> ids of its possible first tokens
            (:func:`csp_utils.models.vlm.load.candidate_tokens`).
        lock: held while the tokenizer works, because a second thread encodes the next batch with the same tokenizer,
            which is not safe for that ("Already borrowed"); engines with one tokenizer need one lock.
    """

    def __init__(self, model: Any, template: Any, ends: list[int], first_tokens: dict[str, list[int]],
                 lock: AbstractContextManager | None = None):
        self.model, self.template, self._ends, self._first_tokens = model, template, ends, first_tokens
        self.tokenizer = template.tokenizer
        self._training = copy.copy(template)  # a template has one mode: inference or training
        self._training.model = model  # copy.copy loses it
        self._training.set_mode("train")
        self._decode = self._by_forward_passes if without_generate(model) else self._generate
        self._cache = Cache()
        self._lock = lock or threading.Lock()
        self._batch_images: list[Shown] = []
        self._share_image_features()

    def batches(self, prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
        """Divide prompts (by index) into batches: similar length and the same image together, little padding."""
        area = shown_areas(prompt.image for prompt in prompts)

        def similar(i: int) -> tuple:
            image, text = prompts[i].image, prompts[i].text
            return area[image], len(text) // 32, str(image), len(text), i

        order = sorted(range(len(prompts)), key=similar)
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def encode(self, prompts: Sequence[Prompt]) -> list[dict]:
        """Encode each prompt with the template: token ids and pixels."""
        image = lru_cache(open_shown)
        return [self._encode(self.template, prompt, image(prompt.image)) for prompt in prompts]

    def reply(self, encoded: list[dict], prompts: Sequence[Prompt], asking: Asking) -> list[Reply]:
        """Answer one batch. Samples and answer probabilities are computed in batches of the same size."""
        greedy, first = self._decode(encoded, [p.image for p in prompts], asking.max_new_tokens, [])
        draws = [(i, seed) for i, prompt in enumerate(prompts) for seed in prompt.seeds]
        samples: list[list[Decoded]] = [[] for _ in prompts]
        for at in range(0, len(draws), len(prompts)):
            some = draws[at : at + len(prompts)]
            texts, _ = self._decode(
                [encoded[i] for i, _ in some], [prompts[i].image for i, _ in some], asking.max_new_tokens,
                [Draw(seed, asking.temperature) for _, seed in some],
            )  # fmt: skip
            for (i, _), text in zip(some, texts, strict=True):
                samples[i].append(text)
        answers = [self._answers(prompt, len(prompts)) for prompt in prompts]
        return [reply_of(*parts) for parts in zip(greedy, first, answers, samples, strict=True)]

    def _encode(self, template: Any, prompt: Prompt, image: Image.Image | None, answer: str | None = None) -> dict:
        """Encode the user's turn, and ``answer`` as the assistant's turn if there is one."""
        place = "" if image is None else "<image>"
        messages = [{"role": "user", "content": f"{place}{prompt.text}"}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        with self._lock, fitting(prompt, template):
            return template.encode({"messages": messages, "images": [] if image is None else [image]})

    def _generate(self, encoded: list[dict], images: list[Shown], max_new_tokens: int, draws: list[Draw]
                  ) -> tuple[list[Decoded], list[dict[str, float]]]:
        """Decode one batch with ``generate()``.

        Args:
            draws: the random numbers of each row; empty for greedy decoding.

        Returns:
            the replies, and the first token's candidate probabilities of each row.
        """
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        config = GenerationConfig(
            do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=self._ends,
            pad_token_id=self.tokenizer.pad_token_id, return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip

        def only_sampled(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            """Mask every token but the sampled one, so that generate's greedy decoding takes it."""
            only = torch.full_like(scores, -torch.inf)
            for row, draw in enumerate(draws):
                only[row, draw.token(scores[row])] = 0
            return only

        with torch.inference_mode():
            inputs = self._inputs(encoded)
            length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
            arguments = self.template.prepare_generate_kwargs({"generation_config": config, **inputs}, model=self.model)
            if draws:
                arguments["logits_processor"] = LogitsProcessorList([only_sampled])
            with self._showing(images), logits_of_last(self.model, 1):
                out = self.template.generate(self.model, **arguments)
            tokens = self.template.get_generate_ids(out.sequences, length).tolist()
            first = first_probabilities(out.logits[0], self._first_tokens)
        return self._texts(tokens), first

    def _texts(self, replies: Iterable[list[int]]) -> list[Decoded]:
        with self._lock:
            return [decoded(self.template, tokens, self._ends) for tokens in replies]

    def _by_forward_passes(self, encoded: list[dict], images: list[Shown], max_new_tokens: int, draws: list[Draw]
                           ) -> tuple[list[Decoded], list[dict[str, float]]]:
        """Decode one batch without ``generate()``; arguments and result as for :meth:`_generate`."""
        import torch

        replies: list[list[int]] = [[] for _ in encoded]
        with torch.inference_mode(), self._showing(images), logits_of_last(self.model, 1):
            passes = Passes(self.model, self._inputs, encoded, self._cache)
            logits = passes.start()
            first = first_probabilities(logits, self._first_tokens)
            growing = list(range(len(encoded)))
            for step in range(max_new_tokens):
                likeliest = logits.argmax(-1).tolist()
                tokens = {i: draws[i].token(logits[i]) if draws else likeliest[i] for i in growing}
                for i in growing:
                    replies[i].append(tokens[i])
                growing = [i for i in growing if tokens[i] not in self._ends]
                if not growing or step == max_new_tokens - 1:
                    break
                logits = passes.go_on({i: tokens[i] for i in growing})
        return self._texts(replies), first

    def _inputs(self, rows: list[dict]) -> dict[str, Any]:
        """Collate encoded prompts into the model's arguments, with left padding, on the model's device."""
        from swift.utils import to_device

        inputs = to_device(self.template.data_collator([dict(row) for row in rows]), self.model.device)
        _, inputs = self.template.pre_forward_hook(self.model, None, inputs)
        inputs.pop("position_ids", None)  # ms-swift's have one axis too many; the model computes its own
        return inputs

    def _answers(self, prompt: Prompt, batch_size: int) -> tuple[float, ...]:
        """Compute the probability of each of the prompt's answers as the whole reply, its end token included."""
        import torch
        from swift.utils import to_device

        found: list[float] = []
        for at in range(0, len(prompt.answers), batch_size):
            some = prompt.answers[at : at + batch_size]
            image = open_shown(prompt.image)
            encoded = [self._encode(self._training, prompt, image, answer) for answer in some]
            with torch.inference_mode(), self._showing([prompt.image] * len(some)):
                inputs = to_device(self._training.data_collator(encoded), self.model.device)
                _, inputs = self._training.pre_forward_hook(self.model, None, inputs)
                labels = inputs.pop("labels")
                before = labels.shape[1] - int((labels != -100).nonzero()[:, 1].min())  # answers, and padding after
                with logits_of_last(self.model, before + 1):  # logits at position i - 1 predict token i
                    logits = self.model(**inputs, use_cache=False).logits[:, -before - 1 : -1]
            for row, answer in enumerate(some):
                at_label = (labels[row, -before:] != -100).nonzero()[:, 0].tolist()
                tokens = until(labels[row, -before:][at_label].tolist(), self._ends)
                if len(at_label) <= len(tokens):
                    raise RuntimeError(f"the template does not end the reply {answer!r} with a token of {self._ends}")
                log = torch.log_softmax(logits[row, at_label[: len(tokens) + 1]].float(), dim=-1)
                text = log[range(len(tokens)), tokens].sum()
                found.append(float((text + log[-1, self._ends].logsumexp(-1)).exp()))
        return tuple(found)

    @contextmanager
    def _showing(self, images: list[Shown]) -> Iterator[None]:
        """Tell the vision tower, within this block, which image each row of the batch shows."""
        self._batch_images = images
        try:
            yield
        finally:
            self._batch_images = []

    def _share_image_features(self) -> None:
        """Make Qwen2-VL's vision tower encode equal images of a batch once.

        A benchmark has some twenty prompts about each image, and the vision tower is a third of a prompt's cost. The
        tower processes images independently, so the features are the same.
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
            sizes = grid_thw.prod(-1).tolist()  # patches per image
            parts = pixels.split(sizes)
            features = original(torch.cat([parts[i] for i in at]), grid_thw=grid_thw[at], **kwargs)
            pieces = dict(zip(at, features.split([sizes[i] // visual.spatial_merge_size**2 for i in at]), strict=True))
            return torch.cat([pieces[first[name]] for name in names])

        visual.forward = forward


@contextmanager
def logits_of_last(model: Any, n: int) -> Iterator[None]:
    """Make ``model``, within this block, compute the logits of the last ``n`` positions alone.

    The logits of all positions are the largest tensor of a pass: 40 GB for 32 prompts of 3,400 tokens and a vocabulary
    of 92,553. Not every model takes transformers' ``logits_to_keep``, but every one has an output layer, whose input is
    cut here. A model whose output layer cannot be found computes them all.
    """
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model  # without the LoRA wrapper
    parts = (part for part in (whole, getattr(whole, "language_model", None)) if hasattr(part, "get_output_embeddings"))
    head = next((head for part in parts if (head := part.get_output_embeddings()) is not None), None)
    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(lambda _, hidden: (hidden[0][..., -n:, :], *hidden[1:]))
    try:
        yield
    finally:
        hook.remove()


def first_probabilities(logits: Any, first_tokens: dict[str, list[int]]) -> list[dict[str, float]]:
    """Compute each candidate's probability as the next token, for each row of ``logits`` (tensor (B, V)).

    Of the candidate's spellings ("Yes", " yes" ...), the likeliest counts. The softmax is in float32 for weights of any
    type, because bfloat16 has only three digits.
    """
    import torch

    probabilities = torch.softmax(logits.float(), dim=-1)
    columns = {c: probabilities[:, ids].amax(-1).tolist() for c, ids in first_tokens.items()}
    return [{c: columns[c][row] for c in CANDIDATES} for row in range(len(logits))]

