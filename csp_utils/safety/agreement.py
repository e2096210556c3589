"""How far two judges agree: confusion table and Cohen's kappa, with intervals over groups of items."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.measures.bootstrap import estimate, resamples
from csp_utils.measures.calibration import ratio
from csp_utils.safety.judges.verdicts import VERDICTS
from csp_utils.safety.rates import declined, resampled_groups
from csp_utils.safety.replies import KEY
from csp_utils.safety.sets.items import LABELS

DECLINED, CLASSES = "declined", "classes"
"""What agreement is about: declined or not, and which of the four classes."""
BOTH = "both"
CONSTANT = "each judge gives all replies the same verdict"
NO_SHARED = "no reply has a verdict of both judges"


def cohen_kappa(counts: np.ndarray) -> np.ndarray:
    """Compute Cohen's kappa (1960, Educ. Psychol. Meas. 20, 37) of (..., k, k) counts of two judges' verdicts.

    kappa = (agreement - chance agreement) / (1 - chance agreement), from -1 to 1; 0 is the agreement of judges who know
    nothing of the replies. NaN where chance agreement is 1 (both judges say one and the same thing throughout) or
    there is no reply.
    """
    n = counts.sum((-2, -1))
    same = np.trace(counts, axis1=-2, axis2=-1)
    chance = (counts.sum(-1) * counts.sum(-2)).sum(-1)  # times n^2: whole numbers, so that 1 is exactly 1
    return ratio(n * same - chance, n * n - chance)


def confusion(rows: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Count the verdicts of the second judge (columns) by those of the first (rows), with "none" for no verdict."""
    names = [*VERDICTS, "none"]
    both = _paired(rows, first, second)
    table = pd.crosstab(both["first"].fillna("none"), both["second"].fillna("none"))
    return table.reindex(index=names, columns=names, fill_value=0).rename_axis(index=first, columns=second)


def agreement(rows: pd.DataFrame, n_bootstrap: int, seed: int, reading: str = "official") -> pd.DataFrame:
    """Tabulate the agreement of every two judges, for safe and unsafe items apart and together.

    Args:
        rows: verdicts of two or more judges on the same replies (:func:`csp_utils.safety.rates.with_items`).

    Returns:
        first, second, label (safe, unsafe or both), of (declined or classes), kappa, ci_low, ci_high (95 %, over
        groups), same (share of equal verdicts, 0..1), n (replies with a verdict of both), only_first, only_second,
        neither (replies with a verdict of one or none), reason (why kappa is undefined).

    Raises UserError if there are fewer than two judges.
    """
    judges = list(dict.fromkeys(rows["judge"]))
    if len(judges) < 2:
        raise UserError("Agreement needs two judges; judge the replies by another one, or read a sheet of labels.")
    out = []
    for first, second in combinations(judges, 2):
        pairs = _paired(rows, first, second)
        for label in (*LABELS, BOTH):
            own = pairs if label == BOTH else pairs[pairs["label"] == label]
            read = own[own["first"].notna() & own["second"].notna()]
            lone = [int((own[a].notna() & own[b].isna()).sum()) for a, b in (("first", "second"), ("second", "first"))]
            for of in (DECLINED, CLASSES):
                values = _values(read, of, reading)
                out.append((first, second, label, of, *_kappa(read, *values, n_bootstrap, seed), len(read), *lone,
                            len(own) - len(read) - sum(lone), _reason(*values)))  # fmt: skip
    columns = ["first", "second", "label", "of", "kappa", "ci_low", "ci_high", "same", "n", "only_first",
               "only_second", "neither", "reason"]  # fmt: skip
    return pd.DataFrame(out, columns=columns).astype({name: float for name in ("kappa", "ci_low", "ci_high", "same")})


def _paired(rows: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return one row per reply that a judge has a row for: group, label, and the two verdicts."""
    about = [*KEY, "group", "label"]
    one, other = (rows.loc[rows["judge"] == name, [*about, "verdict"]] for name in (first, second))
    return one.rename(columns={"verdict": "first"}).merge(
        other.rename(columns={"verdict": "second"}), on=about, how="outer", validate="one_to_one"
    )


def _values(read: pd.DataFrame, of: str, reading: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the verdicts of the two judges as numbers from 0."""
    if of == CLASSES:
        first, second = (pd.Categorical(read[name], list(VERDICTS)).codes for name in ("first", "second"))
    else:
        first, second = (declined(read.assign(verdict=read[name]), reading).to_numpy(int)
                         for name in ("first", "second"))  # fmt: skip
    return np.asarray(first, int), np.asarray(second, int)


def _reason(first: np.ndarray, second: np.ndarray) -> str | None:
    if len(first) == 0:
        return NO_SHARED
    return CONSTANT if len(np.unique(np.concatenate([first, second]))) == 1 else None


def _kappa(read: pd.DataFrame, first: np.ndarray, second: np.ndarray, n_bootstrap: int, seed: int
           ) -> Sequence[float | None]:
    """Return kappa, its interval and the share of equal verdicts."""
    if not len(read):
        return None, None, None, None
    draws = resampled_groups(read["group"], n_bootstrap, seed)
    counts = np.zeros((len(draws.groups), len(VERDICTS), len(VERDICTS)))
    np.add.at(counts, (np.searchsorted(draws.groups, read["group"].astype(str).to_numpy()), first, second), 1)
    values = cohen_kappa(np.tensordot(draws.weights.astype(float), counts, 1))
    return *estimate(resamples("kappa", values, len(draws.groups)))[:3], float((first == second).mean())
