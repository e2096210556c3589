"""What a model is asked and what comes back, whichever engine does the asking."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from csp_utils.data.views import Shown

CANDIDATES = ("Yes", "No")

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.05}
"""How far a probability may be from the same one computed in another way, by the type of the weights: far more than
rounding, far less than an error in positions or attention makes."""

Progress = Callable[[Iterable, str], Iterable]


class Prompt(NamedTuple):
    """An image, a text about it, and what is wanted besides the greedy reply."""

    image: Shown
    text: str
    answers: tuple[str, ...] = ()
    """Whole replies whose probabilities are wanted."""
    seeds: tuple[int, ...] = ()
    """One sampled reply for each."""


@dataclass(frozen=True)
class Reply:
    """What the model answered to one prompt."""

    text: str
    """The greedy reply."""
    first: dict[str, float]
    """Probability of each candidate (:data:`CANDIDATES`) as the first token, 0..1."""
    answers: tuple[float, ...] = ()
    """Probability of each of the prompt's answers as the whole reply, 0..1, in float32 and at temperature 1."""
    samples: tuple[str, ...] = ()
    """The sampled reply of each of the prompt's seeds."""


def draw_seed(*parts: Any) -> int:
    """A seed in 0 .. 2^64 - 1 that depends on ``parts`` (their text) alone."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:8], "big")


class Draw:
    """The tokens of one sampled reply: what is drawn depends on the seed and the model, not on who else is asked."""

    def __init__(self, seed: int, temperature: float):
        self._random, self._temperature = np.random.default_rng(seed), temperature

    def token(self, logits: Any) -> int:
        """The next token for ``logits`` (tensor (V,) of any floating type), by inversion of the whole distribution."""
        import torch

        probabilities = torch.softmax(logits.float() / self._temperature, dim=-1).double()
        below = probabilities.cumsum(-1)
        at = torch.searchsorted(below, self._random.random() * below[-1].item(), right=True)
        return min(int(at), len(logits) - 1)


def until(tokens: list[int], ends: Iterable[int]) -> list[int]:
    """The tokens before the first that ends a reply."""
    return tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))]
