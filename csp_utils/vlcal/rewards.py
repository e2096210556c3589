"""The rewards of a reply and the overall confidence, for many replies at once (arXiv 2604.09529).

All are numpy functions of arrays of one element a reply; NaN stands for a confidence or label that is missing. ms-swift
calls reward functions with lists of Python values, before any tensor of the update exists.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

MISSING = -1.0
"""Reward for a missing confidence, description or label: what the worst possible number gets."""


@dataclass(frozen=True)
class Weights:
    """Weight of each reward in the sum. The paper's text does not state them; these are the published code's."""

    accuracy: float = 1.0
    calibration: float = 2.0
    format: float = 0.4
    visual: float = 0.4


def overall_confidence(visual: ArrayLike, reasoned: ArrayLike) -> np.ndarray:
    """Combine visual and reasoning confidence into their harmonic mean, 2 v r / (v + r).

    The mean is nearer to the smaller of the two: an answer is no surer than its weakest step.

    Args:
        visual, reasoned: confidences, 0..1, of any equal shape.

    Returns:
        float64 of that shape, 0..1; 0 where either is 0 and NaN where either is NaN.
    """
    visual, reasoned = np.asarray(visual, np.float64), np.asarray(reasoned, np.float64)
    total = visual + reasoned
    return np.where(total == 0, 0.0, 2 * visual * reasoned / np.where(total == 0, 1.0, total))


def accuracy_reward(right: ArrayLike) -> np.ndarray:
    """Reward a right answer with 1, another one with 0. float64 for bool of any shape."""
    return np.asarray(right, bool).astype(np.float64)


def calibration_reward(overall: ArrayLike, right: ArrayLike) -> np.ndarray:
    """Reward a calibrated answer: minus the Brier score of its overall confidence, -1..0.

    Args:
        overall: overall confidence, 0..1; NaN where it cannot be read, which gets :data:`MISSING`.
        right: whether the answer is right, bool of the same shape.
    """
    return _negative_square(overall, accuracy_reward(right))


def format_reward(well_formed: ArrayLike) -> np.ndarray:
    """Reward a well-formed reply with 1, another one with 0. float64 for bool of any shape."""
    return accuracy_reward(well_formed)


def visual_reward(visual: ArrayLike, label: ArrayLike) -> np.ndarray:
    """Reward a visual confidence near its soft label: minus the squared difference, -1..0.

    Args:
        visual: visual confidence, 0..1; NaN where it cannot be read.
        label: the reply's label from :func:`csp_utils.vlcal.certainty.soft_labels`, 0..1; NaN without a description.

    Returns:
        float64; :data:`MISSING` where either is NaN.
    """
    return _negative_square(visual, label)


def total_reward(rewards: dict[str, ArrayLike], weights: Weights = Weights()) -> np.ndarray:
    """Sum rewards with their weights.

    Args:
        rewards: arrays of one shape by the names of the fields of :class:`Weights`. A reward that is left out counts
            nothing: RLVR has no calibration, RLCR no visual reward. Raises KeyError for another name.
    """
    unknown = rewards.keys() - vars(weights).keys()
    if unknown:
        raise KeyError(f"no weight for {sorted(unknown)}")
    return sum((getattr(weights, name) * np.asarray(one, np.float64) for name, one in rewards.items()), np.zeros(()))


def _negative_square(stated: ArrayLike, target: ArrayLike) -> np.ndarray:
    difference = np.asarray(stated, np.float64) - np.asarray(target, np.float64)
    return np.where(np.isnan(difference), MISSING, -(difference**2))
