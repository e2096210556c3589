"""Do the 95 % intervals of differences contain the truth? A simulation, for every measure that gets a verdict.

    python tests/measures/test_coverage.py        # prints the coverage of every measure and comparison

Images have 3 to 6 questions and every question two candidates. How hard an image is, and how often the model is right
about it, belongs to the image, so questions about one image are not independent. The truth of a measure is its value on
a very large sample.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

from csp_utils.base.wording import METRICS, metric
from csp_utils.measures import counts as counting
from csp_utils.measures.bootstrap import estimate, weighted_sum
from csp_utils.measures.counts import Counts, Protocol
from csp_utils.measures.metrics import MEASURES, RESPONSE_COLUMNS, resampled
from csp_utils.measures.rank import RANK, as_compared

SAID = np.array([0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100])
"""The percents that people and models like to say."""
SPEAKERS = ("constant", "nearly constant", "overconfident", "too sure", "calibrated", "fine", "random")
PAIRS = (("constant", "calibrated"), ("constant", "overconfident"), ("constant", "too sure"),
         ("nearly constant", "too sure"), ("nearly constant", "random"), ("nearly constant", "fine"),
         ("overconfident", "calibrated"), ("too sure", "fine"))  # fmt: skip
"""What is compared: a base that says one number, or nearly, or is too sure, with what a training may make of it."""
JUDGED = [name for name in (*METRICS, *MEASURES)
          if metric(name).better and not metric(name).no_verdict and not name.startswith(("plain", "parse"))]
"""Plain answers and parse failures are rates like any other; nothing here makes them vary."""


def snap(chance: np.ndarray) -> np.ndarray:
    return SAID[np.abs(100 * chance[:, None] - SAID).argmin(1)]


def answers(n_images: int, rng: np.random.Generator, ids: int = 0) -> dict[str, pd.DataFrame]:
    """Draw the responses of every speaker to the same questions; the calibrated one says the chance of being right."""
    image = np.repeat(np.arange(n_images), rng.integers(3, 7, n_images))
    n = len(image)

    def by_image(share: float) -> np.ndarray:
        return np.sqrt(share) * rng.normal(size=n_images)[image] + np.sqrt(1 - share) * rng.normal(size=n)

    logit = 1.6 * by_image(0.3)
    chance = 1 / (1 + np.exp(-logit - 0.8 * np.sign(logit)))
    c = snap(chance)
    truth = ndtr(by_image(0.3)) < c / 100
    softened = np.clip(c / 100, 0.01, 0.99)
    over = snap(1 / (1 + (1 / softened - 1) ** 2.2))
    high = np.array([70, 80, 85, 90, 95, 100])
    yes_no = {
        "constant": (np.full(n, 95), np.full(n, 95)),
        "nearly constant": tuple(np.where(rng.random(n) < 0.9, 95, 90) for _ in range(2)),
        "overconfident": (over, 100 - over),
        "too sure": tuple(high[np.clip((3 * q / 100 + 2 + 0.8 * rng.normal(size=n)).astype(int), 0, 5)]
                          for q in (c, 100 - c)),
        "calibrated": (c, 100 - c),
        "random": (rng.integers(0, 101, n), rng.integers(0, 101, n)),
    }  # fmt: skip
    fine = np.clip(c + rng.integers(-4, 5, n), 0, 100)
    yes_no["fine"] = fine, 100 - fine
    return {name: table(name, image, truth, chance, *yes_no[name]) for name in SPEAKERS}


def table(name: str, image: np.ndarray, truth: np.ndarray, chance: np.ndarray, yes: np.ndarray,
          no: np.ndarray) -> pd.DataFrame:  # fmt: skip
    n = len(image)
    both = {"model": "m", "variant": name, "split": "s", "question_id": np.tile(np.arange(n), 2),
            "image": np.tile(image, 2), "question": "", "label": np.append(truth, ~truth).astype(int),
            "candidate": np.repeat(["Yes", "No"], n), "raw": "", "verbalized": np.append(yes, no),
            "internal": np.append(chance, 1 - chance).round(2), "plain_answer": "Yes"}  # fmt: skip
    return pd.DataFrame(both)[RESPONSE_COLUMNS]


def everything(counts: Counts, of: counting.Resampled) -> dict[str, np.ndarray]:
    found = counts.confidence_metrics(of) | counts.measures(of)
    return found | (counts.rank_correlations(of) if len(counts.images) < 1000 else {})


def truths(rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Return every measure of every speaker on 15,000 images, rank correlations on a part of them."""
    found = {}
    for name, rows in answers(15_000, rng).items():
        counts = Counts(rows, Protocol())
        of = counts.resample(np.ones((1, len(counts.images)), dtype=np.float32))
        found[name] = {key: float(value[0]) for key, value in everything(counts, of).items()}
        part = rows.sample(10_000, random_state=0)
        ranks = part[["internal", "verbalized"]].rank()
        for key in RANK:
            constant = part["verbalized"].nunique() == 1
            found[name][key] = 0.0 if constant else ranks["internal"].corr(part["verbalized"], key)
    return found


def coverage(n_images: int, repeats: int, n_bootstrap: int, seed: int = 0) -> pd.DataFrame:
    """Return how often the interval contains the truth, by measure and comparison."""
    rng = np.random.default_rng(seed)
    true, held = truths(rng), {}
    for repeat in range(repeats):
        protocol, values = Protocol(seed=repeat), {}
        for name, rows in answers(n_images, rng).items():
            counts = Counts(rows, protocol)
            values[name] = resampled(counts, everything, n_bootstrap)
            values[name] |= {key: as_compared(values[name][key], 1) for key in RANK}
        for one, other in PAIRS:
            for key in JUDGED:
                found = difference(values, one, other, key)
                if found.ci_low is not None:
                    truth = true[other][key] - true[one][key]
                    held.setdefault((key, f"{one} → {other}"), []).append(
                        found.ci_low - 1e-9 <= truth <= found.ci_high + 1e-9)  # fmt: skip
    return pd.Series({key: np.mean(flags) for key, flags in held.items()}).unstack()


def difference(values: Mapping, one: str, other: str, key: str):
    return estimate(weighted_sum({name: values[name][key] for name in (one, other)}, {other: 1, one: -1}))


@pytest.mark.slow
def test_intervals_contain_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "smece", lambda pairs: np.full(pairs.shape[:-2], np.nan))  # slow, and not judged
    found = coverage(80, 80, 199)
    assert set(found.index) == set(JUDGED)
    assert (found.min(axis=1) >= 0.85).all()  # of 80 repeats 95 % is 0.90 to 1.00, and the worst of eight is lower
    assert (found.mean(axis=1) >= 0.92).all()


if __name__ == "__main__":
    counting.smece = lambda pairs: np.full(pairs.shape[:-2], np.nan)
    pd.set_option("display.width", 250)
    for size, repeats in ((80, 400), (300, 200)):
        shown = coverage(size, repeats, 299)
        print(f"{size} images, {repeats} repeats, 299 resamples; percent of intervals that contain the truth")
        print((100 * shown.assign(mean=shown.mean(axis=1))).round(1).to_string())
