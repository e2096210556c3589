"""How the replies were read: which patterns read them, which were refused and why, and what other rules would say.

A refusal that depends on the answer biases every measure, because a measure leaves out what was not read. So refusals
are counted for right and wrong candidates apart.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from csp_utils.words.answers import RULES
from csp_utils.words.confidence import REFUSALS

READING_COLUMNS = ["model", "variant", "split", "candidate", "label", "reason", "read", "n"]
RULE_COLUMNS = ["model", "variant", "split", "rule", "accuracy", "f1", "unanswered", "differs", "cut", "n"]
MASS_COLUMNS = ["model", "variant", "of", "median", "too_small"]
INTERNAL = "internal confidence"
_UNKNOWN = "not recorded"
"""Reason in tables of replies that were read elsewhere."""


def readings(responses: pd.DataFrame) -> pd.DataFrame:
    """Count the replies by what was read from them.

    Returns:
        :data:`READING_COLUMNS`: reason (name of a pattern, or one of :data:`csp_utils.words.confidence.REFUSALS`),
        read (whether there is a confidence), n (replies), by candidate and label (1: the candidate is right).
    """
    reason = responses["reason"] if "reason" in responses else pd.Series(_UNKNOWN, responses.index)
    table = responses.assign(reason=reason.fillna(_UNKNOWN), read=responses["verbalized"].notna())
    keys = READING_COLUMNS[:-1]
    return table.groupby(keys, sort=False, observed=True).size().reset_index(name="n")[READING_COLUMNS]


def unread_share(table: pd.DataFrame) -> pd.DataFrame:
    """Return the share of replies that were not read, about right and about wrong candidates.

    Args:
        table: of :func:`readings`.

    Returns:
        model, variant, right, wrong (shares, 0..1) and cut (share of all replies that the token budget cut).
    """
    rows = []
    for (model, variant), own in table.groupby(["model", "variant"], sort=False):
        right, wrong = (_share(own[own["label"] == label], "read", False) for label in (1, 0))
        rows.append((model, variant, right, wrong, _share(own, "reason", "cut")))
    return pd.DataFrame(rows, columns=["model", "variant", "right", "wrong", "cut"])


def _share(table: pd.DataFrame, column: str, value: object) -> float:
    """Return the share of the counted replies with ``value`` in ``column``; NaN if there are no replies."""
    total = table["n"].sum()
    return table.loc[table[column] == value, "n"].sum() / total if total else np.nan


def unread_examples(responses: pd.DataFrame, each: int = 2, longest: int = 200) -> pd.DataFrame:
    """Return a few different replies for each reason for which none was read: variant, candidate, reason, raw, n."""
    if "reason" not in responses:
        return pd.DataFrame(columns=["reason", "meaning", "variant", "candidate", "raw", "n"])
    unread = responses[responses["verbalized"].isna()]
    counts = unread.groupby(["reason", "variant", "candidate", "raw"], dropna=False).size().reset_index(name="n")
    order = counts.sort_values(["reason", "n", "raw"], ascending=[True, False, True])
    found = order.groupby("reason").head(each).reset_index(drop=True)
    found["raw"] = [text if len(text) <= longest else f"{text[:longest]} …" for text in found["raw"].astype(str)]
    found.insert(1, "meaning", found["reason"].map(REFUSALS))
    return found


def answer_rules(responses: pd.DataFrame) -> pd.DataFrame:
    """Score the plain answers by every rule of :data:`csp_utils.words.answers.RULES`.

    Returns:
        :data:`RULE_COLUMNS`: accuracy and f1 (positive: Yes; an answer that is neither is wrong), unanswered (share of
        neither), differs (share of answers that the rule of the metrics reads otherwise), cut (share that the token
        budget cut), n (questions). Empty if the replies themselves were not kept.
    """
    if "plain_raw" not in responses:
        return pd.DataFrame(columns=RULE_COLUMNS)
    return pd.DataFrame(list(_scores(responses)), columns=RULE_COLUMNS)


def _scores(responses: pd.DataFrame) -> Iterator[tuple]:
    questions = responses[responses["candidate"] == "Yes"]
    for key, own in questions.groupby(["model", "variant", "split"], sort=False):
        truth, used = own["label"].to_numpy(int) == 1, own["plain_answer"].fillna("").to_numpy(str)
        cut = 1 - own["plain_ended"].astype(float).mean() if "plain_ended" in own else np.nan
        for name, rule in RULES.items():
            pairs = zip(own["plain_raw"], own["question"], strict=True)
            answer = np.array([rule(raw, question) or "" for raw, question in pairs], dtype=str)
            yes, no = answer == "Yes", answer == "No"
            hits, right = (yes & truth).sum(), (yes & truth) | (no & ~truth)
            both = yes.sum() + truth.sum()  # F1 = 2 TP / (2 TP + FP + FN)
            f1 = 2 * hits / both if both else np.nan
            yield (*key, name, right.mean(), f1, (~yes & ~no).mean(), (answer != used).mean(), cut, len(own))


def masses(responses: pd.DataFrame, elicitations: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the probability mass over which confidences were normalized.

    Args:
        elicitations: elicitations.parquet, for the masses of P(True) and of the distributions over 0 to 100 %.

    Returns:
        :data:`MASS_COLUMNS`: of (what was normalized), median (0..1), too_small (share that was left out).
    """
    rows = []
    if "mass" in responses:
        for key, own in responses.groupby(["model", "variant"], sort=False):
            rows.append((*key, INTERNAL, own["mass"].median(), own["internal"].isna().mean()))
    if elicitations is not None:
        normalized = elicitations[elicitations["mass"].notna()]
        for (*key, prompt, method), own in normalized.groupby(["model", "variant", "prompt", "method"], sort=False):
            rows.append((*key, f"{prompt}, {method}", own["mass"].median(), own["value"].isna().mean()))
    return pd.DataFrame(rows, columns=MASS_COLUMNS)
