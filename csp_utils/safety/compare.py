"""Differences between strategies, variants or models on the same items, paired by resampled groups."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.measures.bootstrap import Resamples, paired_differences
from csp_utils.measures.over_seeds import Draws as OverSeeds
from csp_utils.measures.over_seeds import stack
from csp_utils.measures.verdicts import holm
from csp_utils.safety.pairs import outcomes
from csp_utils.safety.rates import ARM, declined, measure, resampled_groups
from csp_utils.safety.sets.items import LABELS

COMPARED = ("sra", "sra_safe", "sra_unsafe", "safe_answered", "d_prime", "criterion", "both_right")
"""Measures that are compared by default."""
REPLY = ["item_id", "draw"]
ALL = "all"


def differences(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]], n_bootstrap: int, seed: int,
                what: str = "strategy", reading: str = "official") -> pd.DataFrame:
    """Subtract the measures of the first arm of each pair from those of the second.

    Only replies on which both arms have a verdict count, so that a strategy does not gain by failing on hard items.

    Args:
        rows: verdicts of one judge (:func:`csp_utils.safety.rates.with_items`) that differ in ``what`` alone.
        pairs: (first, second) values of the column ``what``.
        what: strategy, variant or model.

    Returns:
        first, second, measure, diff, ci_low, ci_high (95 %), p (two-sided), p_holm (Holm's correction over the pairs,
        for each measure), n_tests (what it was corrected for), n (replies of each arm that count), left_out (replies
        of either without a partner). A pair whose arms share no reply has null values.

    Raises:
        UserError: a name is not among the values of ``what``, or rows of one arm differ in more than ``what``.
    """
    arms = _arms(rows, what)
    out = []
    for first, second in pairs:
        for name in (first, second):
            if name not in arms:
                raise UserError(f"There is no {what} {name!r} to compare; there are {', '.join(map(repr, arms))}.")
        both, n, left_out = _common([arms[first], arms[second]])
        draws = resampled_groups(both[0]["group"], n_bootstrap, seed) if n else None
        values = {name: measure(own, draws, reading) | outcomes(own, draws, reading)
                  for name, own in zip((first, second), both, strict=True)} if n else {}  # fmt: skip
        found = {name: one for _, _, name, one in paired_differences(values, [(first, second)], COMPARED)}
        out += [(first, second, name, *(found.get(name) or (None,) * 4), n, left_out) for name in COMPARED]
    columns = ["first", "second", "measure", "diff", "ci_low", "ci_high", "p", "n", "left_out"]
    table = pd.DataFrame(out, columns=columns).astype({name: float for name in ("diff", "ci_low", "ci_high", "p")})
    corrected = table.groupby("measure", sort=False)["p"].transform(
        lambda p: holm([None if np.isnan(one) else one for one in p])
    )
    table.insert(7, "p_holm", corrected.where(table["p"].notna()))
    table.insert(8, "n_tests", len(pairs))
    return table


def _arms(rows: pd.DataFrame, what: str) -> dict[str, pd.DataFrame]:
    """Split the rows by ``what``. Raises UserError if an arm's rows differ in another column, too."""
    others = [name for name in ARM if name != what]
    for name in others:
        if (values := rows[name].unique()).size > 1:
            raise UserError(f"The verdicts to compare differ in {name}, too ({', '.join(map(str, values))}); take one "
                            f"of them, so that only the {what} differs.")  # fmt: skip
    return {name: own for name, own in rows.groupby(what, sort=False)}


def _common(tables: Sequence[pd.DataFrame]) -> tuple[list[pd.DataFrame], int, int]:
    """Reduce tables to the replies on which all have a verdict; return them, their size and the replies left out."""
    read = [own[own["verdict"].notna()].set_index(REPLY) for own in tables]
    shared = read[0].index
    for own in read[1:]:
        shared = shared.intersection(own.index)
    shared = shared.sort_values()
    every = set().union(*(zip(own["item_id"], own["draw"], strict=True) for own in tables))
    return [own.loc[shared].reset_index() for own in read], len(shared), len(every) - len(shared)


def mcnemar(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]], what: str = "strategy", reading: str = "official"
            ) -> pd.DataFrame:
    """Test with McNemar's exact test whether two arms are right on different replies.

    It takes replies as independent, which those of one group are not, and so claims too much where groups are large.
    It stands beside :func:`differences` for readers who know it. Arguments and errors are those of that function.

    Returns:
        first, second, label, only_first_right, only_second_right, p, n (replies on which both have a verdict).
    """
    from scipy.stats import binomtest

    arms, out = _arms(rows, what), []
    for first, second in pairs:
        both, _, _ = _common([arms[first], arms[second]])
        right = [declined(own, reading) == (own["label"] == "unsafe") for own in both]
        for label in LABELS:
            of = both[0]["label"] == label
            first_only, second_only = (int((one & ~other & of).sum()) for one, other in (right, right[::-1]))
            discordant = first_only + second_only
            p = float(binomtest(first_only, discordant).pvalue) if discordant else 1.0
            out.append((first, second, label, first_only, second_only, p, int(of.sum())))
    return pd.DataFrame(out, columns=["first", "second", "label", "only_first_right", "only_second_right", "p", "n"])


def over_trainings(runs: Mapping[tuple[str, int], pd.DataFrame], n_bootstrap: int, seed: int,
                   reading: str = "official") -> tuple[OverSeeds, int]:  # fmt: skip
    """Compute the measures of trained arms, for the project's intervals and tests over training seeds.

    :func:`csp_utils.measures.over_seeds.combine` and its differences take what this returns as it is.

    Args:
        runs: (arm, training seed) -> verdicts of one judge; the untrained arm is ("base", 0).

    Returns:
        (arm, split, measure) -> resamples of all seeds, split "all" and each side (image, text); and the number of
        replies that are left out because a run has no verdict on them.

    Raises:
        UserError: there is no reply on which all runs have a verdict.
    """
    tables, n, left_out = _common(list(runs.values()))
    if not n:
        raise UserError("There is no reply on which all runs have a verdict; judge the same items in every run.")
    found: dict[tuple[str, str, str], dict[int, Resamples]] = {}
    for split in (ALL, *tables[0]["side"].unique()):
        for (arm, training), own in zip(runs, tables, strict=True):
            part = own if split == ALL else own[own["side"] == split]
            draws = resampled_groups(part["group"], n_bootstrap, seed)
            values = measure(part, draws, reading) | outcomes(part, draws, reading)
            for name in COMPARED:
                found.setdefault((arm, split, name), {})[training] = values[name]
    return {key: stack([own[training] for training in sorted(own)]) for key, own in found.items()}, left_out
