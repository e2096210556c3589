"""Figures of the confidences themselves, verbalized and internal, each with its caption."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from csp_utils.base.wording import name_of, number, value_of
from csp_utils.show import style

ANSWERS = {1: "right answers", 0: "wrong answers"}
NUMBERS_CAPTION = (
    "How often each number is said about right and about wrong answers. A calibrated model says high numbers about "
    "right answers and low ones about wrong answers."
)


def verbalized_numbers(responses: pd.DataFrame, model: str) -> Figure:
    """Draw how often each variant says which number about right and about wrong answers, over all splits."""
    part = responses[responses["model"] == model].dropna(subset="verbalized")
    part = part.assign(verbalized=part["verbalized"].astype(float), answer=part["label"].map(ANSWERS))
    variants = style.variants_of(part)
    figure, axes = plt.subplots(1, len(variants), figsize=(3.7 * len(variants), 3), sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    for axis, variant in zip(axes[0], variants, strict=True):
        sns.histplot(part[part["variant"] == variant], x="verbalized", hue="answer", hue_order=list(ANSWERS.values()),
                     palette=[style.RIGHT, style.WRONG], bins=np.arange(-2.5, 103, 5), stat="proportion",
                     common_norm=False, multiple="dodge", shrink=0.85, alpha=1, edgecolor="black", linewidth=0.4,
                     legend=axis is axes[0, 0], ax=axis)  # fmt: skip
        axis.set(title=name_of(variant), xlabel="verbalized confidence (%)", xlim=(-5, 105), ylim=(0, 1.02))
    axes[0, 0].set_ylabel("share of the replies")
    if axes[0, 0].get_legend():
        sns.move_legend(axes[0, 0], "upper left", title=None, fontsize=8)
    plt.close(figure)
    return figure


def likelier(responses: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return the row of the candidate with the higher internal probability, for each variant and question with one."""
    part = responses[responses["split"] == split].dropna(subset="internal")
    return part.sort_values("internal").groupby(["variant", "question_id"], sort=False).tail(1)


@style.for_paper
def token_probabilities(responses: pd.DataFrame, split: str) -> Figure:
    """Draw figure 6 of the paper: how sure the first answer token is, one panel a variant.

    Shown is the probability of the likelier candidate after the plain question, of the right and of the wrong answers.
    """
    part = likelier(responses, split)
    part = part.assign(answer=part["label"].map(ANSWERS))
    variants = style.variants_of(part)
    figure, axes = plt.subplots(1, len(variants), figsize=(style.PAGE, 2.5), sharex=True, sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    for axis, variant in zip(axes[0], variants, strict=True):
        rows = part[part["variant"] == variant]
        sns.histplot(rows, x="internal", hue="answer", hue_order=list(ANSWERS.values())[::-1], multiple="stack",
                     palette=[style.STYLE["csp"][0], "#d4d4d4"], bins=np.linspace(0.5, 1, 21), alpha=1,
                     edgecolor="black", linewidth=0.4, legend=False, ax=axis)  # fmt: skip
        axis.axvline(rows["internal"].mean(), color="black", linestyle="--", linewidth=1)
        right, wrong = (rows["label"] == 1).sum(), (rows["label"] == 0).sum()
        axis.set(title=f"{name_of(variant)}\n{right} right, {wrong} wrong", xlabel="", xticks=[0.5, 0.75, 1])
    axes[0, 0].set_ylabel(f"questions of\n{name_of(split)}")
    figure.supxlabel("probability of the likelier answer", fontsize=style.LETTERS["font.size"])
    shapes = [plt.Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor="black", linewidth=0.4, label=label)
              for colour, label in zip(("#d4d4d4", style.STYLE["csp"][0]), ANSWERS.values(), strict=True)]  # fmt: skip
    mean = plt.Line2D([], [], color="black", linestyle="--", linewidth=1, label="mean of all")
    figure.legend(handles=[*shapes, mean], loc="outside upper center", ncols=3, frameon=False)
    return figure


