"""Figures of confidence and of its calibration, each with its caption."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from csp_utils.base.wording import VARIANTS, in_order, name_of, number, value_of
from csp_utils.measures.calibration import ece, reliability
from csp_utils.measures.scores import auc, brier, roc
from csp_utils.show import style

ANSWERS = {1: "right answers", 0: "wrong answers"}
NUMBERS_CAPTION = (
    "How often each number is said about right and about wrong answers. A calibrated model says high numbers about "
    "right answers and low ones about wrong answers."
)


@style.for_paper
def calibration(responses: pd.DataFrame, split: str, n_bins: int = 10, edges: str = "right") -> Figure:
    """Draw figure 3 (and 7 to 10) of the paper for one split: ROC curves, reliability, and the number of pairs a bin.

    One column per model. The area of a marker grows with the number of pairs in its bin: a bin of three pairs far from
    the diagonal is weak evidence.
    """
    part = responses[responses["split"] == split]
    models = list(dict.fromkeys(part["model"]))
    figure, axes = plt.subplots(
        3, len(models), figsize=(style.COLUMN * len(models), 7.2), height_ratios=[3, 3, 1], squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for column, model in zip(axes.T, models, strict=True):
        rows = part[part["model"] == model]
        counts = {v: style.pair_counts(rows[rows["variant"] == v]) for v in style.variants_of(rows)}
        bins = pd.concat([reliability(own, n_bins, edges).assign(variant=variant) for variant, own in counts.items()])
        _roc(column[0], counts)
        _reliability(column[1], bins, {variant: (float(ece(own, n_bins, edges)), float(brier(own)))
                                       for variant, own in counts.items() if own.sum()}, list(counts))  # fmt: skip
        _counts(column[2], bins, list(counts), n_bins)
        for axis in column[:2]:
            axis.plot([0, 1], [0, 1], color="black", linewidth=0.4, zorder=1)
            axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        column[0].set_title(f"{model}, {name_of(split)}", parse_math=False)  # a name may hold dollar signs
        column[0].set(xlabel="false positive rate", ylabel="true positive rate")
        column[1].set(xlabel="", ylabel="fraction right", xticklabels=[])  # the panel below has the numbers
        column[2].set(xlim=(-0.03, 1.03), xlabel="verbalized confidence", ylabel="pairs", yscale="symlog")
        column[2].set(ylim=(0, 3 * max([1, *(bar.get_height() for bar in column[2].patches)])))
    return figure


def _roc(axis: Axes, counts: dict[str, np.ndarray]) -> None:
    areas = {variant: area for variant, own in counts.items() if not np.isnan(area := float(auc(own)))}
    if areas:
        curves = pd.concat([roc(counts[variant]).assign(variant=variant) for variant in areas])
        style.lines(axis, curves, "fpr", "tpr", list(counts), markers=False, linewidth=2.2)
    labels = {v: f"{name_of(v)}: AUC {area:.2f}" for v, area in areas.items()}
    _legend(axis, labels, list(counts), False, loc="lower right")


def _reliability(axis: Axes, bins: pd.DataFrame, scores: dict[str, tuple[float, float]], variants: list[str]) -> None:
    filled = bins[bins["n"] > 0]
    filled = filled.assign(share=filled["n"] / filled.groupby("variant")["n"].transform("sum"))
    style.lines(axis, filled, "confidence", "accuracy", variants, markers=False, linewidth=1.2)
    if scores:
        sns.scatterplot(
            filled, x="confidence", y="accuracy", hue="variant", style="variant", hue_order=variants,
            style_order=variants, palette=[style.of(v, i)[0] for i, v in enumerate(variants)],
            markers=[style.of(v, i)[2] for i, v in enumerate(variants)], size="share", sizes=(15, 145),
            size_norm=(0, 1), alpha=0.7, edgecolor="black", zorder=3, legend=False, ax=axis,
        )  # fmt: skip
    labels = {v: f"{name_of(v)}: ECE {error:.2f}, Brier {score:.2f}" for v, (error, score) in scores.items()}
    _legend(axis, labels, variants, True, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)


def _legend(axis: Axes, labels: dict[str, str], variants: list[str], markers: bool, **where: object) -> None:
    if labels:
        axis.legend(handles=style.handles(labels, variants, markers), **where)
    else:
        axis.text(0.5, 0.5, "no confidence was parsed", ha="center", backgroundcolor="white")


def _counts(axis: Axes, bins: pd.DataFrame, variants: list[str], n_bins: int) -> None:
    middle = bins.assign(middle=(bins["low"] + bins["high"]) / 200)
    sns.histplot(middle, x="middle", weights="n", bins=list(np.linspace(0, 1, n_bins + 1)), hue="variant",
                 hue_order=variants, palette=[style.of(v, i)[0] for i, v in enumerate(variants)], multiple="dodge",
                 shrink=0.9, alpha=1, edgecolor="black", linewidth=0.4, legend=False, ax=axis)  # fmt: skip
    for bars, (position, variant) in zip(axis.containers, reversed(list(enumerate(variants))), strict=True):
        plt.setp(bars.patches, hatch=style.of(variant, position)[3])


def calibration_caption(responses: pd.DataFrame, metrics: pd.DataFrame, split: str, n_bins: int = 10,
                        edges: str = "right") -> str:  # fmt: skip
    """Write the caption of :func:`calibration`, with AUC, ECE and Brier score of each model and variant.

    Args:
        metrics: table of :func:`csp_utils.measures.metrics.compute`, of the same responses, bins and edges.
    """
    part, rows = responses[responses["split"] == split], metrics[metrics["split"] == split]
    return (
        f"Calibration of {style.models_of(part)} on {name_of(split)}, as figures 3 and 7 to 10 of {style.PAPER}. Top: "
        "ROC curves, right against wrong candidates by their verbalized confidence; the diagonal is the chance level. "
        f"Middle: share of right candidates against mean verbalized confidence, in {n_bins} bins of equal width that "
        f"contain their {edges} edge. On the diagonal the model is calibrated, below it the model is too sure; a "
        f"larger marker stands for more pairs. Bottom: pairs in each bin (logarithmic). {style.questions_of(part)}, "
        f"two candidates each; {_parsed(part)}.{style.brackets(rows)} "
        + style.values_of(rows, (("auc", "AUC"), ("ece", "ECE"), ("brier", "Brier score")))
    )


def _parsed(part: pd.DataFrame) -> str:
    """Count the confidences that could not be parsed, by variant."""
    read = [(name, part[(part["model"] == model) & (part["variant"] == variant)]["verbalized"])
            for (model, variant), name in style.who(part).items()]  # fmt: skip
    failures = [f"{int(v.isna().sum())} of {len(v)} of {name}" for name, v in read if v.isna().any()]
    if not failures:
        return "all their confidences were parsed"
    return f"confidences that were not parsed, and are left out: {', '.join(failures)}"


# ------------------------------------------------------------------------------------------------- confidences


def verbalized_numbers(responses: pd.DataFrame, model: str) -> Figure:
    """Draw how often each variant says which number about right and about wrong answers, over all splits."""
    part = responses[responses["model"] == model]
    variants = style.variants_of(part)  # also one of whose replies none was read
    part = part.dropna(subset="verbalized")
    part = part.assign(verbalized=part["verbalized"].astype(float), answer=part["label"].map(ANSWERS))
    read = style.variants_of(part)
    figure, axes = plt.subplots(1, len(variants), figsize=(3.7 * len(variants), 3), sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    for axis, variant in zip(axes[0], variants, strict=True):
        if variant not in read:
            axis.text(50, 0.5, "no reply could be read", ha="center", va="center")
            axis.set(title=name_of(variant), xlim=(-5, 105), ylim=(0, 1.02))
            continue
        sns.histplot(part[part["variant"] == variant], x="verbalized", hue="answer", hue_order=list(ANSWERS.values()),
                     palette=[style.RIGHT, style.WRONG], bins=np.arange(-2.5, 103, 5), stat="proportion",
                     common_norm=False, multiple="dodge", shrink=0.85, alpha=1, edgecolor="black", linewidth=0.4,
                     legend=variant == read[0], ax=axis)  # fmt: skip
        axis.set(title=name_of(variant), xlabel="verbalized confidence (%)", xlim=(-5, 105), ylim=(0, 1.02))
    axes[0, 0].set_ylabel("share of the replies")
    for axis in axes[0]:
        if axis.get_legend():
            sns.move_legend(axis, "upper left", title=None, fontsize=8)
    plt.close(figure)
    return figure


def likelier_answers(responses: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return the row of the candidate with the higher internal probability, for each variant and question with one."""
    part = responses[responses["split"] == split].dropna(subset="internal")
    return part.sort_values("internal").groupby(["variant", "question_id"], sort=False).tail(1)


