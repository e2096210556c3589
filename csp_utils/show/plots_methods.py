"""Several ways to get a confidence side by side, drawn from the saved table, with its caption."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from csp_utils.measures.methods import METHODS
from csp_utils.show.captions import number
from csp_utils.show.plots import PAGE, for_paper, named, style, variants_of

SHOWN = {"acc": ("accuracy", +1), "auc": ("AUC", +1), "ece": ("ECE", -1), "aurc": ("AURC", -1)}
"""Metric -> name, and +1 if higher is better, -1 if lower is."""


def _methods(table: pd.DataFrame) -> list[str]:
    return [name for name in METHODS if (table["method"] == name).any()]


@for_paper
def methods(table: pd.DataFrame, split: str) -> Figure:
    """One panel a metric, one line a method, one marker a variant with its 95 % interval.

    Args:
        table: values of :func:`csp_utils.measures.metrics.compute_methods`, one model.
    """
    part = table[table["split"] == split]
    names, variants = _methods(part), variants_of(part)
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(PAGE, 0.34 * len(names) + 1.0), sharey=True,
                                layout="constrained")  # fmt: skip
    for axis, (metric, (title, sign)) in zip(axes, SHOWN.items(), strict=True):
        rows = part[part["metric"] == metric].set_index(["variant", "method"])
        for position, variant in enumerate(variants):
            color, _, marker, _ = style(variant, position)
            for y, method in enumerate(names):
                row = rows.loc[(variant, method)] if (variant, method) in rows.index else None
                if row is None or pd.isna(row["value"]):
                    continue
                at = y + 0.24 * (position - (len(variants) - 1) / 2)
                low, high = (float(row[name]) if not pd.isna(row[name]) else np.nan for name in ("ci_low", "ci_high"))
                axis.plot([low, high], [at, at], color=color, linewidth=1.2)
                axis.plot(float(row["value"]), at, marker, color=color, markersize=4.5, markeredgecolor="black",
                          markeredgewidth=0.4, label=named(variant) if y == 0 else None, clip_on=False)  # fmt: skip
        for y in range(1, len(names)):
            axis.axhline(y - 0.5, color="#dddddd", linewidth=0.5)
        for y, method in enumerate(names):
            if rows.xs(method, level="method")["value"].isna().all():
                axis.text(0.5, y, "undefined", fontsize=7, ha="center", va="center")
        axis.set(title=f"{title} {'↑' if sign > 0 else '↓'}", xlim=(-0.02, 1.02))
        axis.set_xticks([0, 0.5, 1])
    axes[0].set_yticks(range(len(names)), [METHODS[name].name for name in names])
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def caption(table: pd.DataFrame, split: str) -> str:
    """The caption of :func:`methods`, with the values that are drawn (their intervals stand in the table)."""
    part = table[table["split"] == split]
    found = part.set_index(["method", "metric", "variant"])["value"].sort_index()
    variants = variants_of(part)
    said = []
    for method in _methods(part):
        values = []
        for metric, (name, _) in SHOWN.items():
            own = [number(found.get((method, metric, variant)), decimals=2) for variant in variants]
            values.append(f"{name} {' / '.join(own) if set(own) != {'undefined'} else 'undefined'}")
        said.append(f"{METHODS[method].name}: {', '.join(values)}")
    questions = int(part.loc[part["metric"] == "acc", "n"].max())
    return (
        f"Several ways to get a confidence from {part['model'].iloc[0]}, on the same {questions} questions of "
        f"{named(split)}; ↑ higher, ↓ lower is better. Recalibrated confidences of one half of the images are fitted "
        f"on the other half. Bars: 95 % bootstrap intervals over images. {' / '.join(map(named, variants))}, by "
        f"method: {'. '.join(said)}."
    )
