"""Calibration figures: ROC curves and reliability diagrams, each with its caption."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from csp_utils.base.wording import VARIANTS, in_order, name_of
from csp_utils.measures.calibration import auc, brier, ece, reliability, roc
from csp_utils.show import style


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
        column[0].set(title=f"{model}, {name_of(split)}", xlabel="false positive rate", ylabel="true positive rate")
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


# ------------------------------------------------------------------------------------------- pictures of the README


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
