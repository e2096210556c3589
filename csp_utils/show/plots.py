"""The paper's figures, drawn from saved tables only; :mod:`csp_utils.show.captions` has their captions.

Variants differ in lightness, line and marker, so that the figures are readable in grey. A figure is as wide as a column
or as the text of a paper, and its letters are as large as a caption's: it goes into a paper without being scaled.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from csp_utils.base.files import whole_file, write_text
from csp_utils.measures.calibration import ece, histogram, reliability
from csp_utils.measures.scores import auc, brier, roc

COLUMN, PAGE = 3.4, 7.0  # widths of a paper's column and of its text, in inches
_LETTERS = {"font.size": 8, "axes.titlesize": 9, "legend.fontsize": 7.5, "hatch.linewidth": 0.6}
STYLE = {  # variant: colour (light to dark), line, marker, hatch
    "base": ("#a6a6a6", ":", "o", ""),
    "sft": ("#3587ad", "--", "s", "////"),
    "csp": ("#0b2f5b", "-", "^", ""),
}
NAMES = {
    "base": "base", "sft": "SFT", "csp": "SFT + SimPO",
    "pope_random": "POPE random", "pope_popular": "POPE popular", "pope_adversarial": "POPE adversarial",
    "amber_attribute": "AMBER attribute", "amber_relation": "AMBER relation",
    "acc": "accuracy", "f1": "F1", "auc": "AUC", "brier": "Brier score", "ece": "ECE", "tie_rate": "ties",
}  # fmt: skip
BARS = ("acc", "f1", "auc", "brier", "ece", "tie_rate")
PLAIN = ("accuracy", "precision", "recall", "f1")
_OTHERS = (("#d98c3f", "-.", "D", "xx"), ("#7a5195", (0, (1, 1)), "v", ".."), ("#3b7a57", (0, (5, 1)), "P", "\\\\"))
_Arguments = ParamSpec("_Arguments")


def for_paper(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Makes a drawing function draw in a paper's letters, lay its figure out once and for all, and close it.

    Laid out anew at each saving, a figure would move by parts of a point, and its file would never be the same twice. A
    closed figure is shown where a notebook cell ends in it, and not a second time.
    """

    @wraps(draw)
    def drawn(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        with plt.rc_context(_LETTERS):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # makes the layout, and the ticks in these letters
        figure.set_layout_engine("none")
        plt.close(figure)
        return figure

    return drawn


def style(variant: str, position: int = 0) -> tuple:
    """(colour, line style, marker, hatch) of a variant; `position` chooses among further ones (ablations)."""
    return STYLE.get(variant, _OTHERS[position % len(_OTHERS)])


def above(position: int) -> float:
    """The zorder of a variant's line: where lines coincide, dots lie on dashes and these on a full line."""
    return 3 - position / 10


def named(key: str) -> str:
    """How figures and captions call a variant, a split or a metric."""
    return NAMES.get(key, key)


def variants_of(table: pd.DataFrame) -> list[str]:
    """The variants of a table, base, sft, csp first."""
    found = list(dict.fromkeys(table["variant"]))
    return [v for v in STYLE if v in found] + [v for v in found if v not in STYLE]


def pair_counts(responses: pd.DataFrame) -> np.ndarray:
    """(2, 101) counts of (label, percent) over the candidate pairs whose confidence was parsed."""
    parsed = responses.dropna(subset="verbalized")
    return histogram(parsed["verbalized"].to_numpy(int), parsed["label"].to_numpy(int))


def save(figure: Figure, folder: Path, name: str, caption: str) -> list[Path]:
    """Write ``<name>.png`` (150 dpi), ``<name>.pdf`` and ``<name>.md`` (the caption) into a folder, each whole.

    The PDF is vector graphics with its letters embedded as TrueType (publishers refuse matplotlib's default, Type 3);
    the caption is its Subject. It holds no date, so that the same figure gives the same bytes.

    Returns:
        the three paths.
    """
    png, pdf, text = (Path(folder) / f"{name}.{suffix}" for suffix in ("png", "pdf", "md"))
    for path, metadata in ((png, {}), (pdf, {"Subject": caption, "CreationDate": None})):
        with whole_file(path) as temporary, plt.rc_context({"pdf.fonttype": 42}):
            figure.savefig(temporary, dpi=150, metadata=metadata)
    write_text(caption + "\n", text)
    return [png, pdf, text]


@for_paper
def calibration(responses: pd.DataFrame, split: str, n_bins: int = 10, edges: str = "right") -> Figure:
    """Figure 3 (and 7 to 10) of the paper for one split: ROC above, reliability below, and how many pairs a bin holds.

    One column per model. The area of a marker grows with the number of pairs in its bin: a bin of three pairs far from
    the diagonal says little.
    """
    part = responses[responses["split"] == split]
    models = list(dict.fromkeys(part["model"]))
    figure, axes = plt.subplots(
        3, len(models), figsize=(COLUMN * len(models), 7.2), height_ratios=[3, 3, 1], squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for column, model in zip(axes.T, models, strict=True):
        rows = part[part["model"] == model]
        for position, variant in enumerate(variants_of(rows)):
            counts = pair_counts(rows[rows["variant"] == variant])
            _roc(column[0], counts, variant, position)
            _reliability(column[1], counts, variant, position, n_bins, edges)
            _counts(column[2], counts, variant, position, len(variants_of(rows)), n_bins, edges)
        for axis in column[:2]:
            axis.plot([0, 1], [0, 1], color="black", linewidth=0.4, zorder=1)
            axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        _legend(column[0], loc="lower right")
        _legend(column[1], loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)  # above, where no point is
        column[0].set(title=f"{model}, {named(split)}", xlabel="false positive rate", ylabel="true positive rate")
        column[1].set(ylabel="fraction right", xticklabels=[])  # the panel below has the same axis, with numbers
        column[2].set(xlim=(-0.03, 1.03), xlabel="verbalised confidence", ylabel="pairs", yscale="symlog")
        column[2].set(ylim=(0, 3 * max([1, *(bar.get_height() for bar in column[2].patches)])))
    return figure


def _roc(axis: Axes, counts: np.ndarray, variant: str, position: int) -> None:
    color, line, _, _ = style(variant, position)
    area = float(auc(counts))
    if not np.isnan(area):
        curve = roc(counts)
        axis.plot(curve["fpr"], curve["tpr"], color=color, linestyle=line, linewidth=2.4 - 0.3 * position,
                  zorder=above(position), label=f"{named(variant)}: AUC {area:.2f}")  # fmt: skip


def _reliability(axis: Axes, counts: np.ndarray, variant: str, position: int, n_bins: int, edges: str) -> None:
    color, line, marker, _ = style(variant, position)
    bins = reliability(counts, n_bins, edges)
    bins = bins[bins["n"] > 0]
    if bins.empty:
        return
    label = f"{named(variant)}: ECE {float(ece(counts, n_bins, edges)):.2f}, Brier {float(brier(counts)):.2f}"
    axis.plot(bins["confidence"], bins["accuracy"], color=color, linestyle=line, linewidth=1.2)
    sizes, face = 15 + 130 * bins["n"] / bins["n"].sum(), (color, 0.6)  # one behind another is seen through it
    axis.scatter(bins["confidence"], bins["accuracy"], s=sizes, color=face, marker=marker, edgecolor="black", zorder=3)
    axis.plot([], [], color=color, linestyle=line, marker=marker, markeredgecolor="black", markersize=5, label=label)


def _legend(axis: Axes, **where: object) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(**where)
    else:
        axis.text(0.5, 0.5, "no confidence was parsed", ha="center", backgroundcolor="white")


def _counts(
    axis: Axes, counts: np.ndarray, variant: str, position: int, n_variants: int, n_bins: int, edges: str
) -> None:
    color, _, _, hatch = style(variant, position)
    bins = reliability(counts, n_bins, edges)
    width = 0.9 / n_bins / n_variants
    left = (bins["low"] + bins["high"]) / 200 + (position - (n_variants - 1) / 2) * width
    axis.bar(left, bins["n"], width=width, color=color, hatch=hatch, edgecolor="black", linewidth=0.4)


@for_paper
def bars(metrics: pd.DataFrame, split: str, names: tuple[str, ...] = BARS) -> Figure:
    """Figure 4 of the paper: the variants (and ablations) of one split, one group of bars per metric, with intervals.

    Args:
        metrics: table of :func:`csp_utils.measures.metrics.compute`, one model.
        names: metrics to show.
    """
    part = metrics[metrics["split"] == split]
    figure, axis = plt.subplots(figsize=(PAGE, 2.6), layout="constrained")
    _grouped(axis, part, names)
    axis.set(title=f"{part['model'].iloc[0]}, {named(split)}", ylim=(0, 1.02))
    _shared_legend(figure, axis)
    return figure


@for_paper
def plain_answers(plain: pd.DataFrame) -> Figure:
    """Figure 5 of the paper: accuracy, precision, recall and F1 of the plain answers, one panel per split."""
    splits = list(dict.fromkeys(plain["split"]))
    figure, axes = plt.subplots(1, len(splits), figsize=(PAGE, 2.4), sharey=True, squeeze=False, layout="constrained")
    for axis, split in zip(axes[0], splits, strict=True):
        _grouped(axis, plain[plain["split"] == split], PLAIN)
        axis.set(title=named(split), ylim=(0, 1.02))
        plt.setp(axis.get_xticklabels(), rotation=60, ha="right", rotation_mode="anchor")
    _shared_legend(figure, axes[0, 0])
    return figure


def _grouped(axis: Axes, table: pd.DataFrame, names: tuple[str, ...]) -> None:
    """Bars by metric and variant with 95 % intervals; an undefined value is said, not drawn as zero."""
    variants = variants_of(table)
    width = 0.8 / len(variants)
    for position, variant in enumerate(variants):
        color, _, _, hatch = style(variant, position)
        rows = table[table["variant"] == variant].set_index("metric").reindex(names)
        at = np.arange(len(names)) + (position - (len(variants) - 1) / 2) * width
        value = rows["value"].to_numpy(float)
        spread = np.abs(rows[["ci_low", "ci_high"]].to_numpy(float).T - value)
        axis.bar(at, value, width, color=color, hatch=hatch, edgecolor="black", linewidth=0.5, label=named(variant))
        axis.errorbar(at, value, spread, fmt="none", color="black", capsize=1.5, linewidth=0.8)
        for x in at[np.isnan(value)]:
            axis.text(x, 0.02, "undefined", rotation=90, fontsize=7, ha="center", va="bottom")
    axis.set_xticks(range(len(names)), [named(name) for name in names])


def _shared_legend(figure: Figure, axis: Axes) -> None:
    """One legend for all panels, above them, where no bar can be."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def likelier(responses: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of the candidate with the higher internal probability, one per variant and question that has one."""
    part = responses[responses["split"] == split].dropna(subset="internal")
    return part.sort_values("internal").groupby(["variant", "question_id"], sort=False).tail(1)


@for_paper
def token_probabilities(responses: pd.DataFrame, split: str) -> Figure:
    """Figure 6 of the paper: how sure the first answer token is, before (left) and after (right).

    The probability of the likelier candidate after the plain question, of the right and of the wrong answers.
    """
    part = likelier(responses, split)
    variants = variants_of(part)
    figure, axes = plt.subplots(1, len(variants), figsize=(PAGE, 2.5), sharex=True, sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    for axis, variant in zip(axes[0], variants, strict=True):
        rows = part[part["variant"] == variant]
        right, wrong = (rows.loc[rows["label"] == label, "internal"] for label in (1, 0))
        axis.hist([right, wrong], bins=np.linspace(0.5, 1, 21), stacked=True, color=["#d4d4d4", "#0b2f5b"],
                  edgecolor="black", linewidth=0.4, label=["right answers", "wrong answers"])  # fmt: skip
        axis.axvline(rows["internal"].mean(), color="black", linestyle="--", linewidth=1, label="mean of all")
        axis.set(title=f"{named(variant)}\n{len(right)} right, {len(wrong)} wrong", xticks=[0.5, 0.75, 1])
    axes[0, 0].set_ylabel(f"questions of\n{named(split)}")
    figure.supxlabel("probability of the likelier answer", fontsize=_LETTERS["font.size"])
    _shared_legend(figure, axes[0, 0])
    return figure


@for_paper
def correlation(responses: pd.DataFrame) -> Figure:
    """Internal against verbalised confidence, one panel per variant and split; darker cells hold more pairs."""
    part = responses.dropna(subset=["internal", "verbalized"])
    variants, splits = variants_of(responses), list(dict.fromkeys(responses["split"]))
    figure, axes = plt.subplots(
        len(variants), len(splits), figsize=(PAGE, 1.35 * len(variants) + 0.4), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
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
        axes[i, 0].set_ylabel(f"{named(variant)}\nverbalised")
    for axis, split in zip(axes[0], splits, strict=True):
        axis.set_title(named(split))
    for axis in axes[-1]:
        axis.set_xlabel("internal")
    return figure
