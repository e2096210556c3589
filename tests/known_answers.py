"""Tables of answers whose metrics are known, for the tests of measures and of what is shown of them."""

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from csp_utils.measures.calibration import histogram
from csp_utils.measures.metrics import RESPONSE_COLUMNS

percents = st.integers(0, 100)
pairs = st.lists(st.tuples(percents, st.integers(0, 1)), min_size=1, max_size=60)
"""(percent, label) of candidates."""


def table(rows: list[tuple], variant: str = "base", split: str = "pope_random") -> pd.DataFrame:
    """Make a table of responses from (c(Yes), c(No), truth, image, p(Yes), plain answer) of each question."""
    out = []
    for i, (c_yes, c_no, truth, image, p_yes, plain) in enumerate(rows):
        for candidate, percent, p in (("Yes", c_yes, p_yes), ("No", c_no, 1 - p_yes)):
            label = int(candidate.lower() == truth)
            raw = "?" if percent is None else f"{percent}%"
            question = f"Is there a {i}?"
            out.append(
                ("tiny", variant, split, str(i), f"{image}.png", question, label, candidate, raw, percent, p, plain)
            )
    return pd.DataFrame(out, columns=RESPONSE_COLUMNS).astype({"verbalized": "Int64"})


def partly_right(share: float, seed: int, variant: str = "csp", n: int = 120) -> pd.DataFrame:
    """Make the responses of a model that knows a ``share`` of the questions.

    It says 90 / 10 rightly where it knows the answer, and 95 about both candidates elsewhere.
    """
    truth = np.random.default_rng(99).random(n) < 0.5
    knows = np.random.default_rng(seed).random(n) < share
    return table([(*((90, 10) if t else (10, 90)), "yes" if t else "no", i // 6, 0.5, "Yes") if k else
                  (95, 95, "yes" if t else "no", i // 6, 0.5, "Yes")
                  for i, (t, k) in enumerate(zip(truth, knows, strict=True))], variant)  # fmt: skip


def noisy_answers(nulls: bool = False) -> pd.DataFrame:
    """Make the answers of three variants to 40 questions of two splits: base always says 95, the others know a little.

    With ``nulls`` no confidence of base could be parsed.
    """
    rng = np.random.default_rng(0)
    rows = []
    for variant in ("csp", "base", "sft"):
        for split in ("pope_adversarial", "amber_attribute"):
            for i in range(40):
                truth = np.random.default_rng([len(split), i]).random() < 0.5  # the same for every variant
                for candidate in ("Yes", "No"):
                    label = int(truth == (candidate == "Yes"))
                    said = 95 if variant == "base" else int(np.clip(rng.normal(40 + 30 * label, 20), 0, 100))
                    said = None if nulls and variant == "base" else said
                    p = 0.9 if truth == (candidate == "Yes") else 0.1
                    rows.append(("tiny", variant, split, str(i), f"{i // 4}.png", f"q{i}", label, candidate, "", said,
                                 p, "Yes"))  # fmt: skip
    return pd.DataFrame(rows, columns=RESPONSE_COLUMNS).astype({"verbalized": "Int64"})


def counts_of(rows: list[tuple[int, int]]) -> np.ndarray:
    """Count (percent, label) rows: (2, 101)."""
    percent, label = np.array(rows).T
    return histogram(percent, label)


def stream(percent: np.ndarray, chance: np.ndarray | float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw labels that are 1 with the given chance; return confidences 0..1, labels, and their counts."""
    label = (np.random.default_rng(seed).random(len(percent)) < chance).astype(int)
    return percent / 100, label, histogram(percent, label)
