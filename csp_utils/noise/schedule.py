"""A noise schedule fitted to a model: the base loses sight of the object as evenly as possible while c falls.

The paper prints neither T_max nor gamma. Only what is left of the signal matters to a picture, alpha-bar =
(1 - gamma)^T_c (:mod:`csp_utils.noise.diffusion`), and with gamma at hand the label c says how much that is. A model sees
an object well down to some alpha-bar and not at all below another. If gamma is far from these, most labels name
pictures in which the model sees all, or nothing.

So the base is asked of training images whether their key object is there, under noise of several alpha-bar. The share
of Yes, made monotone (isotonic regression over log alpha-bar), is a curve A; then gamma is chosen so that A at the
alpha-bar of c is as close as possible, in mean square over c = 0 .. 100, to the line from A(1) at c = 100 to the least
of A at c = 0. Only training images are looked at.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.noise.diffusion import noise_steps

GAMMAS = np.union1d(np.geomspace(1e-6, 0.5, 2000), [0.005])
"""Among which gamma is sought; the default is one of them."""


def curve(table: pd.DataFrame) -> pd.DataFrame:
    """How often the object is seen at each signal.

    Returns:
        signal (falling), n (answers that were read), unread, seen (share of Yes), fitted (the monotone curve).
    """
    from sklearn.isotonic import IsotonicRegression

    read = table.assign(yes=(table["answer"] == "Yes").astype(float).where(table["answer"].notna()))
    found = read.groupby("signal")["yes"].agg(n="count", size="size", seen="mean").reset_index()
    found = found.sort_values("signal", ascending=False, ignore_index=True)
    if (found["n"] == 0).any():
        raise UserError("At one of the signals no answer could be read as Yes or No; raise n_rows or max_new_tokens.")
    monotone = IsotonicRegression().fit(np.log(found["signal"]), found["seen"], sample_weight=found["n"])
    return found.assign(unread=found["size"] - found["n"], fitted=monotone.predict(np.log(found["signal"])))[
        ["signal", "n", "unread", "seen", "fitted"]
    ]


def seen_at(curve: pd.DataFrame, signal: np.ndarray) -> np.ndarray:
    """The fitted curve at each signal (alpha-bar), linear in its logarithm between the points, level beyond them."""
    rising = curve.sort_values("signal")
    signal = np.maximum(signal, np.finfo(float).tiny)
    return np.interp(np.log(signal), np.log(rising["signal"].to_numpy()), rising["fitted"].to_numpy())


def by_level(curve: pd.DataFrame, t_max: int, gamma: float) -> np.ndarray:
    """(101,) how often the object is seen at c = 0 .. 100 with a schedule."""
    steps = np.array([noise_steps(c, t_max) for c in range(101)])
    return seen_at(curve, (1 - gamma) ** steps)


def even(curve: pd.DataFrame) -> np.ndarray:
    """(101,) the line that is aimed at."""
    return np.linspace(curve["fitted"].min(), curve["fitted"].max(), 101)


def unevenness(curve: pd.DataFrame, t_max: int, gamma: float) -> float:
    """Root mean square distance of :func:`by_level` from :func:`even`, 0..1."""
    return float(np.sqrt(np.mean((by_level(curve, t_max, gamma) - even(curve)) ** 2)))


def fit(curve: pd.DataFrame, t_max: int, least_fall: float) -> dict[str, Any]:
    """The gamma that makes the fall most even.

    Returns:
        t_max, gamma, unevenness, unevenness_default (of gamma 0.005 and T_max 1000), fall (of the curve), n_rows.

    Raises:
        UserError: the curve falls by less than ``least_fall``, so that every gamma would be as good.
    """
    fall = float(curve["fitted"].max() - curve["fitted"].min())
    if fall < least_fall:
        raise UserError(f"The model sees the object {curve['fitted'].max():.0%} of the time without noise and "
                        f"{curve['fitted'].min():.0%} under the most, a fall of less than {least_fall:.0%}: no "
                        "schedule can be fitted; add smaller signals, or keep gamma in 03_perturb.")  # fmt: skip
    found = float(min(GAMMAS, key=lambda gamma: unevenness(curve, t_max, gamma)))
    return {"t_max": t_max, "gamma": round(found, 8), "unevenness": unevenness(curve, t_max, found),
            "unevenness_default": unevenness(curve, 1000, 0.005), "fall": fall,
            "n_rows": int(curve["n"].max())}  # fmt: skip


def compared(fitted: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """The schedules that a figure shows: name -> (T_max, gamma)."""
    both = {"default": (1000, 0.005), "fitted": (fitted["t_max"], fitted["gamma"])}
    return {f"{name}: $T_{{max}}$ = {t_max}, $\\gamma$ = {gamma:.3g}": (t_max, gamma)
            for name, (t_max, gamma) in both.items()}  # fmt: skip
