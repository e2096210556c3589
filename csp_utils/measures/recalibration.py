"""Post-hoc recalibration: a map from spoken to corrected percents, fitted on one half of the images for the other half.

scikit-learn's CalibratedClassifierCV takes a classifier with features, not confidences that exist already; its maps are
used where they fit (isotonic regression, logistic regression).
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from csp_utils.models.vlm.reply import draw_seed

Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]
"""(percents (n,), labels (n,) 0 or 1) -> the map from percents to percents that fits them best."""


def recalibrate(responses: pd.DataFrame, fit: Fit) -> pd.Series:
    """Correct the spoken confidences about each half of the images by the map that was fitted on the other half.

    No answer takes part in its own recalibration, and every question keeps its place in the comparison.

    Args:
        responses: of one variant, with the column half (:func:`image_halves`).

    Returns:
        percents (0..100) in the order of the responses; null without a spoken confidence, and where the other half of
        the split has no right, or no wrong, candidate with a confidence.
    """
    out = pd.Series(np.nan, index=responses.index)
    parsed = responses.dropna(subset="verbalized")
    for (split, half), rows in parsed.groupby(["split", "half"]):
        other = parsed[(parsed["split"] == split) & (parsed["half"] != half)]
        if other["label"].nunique() == 2:
            apply = fit(other["verbalized"].to_numpy(float), other["label"].to_numpy())
            out[rows.index] = np.clip(apply(rows["verbalized"].to_numpy(float)), 0, 100)
    return out


def image_halves(images: pd.Series, seed: int) -> pd.Series:
    """Assign each row's image to half 0 or 1 of the images; one half may have one more.

    The assignment depends on the seed and on which images there are, not on their order.
    """
    order = sorted(images.unique(), key=lambda name: (draw_seed(seed, "half", name), name))
    return images.map({name: at % 2 for at, name in enumerate(order)})


def fit_temperature(percent: np.ndarray, label: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Divide the log odds by the one number of least log loss (Guo et al. 2017); all move towards or away from 50 %."""
    from scipy.optimize import minimize_scalar
    from scipy.special import expit

    margin = (2 * label - 1) * _log_odds(percent)
    best = minimize_scalar(lambda t: np.logaddexp(0, -margin * np.exp(-t)).mean(), bounds=(-5, 10), method="bounded").x
    return lambda percents: 100 * expit(_log_odds(percents) * np.exp(-best))


def fit_platt(percent: np.ndarray, label: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a logistic regression on the log odds, with Platt's softened targets (n + 1) / (n + 2) and 1 / (n + 2)."""
    from sklearn.linear_model import LogisticRegression

    n_right, n_wrong = label.sum(), (1 - label).sum()
    target = np.where(label == 1, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    rows, weights = np.tile(_log_odds(percent), 2)[:, None], np.concatenate([target, 1 - target])
    model = LogisticRegression(C=np.inf).fit(rows, np.repeat([1, 0], len(label)), sample_weight=weights)
    return lambda percents: 100 * model.predict_proba(_log_odds(percents)[:, None])[:, 1]


def fit_isotonic(percent: np.ndarray, label: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit the rising step function of least squares (Zadrozny and Elkan 2002)."""
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0, y_max=100, out_of_bounds="clip").fit(percent, 100 * label)
    return lambda percents: model.predict(percents)


def _log_odds(percent: np.ndarray) -> np.ndarray:
    """Compute log odds; "0%" and "100%" mean 0.5 % and 99.5 %, as in :func:`csp_utils.measures.scores.log_score`."""
    p = np.clip(percent / 100, 0.005, 0.995)
    return np.log(p / (1 - p))
