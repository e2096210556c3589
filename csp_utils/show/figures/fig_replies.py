"""Figures of replies that were measured without a model, each with its caption; drawn from the saved tables alone."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from csp_utils.base.wording import counted, with_interval
from csp_utils.show import style

OVER, UNDER = style.WRONG, style.STYLE["sft"][0]
"""Colours of the gaps of bins in which the model is too sure, and not sure enough."""
ERRORS = {"ece": "ECE", "smece": "smECE", "signed_error": "signed error"}


@style.for_paper
def reliability(bins: pd.DataFrame, read: pd.DataFrame) -> Figure:
    """Draw the reliability diagram, and below it how often each confidence stands for right and for wrong answers.

    Args:
        bins: ``reliability`` of :func:`csp_utils.replies.measure.measure`.
        read: the replies, with columns confidence (percent) and correct; rows that lack one are left out.
    """
    filled = bins[bins["n"] > 0]
    figure, (axis, below) = plt.subplots(2, 1, figsize=(1.25 * style.COLUMN, 4.6), height_ratios=[3, 1], sharex=True,
                                         layout="constrained")  # fmt: skip
    axis.plot([0, 1], [0, 1], color="black", linewidth=0.6)
    over = filled["confidence"] > filled["accuracy"]
    axis.vlines(filled["confidence"], filled["accuracy"], filled["confidence"], linewidth=2.5, alpha=0.7,
                color=np.where(over, OVER, UNDER))  # fmt: skip
    style.error_bars(axis, filled["confidence"].to_numpy(float), filled)
    share = filled["n"] / max(1, filled["n"].sum())
    sns.scatterplot(x=filled["confidence"], y=filled["accuracy"], size=share, sizes=(15, 145), size_norm=(0, 1),
                    color=style.STYLE["csp"][0], edgecolor="black", zorder=3, legend=False, ax=axis)  # fmt: skip
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), ylabel="share of right answers", xlabel="")
    axis.text(0.03, 0.97, "not sure enough", va="top", color=UNDER)
    axis.text(0.97, 0.03, "too sure", ha="right", color=OVER)
    rows = read.dropna(subset=["confidence", "correct"])
    rows = pd.DataFrame({"confidence": rows["confidence"].to_numpy(float) / 100,
                         "answer": np.where(rows["correct"].to_numpy(float) == 1, "right", "wrong")})  # fmt: skip
    sns.histplot(rows, x="confidence", hue="answer", hue_order=["wrong", "right"], multiple="stack",
                 palette=[style.WRONG, style.RIGHT], bins=np.linspace(-0.025, 1.025, 22), alpha=1, edgecolor="black",
                 linewidth=0.4, ax=below)  # fmt: skip
    sns.move_legend(below, "upper left", title=None)
    below.set(xlabel="confidence", ylabel="answers")
    return figure


def reliability_caption(bins: pd.DataFrame, measures: pd.DataFrame, over: str) -> str:
    """Write the caption of :func:`reliability`, with the calibration errors; ``over``: what was resampled."""
    found = measures.set_index("metric")
    values = ", ".join(f"{name} {with_interval(*found.loc[key, ['value', 'ci_low', 'ci_high']])}"
                       for key, name in ERRORS.items())  # fmt: skip
    return (f"Top: share of right answers against the mean confidence, in {counted(len(bins), 'bin')} of equal width. "
            "On the diagonal confidence can be taken at its word; below it, it is too high. A larger dot stands for "
            f"more answers, a thick line is the gap, and a thin line the 95 % interval over {over}. Bottom: how often "
            f"each confidence occurs. {counted(int(bins['n'].sum()), 'answer')}; {values}.")  # fmt: skip


@style.for_paper
def risk_coverage(curve: pd.DataFrame) -> Figure:
    """Draw the share of wrong answers among the surest answers, against their share, with its interval."""
    figure, axis = plt.subplots(figsize=(1.25 * style.COLUMN, 2.6), layout="constrained")
    axis.fill_between(curve["coverage"], curve["ci_low"], curve["ci_high"], color=style.STYLE["base"][0], alpha=0.4)
    sns.lineplot(curve, x="coverage", y="risk", color=style.STYLE["csp"][0], estimator=None, errorbar=None, ax=axis)
    axis.axhline(curve["risk"].iloc[-1], color="black", linewidth=0.6, linestyle=":")
    axis.set(xlim=(0, 1), ylim=(0, None), xlabel="share of answers that are given, the surest first",
             ylabel="share of them that is wrong")  # fmt: skip
    return figure


def risk_coverage_caption(curve: pd.DataFrame, measures: pd.DataFrame, over: str) -> str:
    """Write the caption of :func:`risk_coverage`; ``over``: what was resampled."""
    found = measures.set_index("metric")
    area = with_interval(*found.loc["aurc", ["value", "ci_low", "ci_high"]])
    return ("Share of wrong answers if only the surest answers are given. A confidence that tells right from wrong "
            "answers makes the line fall to the left; one that does not leaves it at the dotted line, the error of all "
            f"answers. Grey: 95 % interval over {over}. Area under the line (AURC): {area}.")  # fmt: skip
