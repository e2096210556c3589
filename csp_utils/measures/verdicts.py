"""The paper's claims (sections 4.3.1 to 4.3.3), each with the criteria that were written down before it was tested.

A claim is a list of checks. A check compares a weighted sum of arms (:mod:`csp_utils.measures.over_seeds`), of one
metric on one split, with a number: "csp - base > 0". Its 95 % interval, over images and trainings, is on the demanded
side of the number (it points to "kept"), on the other side ("broken"), or contains the number ("open").

    holds            the intervals of all checks are on the demanded side
    holds in part    else: some checks are kept
    does not hold    none is kept, and at least one is broken
    open             none is kept, none is broken: the data cannot tell
    not tested       the runs lack an arm

That all intervals are on the demanded side happens by chance even less often than that one is: "holds" needs no
correction for many checks (an intersection-union test). All other verdicts pick some checks out of many. Of 25 checks
of a method that does nothing, one or two intervals miss 0 by chance. If not all checks point to "kept", a check is
therefore kept or broken only if its p-value is at most 5 % after Holm's correction (1979, Scand. J. Stat. 6, 65) over
the claim's checks, and else open. If there is nothing to find, a claim then is "open" in at least 95 % of cases.

A check whose arms have fewer than three training seeds in common is open: there is no interval.

"Gains nearly nothing" and "does not help" mean that an arm gains less than :data:`NEARLY_NOTHING` of the whole method's
gain. An interval that contains 0 would not show that: with few images every interval contains 0.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from csp_utils.data.benchmarks import SPLITS
from csp_utils.measures.arms import FULL
from csp_utils.measures.bootstrap import LEVEL
from csp_utils.measures.over_seeds import Combined, Draws, combine, with_numbers, with_shared_seeds
from csp_utils.measures.rank import RANK

NEARLY_NOTHING = 0.25
"""The largest part of the whole method's gain that counts as nearly nothing."""
UP, DOWN = ("acc", "f1", "auc"), ("brier", "ece")
"""Metrics of calibration that are better when higher, and when lower."""
ADVERSARIAL = "pope_adversarial"
"""The split of the paper's ablations (figure 4)."""
ABLATIONS = {6: "simpo_only", 7: "global_noise", 8: "original_data"}
"""Number of a claim -> the arm that gains nearly nothing, according to it."""


OF_ANY_ARM = (2, 3, 4)
"""Numbers of the claims that can be asked of any arm in the place of the whole method. (Claim 1 is about the base.)"""


class Check(NamedTuple):
    """A criterion: the weighted sum of arms has to be above (``sign`` +1) or below (-1) the number ``than``."""

    split: str
    metric: str
    weights: Mapping[str, float]
    sign: int
    than: float = 0.0
    undefined: float | None = None
    """The value to use where an arm's value is undefined: a model that always says the same has no rank correlation."""


class Claim(NamedTuple):
    """A claim of the paper, and the checks that have to be kept for it to hold here."""

    number: int
    title: str
    source: str
    criterion: str
    checks: Sequence[Check]


def _gains(arm: str, versus: str, splits: Sequence[str]) -> list[Check]:
    """Demand that the arm is better than another in all five metrics of calibration."""
    signs = dict.fromkeys(UP, 1) | dict.fromkeys(DOWN, -1)
    return [Check(split, metric, {arm: 1, versus: -1}, sign) for split in splits for metric, sign in signs.items()]


def _nearly_nothing(arm: str) -> list[Check]:
    """Demand that the arm gains less than a part of the whole method's gain: part (csp - base) - (arm - base) > 0."""
    part = NEARLY_NOTHING
    weights = {FULL: part, "base": 1 - part, arm: -1}
    return [check._replace(weights=weights) for check in _gains(arm, "base", [ADVERSARIAL])]


