"""Prompts, replies, and how replies are decoded: what all engines have in common."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from csp_utils.data.views import Shown

CANDIDATES = ("Yes", "No")

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.05}
"""Largest difference between two computations of one probability that counts as rounding, by the type of the weights.
It is far above rounding and far below the effect of wrong positions or a wrong attention mask."""

Progress = Callable[[Iterable, str], Iterable]
"""Wraps an iterable of batches and a description in a progress bar."""


class Prompt(NamedTuple):
    """An image, a text about it, and what we want besides the greedy reply."""

    image: Shown
    text: str
    answers: tuple[str, ...] = ()
    """Compute the probability of each of these texts as the whole reply."""
    seeds: tuple[int, ...] = ()
    """Sample one reply for each of these seeds."""


@dataclass(frozen=True)
class Asking:
    """How a list of prompts is sent to a model."""

    batch_size: int
    """Most prompts a batch."""
    max_new_tokens: int
    """Token budget of a reply."""
    temperature: float = 1.0
    """Temperature of the sampled replies, above 0. Greedy replies and probabilities do not depend on it."""
    progress: Progress = lambda batches, _: batches
    """Progress bar over the batches; by default none."""
    description: str = "asking"
    """Label of the progress bar."""


@dataclass(frozen=True)
class Reply:
    """What the model replied to one prompt."""

    text: str
    """The greedy reply."""
    first: dict[str, float]
    """Probability of each candidate (:data:`CANDIDATES`) as the first token, 0..1."""
    answers: tuple[float, ...] = ()
    """Probability of each of the prompt's answers as the whole reply, 0..1, in float32 and at temperature 1."""
    samples: tuple[str, ...] = ()
    """The sampled reply for each of the prompt's seeds."""
    ended: bool = True
    """Whether the model ended the greedy reply; False if the token budget cut it."""
    samples_ended: tuple[bool, ...] = ()
    """The same for each sampled reply."""


def draw_seed(*parts: Any) -> int:
    """Return a seed in 0 .. 2^64 - 1 that depends only on the text of ``parts``."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:8], "big")


class Decoded(NamedTuple):
    """The text of one reply, and whether the model ended it."""

    text: str
    ended: bool


def reply_of(greedy: Decoded, first: dict[str, float], answers: tuple[float, ...], samples: Sequence[Decoded]) -> Reply:
    """Return the reply to one prompt from what an engine decoded and computed."""
    return Reply(greedy.text, first, answers, tuple(one.text for one in samples), greedy.ended,
                 tuple(one.ended for one in samples))  # fmt: skip


class Draw:
    """The random numbers of one sampled reply. They depend on the seed alone, not on the other prompts of the batch."""

    def __init__(self, seed: int, temperature: float):
        self._random, self._temperature = np.random.default_rng(seed), temperature

    def token(self, logits: Any) -> int:
        """Sample the next token from ``logits`` (tensor (V,) of any floating type), by inverting its distribution."""
        import torch

        probabilities = torch.softmax(logits.float() / self._temperature, dim=-1).double()
        below = probabilities.cumsum(-1)
        at = torch.searchsorted(below, self._random.random() * below[-1].item(), right=True)
        return min(int(at), len(logits) - 1)


def decoded(template: Any, tokens: Sequence[int], ends: Iterable[int]) -> Decoded:
    """Decode the tokens of a reply up to the one that ends it, if there is one."""
    own = until(list(tokens), ends)
    return Decoded(template.decode_generate_ids(own), len(own) < len(tokens))


def until(tokens: list[int], ends: Iterable[int]) -> list[int]:
    """Return the tokens before the first one that ends a reply."""
    return tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))]
