"""What the plugin has to know of a training: the choices, the perturbation, and the rewards.

ms-swift has no arguments for it. It travels in ms-swift's ``--model_kwargs``, which puts each of its entries into the
environment and records them in args.json. So the command line holds everything, and the record can be compared.
"""

import ast
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.vlcal.choices import Choices
from csp_utils.vlcal.formats import VISUAL, format_of
from csp_utils.vlcal.perturbation import Perturbation

NAME = "vl_calibration"
"""Name of the entry in ``--model_kwargs``; in capitals, of the environment variable."""

REWARDS = {"accuracy": "Accuracy", "calibration": "Calibration", "format": "Format", "visual": "Visual"}
"""Names of the rewards, in their order, as in :class:`csp_utils.vlcal.rewards.Weights` -> the plugin's classes.

ms-swift knows a reward as ``vlcal_<name>``, and logs it under the name of its class."""


@dataclass(frozen=True)
class Settings:
    """What the plugin computes."""

    choices: Choices = Choices()
    """Format of the replies, formulas, labels and token factors."""
    signals: bool = True
    """Whether the visual confidence has soft labels, and so a reward of its own."""
    perturbation: Perturbation = Perturbation()
    """What is done to the images for the second pass."""
    seconds: float = 5.0
    """Time limit for the comparison of one answer with the truth."""

    def __post_init__(self) -> None:
        if self.signals and VISUAL not in format_of(self.choices.format).confidences:
            raise UserError(f"Replies in the format {self.choices.format!r} state no visual confidence, so it cannot "
                            "have soft labels; set certainty: none, or another format.")  # fmt: skip

    @property
    def masks(self) -> bool:
        """True if something needs the pass with perturbed images: D_KL, the token weights, or the top tokens."""
        divergence = self.signals and self.choices.certainty != "entropy"
        return divergence or self.choices.strength > 0 or self.choices.top_tokens < 1

    @property
    def rewards(self) -> list[str]:
        """Names of the rewards that this training has, in the order of :data:`REWARDS`."""
        has = {"calibration": bool(format_of(self.choices.format).confidences), "visual": self.signals}
        return [name for name in REWARDS if has.get(name, True)]

    def as_argument(self) -> dict[str, dict[str, Any]]:
        """Return the value of ``--model_kwargs``."""
        return {NAME: asdict(self)}


def orm(reward: str) -> str:
    """Return the name by which ms-swift knows a reward."""
    return f"vlcal_{reward}"


def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings that ms-swift put into the environment. Raises UserError if there are none, or unreadable."""
    text = (os.environ if environment is None else environment).get(NAME.upper())
    if text is None:
        raise UserError(f"The plugin visual_certainty.py has no settings; pass --model_kwargs with an entry {NAME}, as "
                        "csp_utils.training.grpo.parameters does.")  # fmt: skip
    try:
        values = ast.literal_eval(text)  # ms-swift writes Python's str() of what it read as JSON
        choices, perturbation = Choices(**values.pop("choices")), Perturbation(**values.pop("perturbation"))
        return Settings(choices, perturbation=perturbation, **values)
    except (ValueError, SyntaxError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"The entry {NAME} of --model_kwargs cannot be read ({error}); write it as "
                        "csp_utils.training.grpo.parameters does.") from error  # fmt: skip
