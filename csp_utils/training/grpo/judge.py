"""Read the replies of an update and decide which are right, once for all rewards.

This module imports no torch. Rewards are lists of Python floats, because ms-swift calls reward functions with lists,
before any tensor of the update exists.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from csp_utils.training.grpo.settings import Settings
from csp_utils.vlcal import rewards
from csp_utils.vlcal.formats import format_of
from csp_utils.vlcal.items.matching import Match, Matcher
from csp_utils.vlcal.reply import Reading, read_reply

COLUMNS = ("solution", "kind", "options")
"""Columns of a training row that say how an answer is compared with the truth."""


class Judged(NamedTuple):
    """What a reply says, and whether its answer is right."""

    reading: Reading
    match: Match


class Judge:
    """Reads and judges replies. It remembers the last update, because each of its rewards asks for it again."""

    def __init__(self, settings: Settings) -> None:
        self._form = format_of(settings.choices.format)
        self._matcher = Matcher(settings.seconds)
        self._last: tuple[tuple, list[Judged]] = ((), [])

    def __call__(self, completions: Sequence[str], columns: dict[str, Sequence[Any]]) -> list[Judged]:
        """Judge replies.

        Args:
            completions: the replies.
            columns: solution, kind, options (of a choice; None or [] without) and is_truncated, one value a reply.
        """
        options = [tuple(some or ()) for some in columns["options"]]
        others = columns["solution"], columns["kind"], options, columns["is_truncated"]
        key = tuple(zip(completions, *others, strict=True))
        if self._last[0] != key:
            self._last = key, [self._judge(*one) for one in key]
        return self._last[1]

    def _judge(self, reply: str, solution: str, kind: str, options: tuple[str, ...], truncated: bool) -> Judged:
        reading = read_reply(reply, self._form, ended=not truncated)
        return Judged(reading, self._matcher.match(reading.answer, solution, kind, options))


def reward_of(name: str, judged: Sequence[Judged]) -> list[float | None]:
    """Return one of the rewards for each reply.

    Args:
        name: accuracy, calibration, format or visual.

    Returns:
        floats; None for "visual", which needs the log-probabilities that ms-swift computes after the rewards. The
        trainer puts it in their place.
    """
    if name == "visual":
        return [None] * len(judged)
    right = [one.match.right for one in judged]
    if name == "accuracy":
        return rewards.accuracy_reward(right).tolist()
    if name == "format":
        return rewards.format_reward([one.reading.well_formed for one in judged]).tolist()
    return rewards.calibration_reward(numbers(judged, "overall"), right).tolist()


def numbers(judged: Sequence[Judged], confidence: str) -> np.ndarray:
    """Return a confidence of each reply, "visual", "reasoned" or "overall": float64, NaN where it cannot be read."""
    return np.array([getattr(one.reading, confidence) for one in judged], dtype=np.float64)
