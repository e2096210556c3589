"""Decide whether an answer is right: by its text where that is enough, else by math-verify in a process of its own.

A reply can hold an expression that a computer algebra system evaluates for ever ("9^{9^{9^9}}"). Such an answer ends at
a time limit, is not right, and is counted as what it is.
"""

import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, Self

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.vlcal.items.answers import AnswerKind, is_structured, letter_of, number_of, same_text

ROOT = Path(__file__).resolve().parents[3]

LONGEST = 1000
"""Characters of an answer. A longer one is not read: no truth of a benchmark has more."""

TOLERANCE = 1e-3
"""Largest difference of a number from its truth: that of DynaMath's own scoring code (at 598c3c3)."""

START = 120.0
"""Seconds that the process may take to start; its imports take about 4 on an idle machine."""

REASONS = {
    "same text": "is the truth, apart from spaces and LaTeX that carries no meaning",
    "same value": "has the value of the truth",
    "same option": "names the right option",
    "different": "is another answer",
    "no answer": "is missing: the reply has no boxed answer",
    "no option": "names no option, or several",
    "too long": f"has more than {LONGEST} characters",
    "time limit": "took longer than the time limit to evaluate",
    "failed": "cannot be evaluated, for example because it would need too much memory",
    "truth unreadable": "cannot be judged, because the truth is not mathematics that can be read",
}
"""Reasons of a match -> what the answer is or does."""


class Match(NamedTuple):
    """Whether an answer is right, and why: a key of :data:`REASONS`."""

    right: bool
    reason: str


class Matcher:
    """Match answers with truths. A context manager, because it holds a process, which starts when it is needed.

    One pair is evaluated once: replies to one problem often agree. Use one matcher from one thread at a time.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        """Create a matcher whose time limit for one pair is ``seconds`` of wall-clock time, above 0."""
        self.seconds = seconds
        self.counts: Counter[str] = Counter()
        """Matches so far by reason."""
        self._known: dict[tuple[str, str, float | None], Match] = {}
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; the next pair that needs it starts a new one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def match(self, answer: str | None, truth: str, kind: AnswerKind, options: Sequence[str] = ()) -> Match:
        """Match one answer with the truth, and count it by its reason.

        Args:
            answer: content of the reply's box (:attr:`csp_utils.vlcal.reply.Reading.answer`); None without one.
            truth: the item's answer; of a choice, its letter.
            kind: how to compare.
            options: of a choice, the texts of its options.

        Raises:
            UserError: math-verify is not installed, or its process does not start.
        """
        found = self._match(answer, truth, kind, options)
        self.counts[found.reason] += 1
        return found

    def table(self) -> pd.DataFrame:
        """Count the matches so far by reason: reason, what, n and share (0..1); every reason has a row."""
        rows = [(reason, what, self.counts[reason]) for reason, what in REASONS.items()]
        return pd.DataFrame(rows, columns=["reason", "what", "n"]).assign(share=lambda t: t["n"] / max(1, t["n"].sum()))

    def _match(self, answer: str | None, truth: str, kind: AnswerKind, options: Sequence[str]) -> Match:
        if answer is None or not answer.strip():
            return Match(False, "no answer")
        if len(answer) > LONGEST:
            return Match(False, "too long")
        if kind == "choice":
            letter = letter_of(answer, options)
            right = letter == letter_of(truth)
            return Match(right, "same option" if right else "different" if letter else "no option")
        if same_text(answer, truth, kind):
            return Match(True, "same text")
        if kind == "text" and not is_structured(truth):
            return Match(False, "different")
        tolerance = TOLERANCE if kind == "number" else None
        numbers = number_of(answer), number_of(truth)
        if None not in numbers:
            near = tolerance is not None and abs(numbers[0] - numbers[1]) <= Decimal(str(tolerance))
            right = near or numbers[0] == numbers[1]  # a difference has 28 digits, a comparison all of them
            return Match(right, "same value" if right else "different")
        key = (answer, truth, tolerance)
        if key not in self._known:
            self._known[key] = self._evaluate(*key)
        return self._known[key]

    def _evaluate(self, answer: str, truth: str, tolerance: float | None) -> Match:
        """Ask the process; end it if it does not answer in time."""
        process = self._started()
        question = json.dumps({"answer": answer, "truth": truth, "tolerance": tolerance})
        try:
            process.stdin.write(f"{question}\n".encode())
            process.stdin.flush()
            said = self._line(process, self.seconds)
        except BrokenPipeError:
            said = ""
        if not said:  # None after the time limit, "" if the process died, for example for lack of memory
            self.close()
            return Match(False, "time limit" if said is None else "failed")
        reason = {"same": "same value", "different": "different", "truth unreadable": said}.get(said, "failed")
        return Match(reason == "same value", reason)

    def _started(self) -> subprocess.Popen:
        """Return the process, started and ready."""
        if self._process is None:
            paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "csp_utils.vlcal.items.match_worker", str(self.seconds)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )  # fmt: skip
            if self._line(self._process, START) != "ready":
                self.close()
                raise UserError("The process that compares answers does not start; install math-verify, which "
                                "requirements.txt names (./run_all.sh does), and run the same again.")  # fmt: skip
        return self._process

    @staticmethod
    def _line(process: subprocess.Popen, seconds: float) -> str | None:
        """Read one line of the process's output; None if none comes in time, "" if the output ends."""
        end, content = time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not content.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    return None
                if not (more := os.read(process.stdout.fileno(), 4096)):
                    return ""
                content += more
        return content.decode().strip()
