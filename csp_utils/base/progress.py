"""Show the progress of long loops, and detect whether a person is watching."""

import os
import sys
from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Iterate over items and show the progress; implemented by :func:`progress` and :func:`silent`."""

    def __call__(self, items: Iterable[T], description: str = "", total: int | None = None,
                 unit: str = "row") -> Iterable[T]: ...


def headless() -> bool:
    """Return True if nobody can move a slider: under ./run_all.sh (it sets CSP_HEADLESS) and in tests."""
    return any(os.environ.get(name) for name in ("CSP_HEADLESS", "PYTEST_VERSION", "PYTEST_CURRENT_TEST"))


def progress(items: Iterable[T], description: str = "", total: int | None = None, unit: str = "row") -> Iterable[T]:
    """Iterate over ``items`` with a plain-text progress bar on standard output.

    In a terminal the bar is updated all the time; elsewhere (a notebook, a log) at most every five seconds.
    """
    from tqdm import tqdm

    terminal = sys.stdout.isatty()
    return tqdm(items, desc=description, total=total, unit=unit, file=sys.stdout, ascii=not terminal, ncols=100,
                mininterval=0.5 if terminal else 5.0, maxinterval=1.0 if terminal else 30.0)


def silent(items: Iterable[T], description: str = "", total: int | None = None, unit: str = "row") -> Iterable[T]:
    """Iterate over ``items`` without a progress bar."""
    return items