def claims(splits: Sequence[str] = SPLITS, full: str = FULL) -> list[Claim]:
    """List the eight claims with their checks on the given splits; ``full`` is the arm of the whole method."""
    base, csp = {"base": 1.0}, {full: 1.0, "base": -1.0}
    little = (
        f"On POPE adversarial it gains less than {100 * NEARLY_NOTHING:.0f} % of what CSP gains, in all five metrics."
    )
    five = "accuracy and F1 by confidence and AUC {}, Brier score and ECE {}"
    return [
        Claim(1, "The base model is badly calibrated", "section 4.3.1, table 1",
              "Accuracy by confidence at most 0.2 (a tie is wrong) and ECE at least 0.35, on every split.",
              [Check(split, *rest) for split in splits for rest in (("acc", base, -1, 0.2), ("ece", base, 1, 0.35))]),
        Claim(2, "CSP calibrates it", "section 4.3.1, table 1",
              f"Against the base {five.format('rise', 'fall')}, on every split; and on POPE adversarial accuracy by "
              "confidence rises by 0.4 or more, and AUC reaches 0.75.",
              [*_gains(full, "base", splits), Check(ADVERSARIAL, "acc", csp, 1, 0.4),
               Check(ADVERSARIAL, "auc", {full: 1.0}, 1, 0.75)]),
        Claim(3, "It does not cost task performance", "section 4.3.1, figure 5",
              "Plain answers (no word about confidence) lose less than 2 points of accuracy, on every split.",
              [Check(split, "plain_acc", csp, 1, -0.02) for split in splits]),
        Claim(4, "Spoken confidence follows internal", "section 4.3.3, table 2 and figure 6",
              "Spearman's and Kendall's correlation of the two rise, on every split (of a base that always says the "
              "same number it is undefined, and counts as 0).",
              [Check(split, metric, csp, 1, 0.0, 0.0) for split in splits for metric in RANK]),
        Claim(5, "SFT alone is behind SFT + SimPO", "section 4.3.2, figure 4",
              f"With SimPO {five.format('are higher', 'lower')} than without, on every split.",
              _gains(full, f"{full}/sft", splits)),
        Claim(6, "SimPO alone gains nearly nothing", "section 4.3.2, figure 4", little, _nearly_nothing(ABLATIONS[6])),
        Claim(7, "Global noise does not help", "section 4.3.2, figure 4", little, _nearly_nothing(ABLATIONS[7])),
        Claim(8, "The original RLAIF-V data do not help", "section 4.3.2, figure 4", little,
              _nearly_nothing(ABLATIONS[8])),
    ]  # fmt: skip


def check_text(check: Check) -> str:
    """Write a check as a line: "csp − base > 0"."""
    if len(check.weights) == 3:
        arm = next(arm for arm, weight in check.weights.items() if weight == -1)
        return f"{arm} gains < {check.weights[FULL]:g} of {FULL}'s gain"
    first, *others = check.weights
    return f"{' − '.join([first, *others])} {'>' if check.sign > 0 else '<'} {check.than:g}".replace("-", "−")


