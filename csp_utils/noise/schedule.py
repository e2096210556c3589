"""Fit a noise schedule to a model: the base loses sight of the object as evenly as possible while c falls.

The paper prints neither T_max nor gamma. A perturbed image depends on the signal that is left of it, alpha-bar =
(1 - gamma)^T_c (:mod:`csp_utils.noise.diffusion`), so that gamma decides how much signal a level c stands for. A model
sees an object well above some alpha-bar, and not at all below another. If gamma is far from both, the model sees
everything, or nothing, at most levels.

The base is therefore asked whether the key object is in a training image, under noise of several alpha-bar. Isotonic
regression over log alpha-bar makes the share of Yes a monotone curve A. The fitted gamma brings A at the alpha-bar of
each c = 0 .. 100 as close as possible, in mean square, to a line. The line goes from A(1) at c = 100 to the minimum of
A at c = 0. No test image is looked at.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.noise.diffusion import noise_steps

GAMMAS = np.union1d(np.geomspace(1e-6, 0.5, 2000), [0.005])
"""Candidates for gamma; the default is one of them."""


def curve(table: pd.DataFrame) -> pd.DataFrame:
    """Return how often the object is seen at each signal.

    Args:
        table: as :func:`csp_utils.asking.schedule.ask` returns it.

    Returns:
        signal (falling), n (answers that could be read), unread, seen (share of Yes, 0..1), fitted (the monotone
        curve).

    Raises:
        UserError: no answer at a signal could be read.
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
    """Return the fitted curve at each signal (alpha-bar): linear in its logarithm between the points, level beyond."""
    rising = curve.sort_values("signal")
    signal = np.maximum(signal, np.finfo(float).tiny)
    return np.interp(np.log(signal), np.log(rising["signal"].to_numpy()), rising["fitted"].to_numpy())


def by_level(curve: pd.DataFrame, t_max: int, gamma: float) -> np.ndarray:
    """Return how often the object is seen at c = 0 .. 100 under a schedule: float64 (101,), 0..1."""
    steps = np.array([noise_steps(c, t_max) for c in range(101)])
    return seen_at(curve, (1 - gamma) ** steps)


def even(curve: pd.DataFrame) -> np.ndarray:
    """Return the line that the fit aims at: float64 (101,), 0..1."""
    return np.linspace(curve["fitted"].min(), curve["fitted"].max(), 101)


def unevenness(curve: pd.DataFrame, t_max: int, gamma: float) -> float:
    """Return the root mean square distance of :func:`by_level` from :func:`even`, 0..1."""
    return float(np.sqrt(np.mean((by_level(curve, t_max, gamma) - even(curve)) ** 2)))


def fit(curve: pd.DataFrame, t_max: int, least_fall: float) -> dict[str, Any]:
    """Find the gamma that makes the curve fall most evenly in c.

    Returns:
        t_max, gamma, unevenness, unevenness_default (of gamma 0.005 and T_max 1000), fall (of the curve, 0..1),
        n_rows.

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
    """Return the schedules that a figure shows: name -> (T_max, gamma)."""
    both = {"default": (1000, 0.005), "fitted": (fitted["t_max"], fitted["gamma"])}
    return {f"{name}: $T_{{max}}$ = {t_max}, $\\gamma$ = {gamma:.3g}": (t_max, gamma)
            for name, (t_max, gamma) in both.items()}  # fmt: skip
