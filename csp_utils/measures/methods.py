"""Other ways to get a confidence, on the same questions as the spoken one, so that they can be measured side by side.

Each is a few lines over the table of responses (:mod:`csp_utils.measures.metrics`) and that of elicitations
(:mod:`csp_utils.asking.elicitation_table`). A method whose elicitation was not made is left out; a question for which a method
has no value is null, and counted as such by the measures.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from csp_utils.measures.metrics import CANDIDATES, SPOKEN
from csp_utils.models.vlm.reply import draw_seed

QUESTION = ["model", "variant", "split", "question_id"]
KEY = [*QUESTION, "candidate"]

Compute = Callable[[pd.DataFrame, pd.DataFrame], pd.Series | None]
"""(responses of one variant with the column half, its elicitations) -> percents (0..100) in the order of the responses,
null where there is none; None if it was not elicited."""
Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]
"""(percents (n,), labels (n,) 0 or 1) -> the map from percents to percents that fits them best."""


class Method(NamedTuple):
    """A way to get a confidence for every (question, candidate)."""

    name: str
    """In figures and tables for readers."""
    source: str
    compute: Compute
    needs: str = ""
    """What notebook 06 has to elicit for it, as its parameters; "" if the paper's protocol is enough."""


# --------------------------------------------------------------------------------------------------- from elicitations


def _looked_up(responses: pd.DataFrame, values: pd.Series) -> pd.Series:
    """``values``, indexed by :data:`KEY`, in the order of the responses."""
    return pd.Series(values.reindex(pd.MultiIndex.from_frame(responses[KEY])).to_numpy(float), index=responses.index)


def _elicited(prompt: str, method: str) -> Compute:
    """The value of one prompt and method; of several draws their mean."""

    def compute(responses: pd.DataFrame, elicited: pd.DataFrame) -> pd.Series | None:
        part = elicited[(elicited["prompt"] == prompt) & (elicited["method"] == method)]
        return None if part.empty else _looked_up(responses, part.groupby(KEY)["value"].mean())

    return compute


def _own_answer(responses: pd.DataFrame, elicited: pd.DataFrame) -> pd.Series | None:
    """The confidence in the answer that the model gave itself, and what it leaves of 100 % for the other answer."""
    part = elicited[(elicited["prompt"] == "answer_then_confidence") & (elicited["method"] == "greedy")]
    if part.empty:
        return None
    part = part.dropna(subset="candidate")
    other = part.assign(candidate=part["candidate"].map(dict(zip(CANDIDATES, CANDIDATES[::-1], strict=True))),
                        value=100 - part["value"])  # fmt: skip
    return _looked_up(responses, pd.concat([part, other]).set_index(KEY)["value"])


def _share(method: str) -> Compute:
    """How many of the plain answers by ``method`` are the candidate, of those that say Yes or No."""

    def compute(responses: pd.DataFrame, elicited: pd.DataFrame) -> pd.Series | None:
        part = elicited[(elicited["prompt"] == "plain") & (elicited["method"] == method)]
        if part.empty:
            return None
        said = part.dropna(subset="candidate").groupby(KEY).size().unstack("candidate", fill_value=0)
        said = said.reindex(columns=CANDIDATES, fill_value=0)
        return _looked_up(responses, (100 * said.div(said.sum(axis=1), axis=0)).stack())

    return compute


# ----------------------------------------------------------------------------------------------- post-hoc recalibration


def _logit(percent: np.ndarray) -> np.ndarray:
    """Log odds; "0%" and "100%" mean what rounds to them, as in :func:`csp_utils.measures.scores.log_score`."""
    p = np.clip(percent / 100, 0.005, 0.995)
    return np.log(p / (1 - p))


