"""Progress bars, and whether anybody is there to look at them."""

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def headless() -> bool:
    """True where nobody can move a slider: under papermill (run_notebook sets CSP_HEADLESS) and under nbval."""
    return any(os.environ.get(name) for name in ("CSP_HEADLESS", "PYTEST_VERSION", "PYTEST_CURRENT_TEST"))


def progress(items: Iterable[T], description: str, total: int | None = None, unit: str = "row") -> Iterable[T]:
    """Iterates over ``items`` with a plain-text progress bar on standard output.

    In a terminal it moves all the time; elsewhere (a notebook, a log) it is renewed every five seconds at most.
    """
    from tqdm import tqdm

    terminal = sys.stdout.isatty()
    return tqdm(items, desc=description, total=total, unit=unit, file=sys.stdout, ascii=not terminal, ncols=100,
                mininterval=0.5 if terminal else 5.0, maxinterval=1.0 if terminal else 30.0)
