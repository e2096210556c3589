"""Show the lines of ms-swift's log that tell how a training by GRPO goes."""

import ast
from collections.abc import Callable

from csp_utils.training import log


def sparse(lines: int = 12) -> Callable[[str], str | None]:
    """Return a filter as :func:`csp_utils.training.log.sparse`, whose lines also have the rewards of their update.

    The filter never raises.
    """
    update = log.sparse(lines)

    def show(line: str) -> str | None:
        text = update(line)
        return text if text is None or "'reward'" not in line else text + _rewards(line)

    return show


def _rewards(line: str) -> str:
    """Return mean reward, share of right answers and share of groups without a difference; "" if there are none."""
    try:
        entry = ast.literal_eval(line.strip())
        return (f"  reward {entry['reward']:+.3f}  right {entry['rewards/Accuracy/mean']:.0%}"
                f"  groups of equal rewards {entry['frac_reward_zero_std']:.0%}")  # fmt: skip
    except Exception:  # nan is no Python literal, and a log line must not end a training
        return ""