def temperature(percent: np.ndarray, label: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Log odds divided by one number, the one of least log loss; it moves all towards or away from 50 %."""
    from scipy.optimize import minimize_scalar
    from scipy.special import expit

    margin = (2 * label - 1) * _logit(percent)
    best = minimize_scalar(lambda t: np.logaddexp(0, -margin * np.exp(-t)).mean(), bounds=(-5, 10), method="bounded").x
    return lambda percents: 100 * expit(_logit(percents) * np.exp(-best))


def platt(percent: np.ndarray, label: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A logistic regression on the log odds, with Platt's softened targets (n + 1) / (n + 2) in place of 0 and 1."""
    from sklearn.linear_model import LogisticRegression

    n_right, n_wrong = label.sum(), (1 - label).sum()
    target = np.where(label == 1, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    rows, weights = np.tile(_logit(percent), 2)[:, None], np.concatenate([target, 1 - target])
    model = LogisticRegression(C=np.inf).fit(rows, np.repeat([1, 0], len(label)), sample_weight=weights)
    return lambda percents: 100 * model.predict_proba(_logit(percents)[:, None])[:, 1]


def isotonic(percent: np.ndarray, label: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The rising step function of least squares."""
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0, y_max=100, out_of_bounds="clip").fit(percent, 100 * label)
    return lambda percents: model.predict(percents)


def halves(images: pd.Series, seed: int) -> pd.Series:
    """0 or 1 for each row, the same for all rows of an image, with half of the images in each (one may have one more).

    Which half depends on the seed and on which images there are, not on their order.
    """
    order = sorted(images.unique(), key=lambda name: (draw_seed(seed, "half", name), name))
    return images.map({name: at % 2 for at, name in enumerate(order)})


def _recalibrated(fit: Fit) -> Compute:
    """The spoken confidence of each half of the images through the map that was fitted on the other half.

    So no answer has a part in its own recalibration, and every question keeps its place in the comparison. Null where
    the other half holds no right, or no wrong, candidate with a confidence.
    """

    def compute(responses: pd.DataFrame, elicited: pd.DataFrame) -> pd.Series:
        out = pd.Series(np.nan, index=responses.index)
        spoken = responses.dropna(subset="verbalized")
        for _, rows in spoken.groupby(["split", "half"]):
            split, half = rows["split"].iloc[0], rows["half"].iloc[0]
            other = spoken[(spoken["split"] == split) & (spoken["half"] != half)]
            if other["label"].nunique() == 2:
                apply = fit(other["verbalized"].to_numpy(float), other["label"].to_numpy())
                out[rows.index] = np.clip(apply(rows["verbalized"].to_numpy(float)), 0, 100)
        return out

    return compute


# ------------------------------------------------------------------------------------------------------ all of them


METHODS: dict[str, Method] = {
    SPOKEN: Method(
        "spoken (the paper's)", "the paper, appendix A.2, read greedily",
        lambda responses, _: responses["verbalized"].astype(float)),
    "expected": Method(
        "spoken, expected", "ours: the mean of the exact distribution over 0 to 100 %",
        _elicited("third_person", "expected"), 'methods: "expected"'),
    "mean_of_draws": Method(
        "spoken, mean of draws", "Xiong et al. 2024 (arXiv 2306.13063), section 3: sampled confidences, averaged",
        _elicited("third_person", "sampled"), 'methods: "sampled"'),
    "first_person": Method(
        "spoken, first person", "prompt A.2 with the person changed (csp_utils/words/confidence_prompts.py)",
        _elicited("first_person", "greedy"), 'prompts: "first_person"'),
    "few_shot": Method(
        "spoken, few-shot", "the paper, appendix A.2 (csp_utils/words/confidence_prompts.py)",
        _elicited("few_shot", "greedy"), 'prompts: "few_shot"'),
    "own_answer": Method(
        "answer, then confidence", "Xiong et al. 2024 (arXiv 2306.13063); the other answer gets the rest of 100 %",
        _own_answer, 'prompts: "answer_then_confidence"'),
    "token_probability": Method(
        "token probability", "probability of the answer's first token, normalised over Yes and No: the paper's "
        "internal confidence (Kumar et al. 2024, arXiv 2405.16282)",
        lambda responses, _: 100 * responses["internal"]),
    "p_true": Method(
        "P(True)", "Kadavath et al. 2022 (arXiv 2207.05221), section 3", _elicited("p_true", "first_token"),
        'prompts: "p_true"'),
    "self_consistency": Method(
        "self-consistency", "Wang et al. 2023 (arXiv 2203.11171); as a confidence: Xiong et al. 2024 (arXiv "
        "2306.13063): the share of sampled plain answers", _share("sampled"), 'methods: "sampled"'),
    "agreement": Method(
        "agreement under blur", "Zhang et al. 2024 (VL-Uncertainty, arXiv 2411.11919), with its blurred images, "
        "without its paraphrased questions, and the share of answers in place of their entropy", _share("blurred"),
        "blurs"),
    "temperature": Method(
        "spoken + temperature", "Guo et al. 2017 (arXiv 1706.04599), fitted on the other half of the images",
        _recalibrated(temperature)),
    "platt": Method(
        "spoken + Platt", "Platt 1999, fitted on the other half of the images", _recalibrated(platt)),
    "isotonic": Method(
        "spoken + isotonic", "Zadrozny and Elkan 2002, fitted on the other half of the images",
        _recalibrated(isotonic)),
}  # fmt: skip
"""Every method by its name in the tables, the paper's first."""


def scores(responses: pd.DataFrame, elicitations: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The confidences by every method that was elicited.

    Args:
        responses: as in :mod:`csp_utils.measures.metrics`, of one or more variants.
        elicitations: as :func:`csp_utils.asking.elicitation_table.elicitations_table` returns it.
        seed: which images are in which half.

    Returns:
        the rows of ``responses`` once for each method, with the column method, and verbalized as float percent.
    """
    frames = []
    responses = responses.reset_index(drop=True).assign(half=halves(responses["image"], seed).to_numpy())
    for variant, part in responses.groupby("variant", sort=False):
        elicited = elicitations[elicitations["variant"] == variant]
        for name, method in METHODS.items():
            values = method.compute(part, elicited)
            if values is not None:
                frames.append(part.assign(method=name, verbalized=values.astype(float)))
    return pd.concat(frames, ignore_index=True).drop(columns="half")


def left_out(scored: pd.DataFrame) -> dict[str, str]:
    """The methods that no variant has, and the parameter of notebook 06 that elicits them."""
    return {name: method.needs for name, method in METHODS.items() if name not in set(scored["method"])}