@style.for_paper
def token_probabilities(responses: pd.DataFrame, split: str) -> Figure:
    """Draw figure 6 of the paper: how sure the first answer token is, one panel a variant.

    Shown is the probability of the likelier candidate after the plain question, of the right and of the wrong answers.
    """
    part = likelier_answers(responses, split)
    part = part.assign(answer=part["label"].map(ANSWERS))
    variants = style.variants_of(responses[responses["split"] == split])  # also one that never begins with Yes or No
    figure, axes = plt.subplots(1, len(variants), figsize=(style.PAGE, 2.5), sharex=True, sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    for axis, variant in zip(axes[0], variants, strict=True):
        rows = part[part["variant"] == variant]
        if rows.empty:
            axis.text(0.75, 0.5, "no internal\nconfidence", ha="center", transform=axis.get_xaxis_transform())
            axis.set(title=name_of(variant), xlabel="", xticks=[0.5, 0.75, 1])
            continue
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
    part, means = likelier_answers(responses, split), []
    for variant in style.variants_of(responses[responses["split"] == split]):
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
        questions = style.questions_of(responses[responses["split"] == split])
        count = style.counts_of(rows[rows["split"] == split], "spearman")
        parts.append(f"{name_of(split)} ({questions}, n = {count}): {'; '.join(values)}")
    return (
        "Internal confidence (probability of the candidate as the first token of the plain answer) against verbalized "
        f"confidence. Not a figure of {style.PAPER}: its table 2 has these correlations. A darker hexagon holds more "
        "of the n question and candidate pairs; on the dotted line both confidences agree. Spearman's rank correlation "
        f"ρ and Kendall's τ-b: 1 is the same order, 0 no relation.{style.brackets(rows)} {'. '.join(parts)}."
    )


# ------------------------------------------------------------------------------------------- images of the README


def reliability_guide(responses: pd.DataFrame, model: str, split: str) -> Figure:
    """Draw the reliability diagrams of base and of the last variant, with the gaps: how to read such a diagram."""
    part = responses[(responses["model"] == model) & (responses["split"] == split)]
    variants = in_order(part["variant"], VARIANTS)
    chosen = list(dict.fromkeys([variants[0], variants[-1]]))
    figure, axes = plt.subplots(1, len(chosen), figsize=(4.6 * len(chosen), 4.6), squeeze=False, layout="constrained")
    for axis, variant in zip(axes[0], chosen, strict=True):
        counts = style.pair_counts(part[part["variant"] == variant])
        bins = reliability(counts).query("n > 0")
        axis.plot([0, 1], [0, 1], color="black", linewidth=0.9)
        axis.text(0.17, 0.21, "perfectly calibrated", rotation=45, fontsize=9, rotation_mode="anchor")
        axis.text(0.97, 0.03, "too sure", ha="right", fontsize=11, color=style.WORSE)
        axis.text(0.03, 0.94, "not sure enough", fontsize=11, color=style.STYLE["csp"][0])
        axis.vlines(bins["confidence"], bins["confidence"], bins["accuracy"], color=style.WORSE, linewidth=1.6,
                    alpha=0.75)  # fmt: skip
        axis.scatter(bins["confidence"], bins["accuracy"], s=40 + 420 * bins["n"] / bins["n"].sum(),
                     color=style.RIGHT, edgecolor="black", zorder=3)  # fmt: skip
        axis.set_title(f"{name_of(variant)}, {name_of(split)}: ECE {float(ece(counts)):.2f}")
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="mean verbalized confidence of the bin")
    axes[0, 0].set_ylabel("share of right answers in the bin")
    plt.close(figure)
    return figure


def small_diagram(axis: Axes, responses: pd.DataFrame, variant: str) -> None:
    """Draw a small reliability diagram of one variant, for the README's overview."""
    counts = style.pair_counts(responses[responses["variant"] == variant])
    bins = 100 * reliability(counts).query("n > 0").set_index("n")[["confidence", "accuracy"]]
    bins = bins.reset_index().assign(variant=variant)
    axis.plot([0, 100], [0, 100], color="black", linewidth=0.8)
    style.lines(axis, bins, "confidence", "accuracy", [variant], markers=False, linewidth=1.3)
    axis.scatter(bins["confidence"], bins["accuracy"], s=30 + 300 * bins["n"] / bins["n"].sum(),
                 color=style.of(variant)[0], marker=style.of(variant)[2], edgecolor="black", zorder=3)  # fmt: skip
    axis.set(xlim=(-3, 103), ylim=(-3, 103), xlabel="confidence (%)", ylabel="right (%)", aspect="equal",
             title=f"{name_of(variant)}: ECE {float(ece(counts)):.2f}")  # fmt: skip
