"""The paper's figures, drawn from saved tables only.

Variants differ in lightness, line and marker, so that the figures are readable in grey.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from csp_utils.artifacts import whole_file
from csp_utils.calibration import auc, brier, ece, histogram, reliability, roc

STYLE = {  # variant: colour (light to dark), line, marker, hatch
    "base": ("#a6a6a6", ":", "o", ""),
    "sft": ("#4aa3c7", "--", "s", "//"),
    "csp": ("#0b2f5b", "-", "^", ""),
}
NAMES = {
    "base": "base", "sft": "SFT", "csp": "SFT + SimPO",
    "pope_random": "POPE random", "pope_popular": "POPE popular", "pope_adversarial": "POPE adversarial",
    "amber_attribute": "AMBER attribute", "amber_relation": "AMBER relation",
    "acc": "accuracy", "f1": "F1", "auc": "AUC", "brier": "Brier score", "ece": "ECE", "tie_rate": "ties",
}  # fmt: skip
_OTHERS = (("#d98c3f", "-.", "D", "xx"), ("#7a5195", (0, (1, 1)), "v", ".."), ("#3b7a57", (0, (5, 1)), "P", "\\\\"))


def style(variant: str, position: int = 0) -> tuple:
    """(colour, line style, marker, hatch) of a variant; `position` chooses among further ones (ablations)."""
    return STYLE.get(variant, _OTHERS[position % len(_OTHERS)])


def _name(key: str) -> str:
    return NAMES.get(key, key)


def _variants(table: pd.DataFrame) -> list[str]:
    """The variants of a table, base, sft, csp first."""
    found = list(dict.fromkeys(table["variant"]))
    return [v for v in STYLE if v in found] + [v for v in found if v not in STYLE]


def pair_counts(responses: pd.DataFrame) -> np.ndarray:
    """(2, 101) counts of (label, percent) over the candidate pairs whose confidence was parsed."""
    parsed = responses.dropna(subset="verbalized")
    return histogram(parsed["verbalized"].to_numpy(int), parsed["label"].to_numpy(int))[0]


def save(figure: Figure, folder: Path, name: str, suffix: str = "png") -> Path:
    """Write ``<folder>/<name>.<suffix>`` (png: 150 dpi; pdf and svg work too) and return its path."""
    path = Path(folder) / f"{name}.{suffix}"
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return path


def calibration(responses: pd.DataFrame, split: str, n_bins: int = 10, edges: str = "right") -> Figure:
    """Figure 3 (and 7 to 10) of the paper for one split: ROC above, reliability below, and how many pairs a bin holds.

    One column per model. The area of a marker grows with the number of pairs in its bin: a bin of three pairs far from
    the diagonal says little.
    """
    part = responses[responses["split"] == split]
    models = list(dict.fromkeys(part["model"]))
    figure, axes = plt.subplots(
        3, len(models), figsize=(4.2 * len(models) + 0.6, 10), height_ratios=[3, 3, 1], squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for column, model in zip(axes.T, models, strict=True):
        rows = part[part["model"] == model]
        for position, variant in enumerate(_variants(rows)):
            counts = pair_counts(rows[rows["variant"] == variant])
            _roc(column[0], counts, variant, position)
            _reliability(column[1], counts, variant, position, n_bins, edges)
            _counts(column[2], counts, variant, position, len(_variants(rows)), n_bins, edges)
        for axis in column[:2]:
            axis.plot([0, 1], [0, 1], color="black", linewidth=0.5, zorder=1)
            axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), box_aspect=1)
        _legend(column[0], loc="lower right")
        _legend(column[1], loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)  # above, where no point is
        column[0].set(title=f"{model}, {_name(split)}", xlabel="false positive rate", ylabel="true positive rate")
        column[1].set(xlabel="verbalised confidence", ylabel="fraction right")
        column[2].set(xlim=(-0.03, 1.03), xlabel="verbalised confidence", ylabel="pairs", yscale="symlog")
        column[2].set(box_aspect=0.3, ylim=(0, None))
        column[2].margins(y=0.2)
    return _finish(figure)


def _roc(axis: Axes, counts: np.ndarray, variant: str, position: int) -> None:
    color, line, _, _ = style(variant, position)
    area = float(auc(counts))
    if not np.isnan(area):
        curve = roc(counts)
        label = f"{_name(variant)}: AUC {area:.2f}"
        axis.plot(curve["fpr"], curve["tpr"], color=color, linestyle=line, linewidth=1.8, label=label)


def _reliability(axis: Axes, counts: np.ndarray, variant: str, position: int, n_bins: int, edges: str) -> None:
    color, line, marker, _ = style(variant, position)
    bins = reliability(counts, n_bins, edges)
    bins = bins[bins["n"] > 0]
    if bins.empty:
        return
    label = f"{_name(variant)}: ECE {float(ece(counts, n_bins, edges)):.2f}, Brier {float(brier(counts)):.2f}"
    axis.plot(bins["confidence"], bins["accuracy"], color=color, linestyle=line, linewidth=1.2, label=label)
    sizes = 20 + 180 * bins["n"] / bins["n"].sum()
    axis.scatter(bins["confidence"], bins["accuracy"], s=sizes, color=color, marker=marker, edgecolor="black", zorder=3)


def _legend(axis: Axes, **where: object) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, **where)
    else:
        axis.text(0.5, 0.5, "no confidence was parsed", ha="center", fontsize=9, backgroundcolor="white")


def _counts(
    axis: Axes, counts: np.ndarray, variant: str, position: int, n_variants: int, n_bins: int, edges: str
) -> None:
    color, _, _, hatch = style(variant, position)
    bins = reliability(counts, n_bins, edges)
    width = 0.9 / n_bins / n_variants
    left = (bins["low"] + bins["high"]) / 200 + (position - (n_variants - 1) / 2) * width
    axis.bar(left, bins["n"], width=width, color=color, hatch=hatch, edgecolor="black", linewidth=0.4)


def bars(metrics: pd.DataFrame, split: str, names: list[str] | None = None) -> Figure:
    """Figure 4 of the paper: the variants (and ablations) of one split, one group of bars per metric, with intervals.

    Args:
        metrics: table of :func:`csp_utils.metrics.compute`, one model.
        names: metrics to show.
    """
    names = names or ["acc", "f1", "auc", "brier", "ece", "tie_rate"]
    part = metrics[metrics["split"] == split]
    figure, axis = plt.subplots(figsize=(1.35 * len(names) + 1.5, 3.6), layout="constrained")
    _grouped(axis, part, names)
    axis.set(title=f"{part['model'].iloc[0]}, {_name(split)}", ylim=(0, 1.02))
    return _finish(figure)


def plain_answers(plain: pd.DataFrame) -> Figure:
    """Figure 5 of the paper: accuracy, precision, recall and F1 of the plain answers, one panel per split."""
    splits = list(dict.fromkeys(plain["split"]))
    names = ["accuracy", "precision", "recall", "f1"]
    figure, axes = plt.subplots(1, len(splits), figsize=(3 * len(splits) + 1.4, 3.3), sharey=True, squeeze=False,
                                layout="constrained")
    for axis, split in zip(axes[0], splits, strict=True):
        _grouped(axis, plain[plain["split"] == split], names)
        axis.set(title=_name(split), ylim=(0, 1.02))
        if axis is not axes[0, -1]:
            axis.get_legend().remove()
    return _finish(figure)


def _grouped(axis: Axes, table: pd.DataFrame, names: list[str]) -> None:
    """Bars by metric and variant with 95 % intervals; an undefined value is said, not drawn as zero."""
    variants = _variants(table)
    width = 0.8 / len(variants)
    for position, variant in enumerate(variants):
        color, _, _, hatch = style(variant, position)
        rows = table[table["variant"] == variant].set_index("metric").reindex(names)
        at = np.arange(len(names)) + (position - (len(variants) - 1) / 2) * width
        value = rows["value"].to_numpy(float)
        spread = np.abs(rows[["ci_low", "ci_high"]].to_numpy(float).T - value)
        axis.bar(at, value, width, color=color, hatch=hatch, edgecolor="black", linewidth=0.6, label=_name(variant))
        axis.errorbar(at, value, spread, fmt="none", color="black", capsize=2, linewidth=0.9)
        for x in at[np.isnan(value)]:
            axis.text(x, 0.02, "undefined", rotation=90, fontsize=7, ha="center", va="bottom")
    axis.set_xticks(range(len(names)), [_name(name) for name in names], rotation=20)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))  # beside the axes, where no bar can be


def token_probabilities(responses: pd.DataFrame, split: str) -> Figure:
    """Figure 6 of the paper: how sure the first answer token is, before (left) and after (right).

    The probability of the likelier candidate after the plain question, of the right and of the wrong answers.
    """
    part = responses[(responses["split"] == split)].dropna(subset="internal")
    part = part.sort_values("internal").groupby(["variant", "question_id"], sort=False).tail(1)
    variants = _variants(part)
    figure, axes = plt.subplots(
        1, len(variants), figsize=(3.2 * len(variants) + 0.5, 3.2), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    edges = np.linspace(0.5, 1, 21)
    for axis, variant in zip(axes[0], variants, strict=True):
        rows = part[part["variant"] == variant]
        right, wrong = (rows.loc[rows["label"] == label, "internal"] for label in (1, 0))
        axis.hist(
            [right, wrong], bins=edges, stacked=True, color=["#c9c9c9", "#0b2f5b"], edgecolor="black", linewidth=0.4,
            label=[f"right ({len(right)})", f"wrong ({len(wrong)})"],
        )  # fmt: skip
        axis.axvline(rows["internal"].mean(), color="black", linestyle="--", linewidth=1)
        axis.set(title=_name(variant), xlabel="probability of the answer token")
        axis.legend(fontsize=8, loc="upper left")
    axes[0, 0].set_ylabel(f"questions of {_name(split)}")
    return _finish(figure)


def correlation(responses: pd.DataFrame) -> Figure:
    """Internal against verbalised confidence, one panel per variant and split; darker cells hold more pairs."""
    part = responses.dropna(subset=["internal", "verbalized"])
    variants, splits = _variants(responses), list(dict.fromkeys(responses["split"]))
    figure, axes = plt.subplots(
        len(variants), len(splits), figsize=(2.3 * len(splits) + 0.6, 2.3 * len(variants) + 0.4),
        sharex=True, sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for i, variant in enumerate(variants):
        for axis, split in zip(axes[i], splits, strict=True):
            cell = part[(part["variant"] == variant) & (part["split"] == split)]
            x, y = cell["internal"].to_numpy(float), cell["verbalized"].to_numpy(float) / 100
            if len(cell):
                shade = LogNorm(0.3, max(len(cell) / 2, 1))  # the same in all panels of a size, and never white
                axis.hexbin(x, y, gridsize=14, extent=(0, 1, 0, 1), cmap="Greys", norm=shade, mincnt=1, linewidths=0.2)
            axis.plot([0, 1], [0, 1], color="black", linewidth=0.5, linestyle=":")
            axis.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
        axes[i, 0].set_ylabel(f"{_name(variant)}\nverbalised")
    for axis, split in zip(axes[0], splits, strict=True):
        axis.set_title(_name(split), fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("internal")
    return _finish(figure)


def _finish(figure: Figure) -> Figure:
    plt.close(figure)  # it is shown where a notebook cell ends in it, and not a second time
    return figure
