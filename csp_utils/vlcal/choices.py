"""Where the paper's formulas and the published code of VL-Calibration differ: one named choice for each difference.

The defaults follow the paper (arXiv 2604.09529). ``choices(released=True)`` is the code as it was published
(Mr-Loevan/VL-Calibration at d38e158, ``examples/decouple.sh``).

Four things of that code are no choice, because they are accidents of it: it finds tags by tokenizing the text again,
and accepts 13 spellings of them; it removes spaces around "<", ">" and "/" before it reads; the token weights of a
reply of one token are not a number; and its random patches depend on the order of the rows.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from csp_utils.base.errors import UserError, nearest
from csp_utils.vlcal.formats import format_of

Kl = Literal["k3", "full", "released"]
Entropy = Literal["full", "surprisal"]
Certainty = Literal["both", "kl", "entropy"]
Labels = Literal["z_score", "rank"]


@dataclass(frozen=True)
class Choices:
    """The choices of a training. Raises UserError for a value that a choice does not have."""

    format: str = "decoupled"
    """Format of the replies, a key of :data:`csp_utils.vlcal.formats.FORMATS`."""
    kl: Kl = "k3"
    """D_KL of a description. full: the paper's formula, which needs the logits of both passes. k3: an estimate of it
    from the sampled tokens. released: p log(p/q) of the sampled tokens."""
    entropy: Entropy = "full"
    """H of a description. full: the entropy. surprisal: -log p of the sampled tokens."""
    certainty: Certainty = "both"
    """Which of D_KL and H make the visual certainty; one alone is an ablation arm."""
    single_labels: Labels = "z_score"
    """Soft labels where ``certainty`` is not "both". With both, they are z-scores in paper and code alike."""
    strength: float = 0.1
    """λ of the token-level advantage reweighting, 0..1; 0 is without."""
    top_tokens: float = 1.0
    """Share of each reply's tokens, those of highest KL, that the policy loss covers, above 0 and at most 1."""

    def __post_init__(self) -> None:
        format_of(self.format)
        kinds = {"kl": Kl, "entropy": Entropy, "certainty": Certainty, "single_labels": Labels}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value not in get_args(kind):
                raise UserError(f"{name} cannot be {value!r}; {nearest(str(value), get_args(kind))}")
        if not 0 <= self.strength <= 1:
            raise UserError(f"strength is {self.strength}, and not between 0 and 1; correct it.")
        if not 0 < self.top_tokens <= 1:
            raise UserError(f"top_tokens is {self.top_tokens}, and not above 0 and at most 1; correct it.")

    @property
    def labels(self) -> Labels:
        """How :func:`csp_utils.vlcal.certainty.soft_labels` makes the labels."""
        return "z_score" if self.certainty == "both" else self.single_labels


RELEASED: dict[str, Any] = {"format": "released", "kl": "released", "entropy": "surprisal", "single_labels": "rank",
                            "top_tokens": 0.2}  # fmt: skip
"""Every choice in which the published code differs from our defaults."""


def choices(released: bool = False, **changes: Any) -> Choices:
    """Return the paper's choices or, with ``released``, those of the published code, with single ones changed.

    Raises UserError for a choice that does not exist, or a value that it does not have.
    """
    names = [field.name for field in fields(Choices)]
    for name in changes:
        if name not in names:
            raise UserError(f"There is no choice named {name!r}; {nearest(name, names)}")
    return replace(Choices(), **(RELEASED if released else {}) | changes)