def judge(of: Draws, seeds: Mapping[str, Sequence[int]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judge every check, and from them every claim.

    Args:
        of: draws of all arms (:func:`csp_utils.measures.over_seeds.draws`).
        seeds: arm -> its training seeds (:func:`csp_utils.measures.arms.seeds_of`); a check uses the seeds that all of
            its arms have.

    Returns:
        claims (number, title, source, criterion, verdict, kept, open, broken, n_seeds: the least of its checks) and
        checks (number, check, split, metric, value, ci_low, ci_high, p against ``than``, seed_low, seed_high, n_seeds,
        reason, sign, than, outcome: kept, open or broken). A check with an undefined value is open. A check whose arms
        were not trained has no row, and its claim is "not tested".
    """
    found, rows = [], []
    for claim in claims(_splits(of)):
        checks, measured, outcomes = _judged(claim, of, seeds)
        rows += [(claim.number, check_text(check), check.split, check.metric, *one, check.sign, check.than, result)
                 for check, one, result in zip(checks, measured, outcomes, strict=True)]  # fmt: skip
        found.append((claim.number, claim.title, claim.source, claim.criterion, *_verdict_on(claim, outcomes),
                      min((one.n_seeds for one in measured), default=0)))  # fmt: skip
    columns = ["number", "check", "split", "metric", *Combined._fields, "sign", "than", "outcome"]
    names = ["number", "title", "source", "criterion", "verdict", "kept", "open", "broken", "n_seeds"]
    return pd.DataFrame(found, columns=names), with_numbers(pd.DataFrame(rows, columns=columns))


def judge_arms(of: Draws, seeds: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """Judge claims :data:`OF_ANY_ARM` with each trained arm in the place of the whole method.

    So a reader sees whether a verdict depends on a setting: the number of rows, the noise, the place of the noise.

    Returns:
        arm, number, title, verdict, kept, open, broken, n_seeds; the whole method first.
    """
    rows = []
    for arm in sorted((arm for arm in seeds if "/" not in arm), key=lambda arm: arm != FULL):
        for claim in claims(_splits(of), arm):
            if claim.number in OF_ANY_ARM:
                _, _, outcomes = _judged(claim, of, seeds)
                rows.append((arm, claim.number, claim.title, *_verdict_on(claim, outcomes), len(seeds[arm])))
    columns = ["arm", "number", "title", "verdict", "kept", "open", "broken", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)


def _judged(claim: Claim, of: Draws, seeds: Mapping[str, Sequence[int]]
            ) -> tuple[list[Check], list[Combined], list[str]]:  # fmt: skip
    """Return the checks of a claim whose arms were trained, their measurements and their outcomes."""
    checks = [check for check in claim.checks if all((arm, check.split, check.metric) in of for arm in check.weights)]
    measured = [_measure(of, seeds, check) for check in checks]
    return checks, measured, judge_checks(checks, measured)


def _verdict_on(claim: Claim, outcomes: Sequence[str]) -> tuple[str, int, int, int]:
    """Return the verdict on a claim, and how many of its checks are kept, open and broken."""
    counts = {name: outcomes.count(name) for name in ("kept", "open", "broken")}
    complete = len(outcomes) == len(claim.checks) > 0
    return verdict(**counts) if complete else "not tested", *counts.values()


def _splits(of: Draws) -> list[str]:
    return [split for split in SPLITS if any(key[1] == split for key in of)]


def _measure(of: Draws, seeds: Mapping[str, Sequence[int]], check: Check) -> Combined:
    trained = [arm for arm in check.weights if arm in seeds]
    shared = with_shared_seeds(of, seeds, trained) if trained else of
    return combine(shared, check.weights, check.split, check.metric, check.undefined, check.than)


def judge_checks(checks: Sequence[Check], measured: Sequence[Combined]) -> list[str]:
    """Return kept, broken or open for each check of a claim; see the top of this module."""
    alone = [outcome(one.ci_low, one.ci_high, check.sign, check.than)
             for check, one in zip(checks, measured, strict=True)]  # fmt: skip
    if set(alone) <= {"kept"}:
        return alone
    adjusted = holm([one.p for one in measured])
    return [result if p <= 1 - LEVEL else "open" for result, p in zip(alone, adjusted, strict=True)]


def holm(p_values: Sequence[float | None]) -> list[float]:
    """Correct p-values for their number (Holm 1979); a missing one counts as 1."""
    p = np.array([1.0 if one is None else one for one in p_values])
    order = np.argsort(p, kind="stable")
    corrected = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected[np.argsort(order, kind="stable")].tolist()


def outcome(low: float | None, high: float | None, sign: int, than: float) -> str:
    """Return kept, broken or open of a single check, by where its interval is."""
    if low is None or high is None:
        return "open"
    least, most = (low - than, high - than) if sign > 0 else (than - high, than - low)
    return "kept" if least > 0 else "broken" if most < 0 else "open"


def verdict(kept: int, open: int, broken: int) -> str:
    """Return the verdict on a claim from the number of its checks; see the top of this module."""
    if kept:
        return "holds" if open == broken == 0 else "holds in part"
    return "does not hold" if broken else "open"
