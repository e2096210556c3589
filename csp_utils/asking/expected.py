"""Compute the distribution of a verbalized confidence over the 101 answers "0%" .. "100%" from their probabilities.

Greedy decoding shows the mode of this distribution alone. A model that says "95%" to everything may still give that
answer a probability of 0.6 in one case and of 0.99 in another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Distribution:
    """How often the model would say each level at temperature 1."""

    probabilities: np.ndarray
    """float64 (101,): of 0 .. 100 percent; they sum to 1."""
    mass: float
    """Probability of all 101 answers together, before they were normalised, 0..1. If it is far below 1, the model says
    other things, or writes numbers in other tokens than the tokenizer does; the distribution then covers little."""

    @property
    def mean(self) -> float:
        """Mean in percent, 0..100."""
        return float(self.probabilities @ np.arange(101))

    @property
    def mode(self) -> int:
        """The most probable level in percent; of several, the lowest."""
        return int(self.probabilities.argmax())

    @property
    def spread(self) -> float:
        """Standard deviation in percent points, 0..50."""
        return float(np.sqrt(self.probabilities @ (np.arange(101) - self.mean) ** 2))


def distribution(probabilities: Sequence[float]) -> Distribution | None:
    """Normalise the probabilities of the 101 answers as whole replies; return None if all of them are 0."""
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != (101,):
        raise ValueError(f"101 probabilities are needed, not an array of shape {values.shape}")
    mass = float(values.sum())
    return Distribution(values / mass, mass) if mass > 0 else None
