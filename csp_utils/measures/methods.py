"""Other ways to get a confidence, on the same questions as the spoken one, so that they can be measured side by side.

Each method is a few lines over the table of responses (:mod:`csp_utils.measures.metrics`) and the table of elicitations
(:mod:`csp_utils.asking.tables`). A method that was not elicited has no rows. A question for which a method has no value
is null, and the measures count it as such.
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from csp_utils.measures.metrics import SPOKEN
from csp_utils.measures.recalibration import Fit, fit_isotonic, fit_platt, fit_temperature, image_halves, recalibrate
from csp_utils.models.vlm.reply import CANDIDATES

KEY = ["model", "variant", "split", "question_id", "candidate"]

Compute = Callable[[pd.DataFrame, pd.DataFrame], pd.Series | None]
"""(responses of one variant with the column half, its elicitations) -> percents (0..100) in the order of the responses,
null where there is none; None if the method was not elicited."""


class Method(NamedTuple):
    """A way to get a confidence for every (question, candidate)."""

    name: str
    """Its name in figures and in the report's tables."""
    source: str
    compute: Compute
    needs: str = ""
    """The parameter of notebook 06 that elicits it; "" if the paper's protocol is enough."""


# ------------------------------------------------------------------------------------------ how methods are computed


def _in_order(responses: pd.DataFrame, values: pd.Series) -> pd.Series:
    """Look up ``values``, indexed by :data:`KEY`, in the order of the responses; null where there is none."""
    return pd.Series(values.reindex(pd.MultiIndex.from_frame(responses[KEY])).to_numpy(float), index=responses.index)


def _of(elicited: pd.DataFrame, prompt: str, method: str) -> pd.DataFrame:
    return elicited[(elicited["prompt"] == prompt) & (elicited["method"] == method)]


def _elicited(prompt: str, method: str) -> Compute:
    """Use the value of one prompt and method; of several draws, their mean."""

    def compute(responses: pd.DataFrame, elicited: pd.DataFrame) -> pd.Series | None:
        part = _of(elicited, prompt, method)
        return None if part.empty else _in_order(responses, part.groupby(KEY)["value"].mean())

    return compute


def _own_answer(responses: pd.DataFrame, elicited: pd.DataFrame) -> pd.Series | None:
    """Use the confidence in the answer that the model gave itself; the other answer gets the rest of 100 %."""
    part = _of(elicited, "answer_then_confidence", "greedy")
    if part.empty:
        return None
    part = part.dropna(subset="candidate")
    other = part.assign(candidate=part["candidate"].map(dict(zip(CANDIDATES, CANDIDATES[::-1], strict=True))),
                        value=100 - part["value"])  # fmt: skip
    return _in_order(responses, pd.concat([part, other]).set_index(KEY)["value"])


def _share(method: str) -> Compute:
    """Use the share of the candidate among the plain answers by ``method`` that say Yes or No."""

    def compute(responses: pd.DataFrame, elicited: pd.DataFrame) -> pd.Series | None:
        part = _of(elicited, "plain", method)
        if part.empty:
            return None
        votes = part.dropna(subset="candidate").groupby(KEY).size().unstack("candidate", fill_value=0)
        votes = votes.reindex(columns=CANDIDATES, fill_value=0)
        return _in_order(responses, (100 * votes.div(votes.sum(axis=1), axis=0)).stack())

    return compute


def _recalibrated(fit: Fit) -> Compute:
    """Use the spoken confidence, corrected by a map that was fitted on the other half of the images."""
    return lambda responses, _: recalibrate(responses, fit)


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
        _recalibrated(fit_temperature)),
    "platt": Method(
        "spoken + Platt", "Platt 1999, fitted on the other half of the images", _recalibrated(fit_platt)),
    "isotonic": Method(
        "spoken + isotonic", "Zadrozny and Elkan 2002, fitted on the other half of the images",
        _recalibrated(fit_isotonic)),
}  # fmt: skip
"""Every method by its name in the tables, the paper's first."""


def confidences_by_method(responses: pd.DataFrame, elicitations: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Compute the confidences by every method that was elicited.

    Args:
        responses: as in :mod:`csp_utils.measures.metrics`, of one or more variants.
        elicitations: of :func:`csp_utils.asking.tables.elicitations_table`.
        seed: decides which images are in which half for recalibration.

    Returns:
        the rows of ``responses`` once for each method, with the column method, and verbalized as float percent.
    """
    frames = []
    halves = image_halves(responses["image"].reset_index(drop=True), seed)
    responses = responses.reset_index(drop=True).assign(half=halves)
    for variant, part in responses.groupby("variant", sort=False):
        elicited = elicitations[elicitations["variant"] == variant]
        for name, method in METHODS.items():
            values = method.compute(part, elicited)
            if values is not None:
                frames.append(part.assign(method=name, verbalized=values.astype(float)))
    return pd.concat(frames, ignore_index=True).drop(columns="half")


def missing_methods(by_method: pd.DataFrame) -> dict[str, str]:
    """Name the methods that no variant has: method -> the parameter of notebook 06 that elicits it."""
    return {name: method.needs for name, method in METHODS.items() if name not in set(by_method["method"])}
