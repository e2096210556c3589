"""The distribution of a spoken confidence over the 101 answers "0%" .. "100%", from their exact probabilities.

Greedy decoding shows where the distribution is highest and nothing of the rest: a model that says "95%" to everything
may still put 60 % on it in one case and 99 % in another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Distribution:
    """What the model would say how often at temperature 1."""

    probabilities: np.ndarray
    """float64 (101,): of 0 .. 100 percent; they sum to 1."""
    mass: float
    """What the 101 answers had of all replies before they were normalised, 0..1. Far below 1, the model says other
    things (or writes its numbers in other tokens than the tokenizer does), and the distribution is about little."""

    @property
    def mean(self) -> float:
        """In percent, 0..100."""
        return float(self.probabilities @ np.arange(101))

    @property
    def mode(self) -> int:
        """The likeliest level in percent; of equal ones the lowest."""
        return int(self.probabilities.argmax())

    @property
    def spread(self) -> float:
        """Standard deviation in percent points, 0..50."""
        return float(np.sqrt(self.probabilities @ (np.arange(101) - self.mean) ** 2))


def distribution(probabilities: Sequence[float]) -> Distribution | None:
    """From the probabilities of the 101 answers as whole replies; None if not one of them can occur (all are 0)."""
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != (101,):
        raise ValueError(f"101 probabilities are needed, not an array of shape {values.shape}")
    mass = float(values.sum())
    return Distribution(values / mass, mass) if mass > 0 else None