def token_probabilities_caption(responses: pd.DataFrame, split: str) -> str:
    """Write the caption of :func:`token_probabilities`, with the means of right and of wrong answers."""
    part, means = likelier(responses, split), []
    for variant in style.variants_of(part):
        rows = part[part["variant"] == variant]
        right, wrong = (rows.loc[rows["label"] == label, "internal"] for label in (1, 0))
        means.append(f"{name_of(variant)} {number(rows['internal'].mean())} ({len(right)} right: "
                     f"{number(right.mean())}, {len(wrong)} wrong: {number(wrong.mean())})")  # fmt: skip
    return (
        f"How sure the first token of the plain answer is on {name_of(split)}, as figure 6 of {style.PAPER}: the "
        "probability of the likelier of Yes and No, normalized over the two, by whether that answer is right (light) "
        "or wrong (dark). An overconfident model has its wrong answers at the far right. "
        f"{style.questions_of(responses[responses['split'] == split])}. Mean probability: {'; '.join(means)}."
    )


@style.for_paper
def correlation(responses: pd.DataFrame) -> Figure:
    """Draw internal against verbalized confidence, one panel a variant and split; darker cells hold more pairs."""
    part = responses.dropna(subset=["internal", "verbalized"])
    variants, splits = style.variants_of(responses), list(dict.fromkeys(responses["split"]))
    figure, axes = plt.subplots(
        len(variants), len(splits), figsize=(style.PAGE, 1.35 * len(variants) + 0.4), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for i, variant in enumerate(variants):
        for axis, split in zip(axes[i], splits, strict=True):
            cell = part[(part["variant"] == variant) & (part["split"] == split)]
            x, y = cell["internal"].to_numpy(float), cell["verbalized"].to_numpy(float) / 100
            if len(cell):
                shade = LogNorm(0.3, max(len(cell) / 2, 1))  # the same in all panels of a size, and never white
                axis.hexbin(x, y, gridsize=14, extent=(0, 1, 0, 1), cmap="Greys", norm=shade, mincnt=1, linewidths=0.2)
            else:
                axis.text(0.72, 0.2, "no pair", ha="center")
            axis.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":")
            axis.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axes[i, 0].set_ylabel(f"{name_of(variant)}\nverbalized")
    for axis, split in zip(axes[0], splits, strict=True):
        axis.set_title(name_of(split))
    for axis in axes[-1]:
        axis.set_xlabel("internal")
    return figure


def correlation_caption(responses: pd.DataFrame, correlations: pd.DataFrame) -> str:
    """Write the caption of :func:`correlation`, with both rank correlations of every panel.

    Args:
        correlations: the rows spearman and kendall of the table of :func:`csp_utils.measures.metrics.compute`.
    """
    rows = correlations[correlations["metric"].isin(["spearman", "kendall"])]
    found, parts = style.cells(rows), []
    for split in dict.fromkeys(responses["split"]):
        values = []
        for model, variant in style.who(rows):
            rho, tau = (found.get((model, variant, split, metric)) for metric in ("spearman", "kendall"))
            values.append(f"{name_of(variant)} ρ {value_of(rho)}, τ {number(tau.value if tau is not None else None)}")
        asked = style.questions_of(responses[responses["split"] == split])
        count = style.counts_of(rows[rows["split"] == split], "spearman")
        parts.append(f"{name_of(split)} ({asked}, n = {count}): {'; '.join(values)}")
    return (
        "Internal confidence (probability of the candidate as the first token of the plain answer) against verbalized "
        f"confidence. Not a figure of {style.PAPER}: its table 2 has these correlations. A darker hexagon holds more "
        "of the n question and candidate pairs; on the dotted line both confidences agree. Spearman's rank correlation "
        f"ρ and Kendall's τ-b: 1 is the same order, 0 no relation.{style.brackets(rows)} {'. '.join(parts)}."
    )
