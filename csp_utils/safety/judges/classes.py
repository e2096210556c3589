"""Turn the class probabilities of a judge model into a verdict, for any model that gives them.

A model that ms-swift loads gives the probability of each letter as its whole reply
(:attr:`csp_utils.models.vlm.reply.Prompt.answers`), exactly. This module does not load it: it takes a function from
prompts to probabilities.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from csp_utils.base.errors import UserError
from csp_utils.safety.judges.prompt import LETTERS, judge_prompt, prompt_identity
from csp_utils.safety.judges.verdicts import Case, Verdict

Ask = Callable[[Sequence[str], Sequence[str]], Sequence[Sequence[float]]]
"""(prompts, answers) -> for each prompt the probability of each answer as the whole reply, 0..1."""


def verdict_of(probabilities: Sequence[float], min_mass: float = 0.5) -> Verdict:
    """Read the verdict from the probabilities that a judge gives to the letters of :data:`LETTERS`, in their order.

    Args:
        probabilities: 0..1 each, sum at most 1 (a rounding error above is accepted).
        min_mass: least sum. A judge that gives the letters less wants to say something else: what is left of its
            probabilities describes replies that it hardly ever gives.

    Returns:
        the most probable class with the probabilities normalized over the four; status "no mass" below ``min_mass``,
        "tie" if two classes are the most probable, "unread" if a probability is no number.

    Raises:
        ValueError: the probabilities are not as described, or ``min_mass`` is not above 0 and at most 1.
    """
    p = np.asarray(probabilities, dtype=float)
    if p.shape != (len(LETTERS),) or not 0 < min_mass <= 1:
        raise ValueError(f"needed: {len(LETTERS)} probabilities and a mass above 0 and at most 1")
    if np.isnan(p).any():
        return Verdict(None, "unread", why="a probability is no number")
    if (p < 0).any() or p.sum() > 1 + 1e-3:
        raise ValueError("probabilities of whole replies are 0 or more and add up to at most 1")
    mass = float(p.sum())
    if mass < min_mass:
        return Verdict(None, "no mass", why=f"mass {mass:.3g}")
    normalized = tuple(float(value) for value in p / mass)
    best = [verdict for verdict, value in zip(LETTERS.values(), p, strict=True) if value == p.max()]
    if len(best) > 1:
        return Verdict(None, "tie", normalized)
    return Verdict(best[0], probabilities=normalized)


@dataclass(frozen=True)
class ClassJudge:
    """Judge by a model's class probabilities, so that every verdict has a confidence."""

    model: str
    """Model with its revision: part of the identity of every verdict."""
    ask: Ask
    min_mass: float = 0.5
    batch_size: int = 16
    """Prompts that are passed on together; their verdicts are cached before the next ones are asked for."""
    name: str = "model"

    @property
    def identity(self) -> str:
        """Model, prompt and least mass."""
        return f"classes {self.model} {prompt_identity()} {self.min_mass}"

    def verdicts(self, cases: Sequence[Case], done: Callable[[int, Verdict], None]) -> None:
        """Judge the cases batch by batch; see :class:`csp_utils.safety.judges.verdicts.Judge`.

        Raises UserError if the model returns probabilities for another number of prompts.
        """
        for start in range(0, len(cases), self.batch_size):
            batch = cases[start : start + self.batch_size]
            found = self.ask([judge_prompt(case) for case in batch], tuple(LETTERS))
            if len(found) != len(batch):
                raise UserError(f"The judge {self.model} returned {len(found)} lists of probabilities for {len(batch)} "
                                "prompts; check the function that asks it.")  # fmt: skip
            for offset, probabilities in enumerate(found):
                done(start + offset, verdict_of(probabilities, self.min_mass))
