"""Figures of the further measures, drawn from saved tables only and readable in grey, as :mod:`csp_utils.plots`."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from csp_utils.cells import Cell, Protocol
from csp_utils.measures import aurc
from csp_utils.measures import risk_coverage as curve_of
from csp_utils.plots import NAMES, style


def risk_coverage_table(responses: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """The risk-coverage curves of all models, variants and splits.

    Args:
        responses: as in :mod:`csp_utils.metrics`.

    Returns:
        model, variant, split, coverage, risk (see :func:`csp_utils.measures.risk_coverage`) and aurc, the area of the
        curve; 100 rows for each curve, risk and aurc null where no question had two parsed confidences.
    """
    curves = []
    for (model, variant, split), rows in responses.groupby(["model", "variant", "split"], sort=False):
        counts = Cell(rows, protocol).predictions.sum(0)
        names = {"model": model, "variant": variant, "split": split}
        curves.append(curve_of(counts).assign(**names, aurc=float(aurc(counts))))
    return pd.concat(curves, ignore_index=True)[["model", "variant", "split", "coverage", "risk", "aurc"]]


def risk_coverage(curves: pd.DataFrame, split: str) -> Figure:
    """The risk of the most confident share of the questions, by variant, one panel per model.

    A model that knows what it does not know has a curve that is low on the left. A level curve says that its confidence
    does not tell right answers from wrong ones.

    Args:
        curves: table of :func:`risk_coverage_table`.
    """
    part = curves[curves["split"] == split]
    models = list(dict.fromkeys(part["model"]))
    figure, axes = plt.subplots(1, len(models), figsize=(4.4 * len(models) + 0.4, 3.8), sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    for axis, model in zip(axes[0], models, strict=True):
        panel, undefined = part[part["model"] == model], []
        variants = set(panel["variant"])
        for position, variant in enumerate([v for v in NAMES if v in variants] + sorted(variants - set(NAMES))):
            rows, name = panel[panel["variant"] == variant], NAMES.get(variant, variant)
            if rows["risk"].isna().all():
                undefined.append(f"{name}: no question with two parsed confidences")
                continue
            color, line, marker, _ = style(variant, position)
            axis.plot(rows["coverage"], rows["risk"], color=color, linestyle=line, linewidth=1.8, marker=marker,
                      markevery=(9 + 3 * position, 20), markersize=5, markeredgecolor="black", markeredgewidth=0.5,
                      clip_on=False, label=f"{name}: AURC {rows['aurc'].iloc[0]:.2f}")  # fmt: skip
        if undefined:
            axis.text(0.03, 0.03, "\n".join(undefined), fontsize=8, transform=axis.transAxes)
        axis.set(title=f"{model}, {NAMES.get(split, split)}", xlim=(0, 1.01), ylim=(0, None), xlabel="coverage")
        axis.margins(y=0.15)
        if len(undefined) < len(variants):
            axis.legend(fontsize=8)
    axes[0, 0].set_ylabel("risk (share of wrong answers)")
    plt.close(figure)  # it is shown where a notebook cell ends in it, and not a second time
    return figure
