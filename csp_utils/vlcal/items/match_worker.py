"""Answer questions about the equality of two answers, one JSON line each. A process of its own.

    python -m csp_utils.vlcal.items.match_worker SECONDS

:class:`csp_utils.vlcal.items.matching.Matcher` starts it, writes to it and ends it. A model's answer is parsed here
only, because a computer algebra system may evaluate it for ever, or use up the memory of its process.
"""

import contextlib
import json
import os
import sys
from typing import Any

MEMORY = 4 << 30
"""Address space that the process may use, bytes."""

SPARE = 2.0
"""Seconds after the time limit at which the process ends itself, if the one that started it is gone."""


def compare(answer: str, truth: str, tolerance: float | None) -> str:
    """Compare an answer with the truth by math-verify, the library that ms-swift's own reward uses.

    Args:
        answer, truth: LaTeX or plain mathematics.
        tolerance: largest difference of two numbers; None for equality.

    Returns:
        "same", "different", or "truth unreadable". Raises whatever the library raises.
    """
    from math_verify import parse, verify

    # Its own time limits are signals, which do not interrupt a single large multiplication: the starter's do.
    read = {"parsing_timeout": None, "raise_on_error": True}
    gold = parse(f"\\boxed{{{truth}}}", **read)
    if not gold or all(isinstance(one, str) for one in gold):
        return "truth unreadable"
    given = parse(f"\\boxed{{{answer}}}", **read)
    if tolerance is not None and given and all(getattr(one, "is_number", False) for one in (given[0], gold[0])):
        difference = abs(complex(given[0].evalf()) - complex(gold[0].evalf()))
        return "same" if difference <= tolerance * (1 + 1e-9) else "different"
    same = verify(gold, given, timeout_seconds=None, raise_on_error=True)
    return "same" if same else "different"


def _limit(seconds: float) -> None:
    """Let the kernel end this process after ``seconds``, whatever it is doing; 0 for never."""
    if hasattr(os, "fork"):  # neither limit exists on Windows
        import signal

        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _answer(question: dict[str, Any]) -> str:
    """Compare as a question asks; an error becomes "failed" and its name."""
    try:
        return compare(question["answer"], question["truth"], question["tolerance"])
    except Exception as error:  # of a library that reads what a model wrote: anything can happen
        return f"failed: {type(error).__name__}"


def main(seconds: float) -> None:
    """Answer questions until the input ends."""
    if hasattr(os, "fork"):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import logging

    logging.disable(logging.CRITICAL)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with contextlib.redirect_stdout(sys.stderr):  # nothing that a library prints may look like an answer
        compare("1", "1", None)  # imports, which take seconds, before the first time limit
        print("ready", file=out, flush=True)
        for line in sys.stdin:
            _limit(seconds + SPARE)
            found = _answer(json.loads(line))
            _limit(0)
            print(found, file=out, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
