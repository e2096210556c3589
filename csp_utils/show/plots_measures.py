"""What the further measures mean, and their figure: from saved tables only, readable in grey, as csp_utils.show.plots."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from csp_utils.show.plots import COLUMN, NAMES, above, for_paper, style

EXPLAINED: dict[str, dict[str, tuple[str, int, str]]] = {
    "Answers by spoken confidence": {
        "precision": ("precision", +1, "how many of the answers of F1's positive class are right"),
        "recall": ("recall", +1, "how many of the questions of that class got this answer"),
    },
    "Telling right from wrong candidates": {
        "auprc_right": ("AUPRC, right", +1, "area under the precision-recall curve of finding right candidates by high "
                        "confidence; chance is their share"),
        "auprc_wrong": ("AUPRC, wrong", +1, "the same of finding wrong candidates by low confidence"),
    },
    "Squared and logarithmic error": {
        "brier_reliability": ("Brier: reliability", -1, "squared gap between what is said and how often it is right"),
        "brier_resolution": ("Brier: resolution", +1, "how far the numbers tell candidates apart; the Brier score is "
                             "reliability − resolution + uncertainty"),
        "brier_uncertainty": ("Brier: uncertainty", 0, "share right times share wrong: a property of the questions, "
                              "neither good nor bad"),
        "log_score": ("log score", -1, "mean −ln of the probability given to the truth, between 0 and 5.3 "
                      "(confidences are clipped to 0.5 and 99.5 %)"),
    },
    "Calibration error": {
        "ece_10_right": ("ECE, 10 bins, right", -1, "mean gap between confidence and share right, over bins of equal "
                         "width that hold their right edge"),
        "ece_10_left": ("ECE, 10 bins, left", -1, "the same with bins that hold their left edge"),
        "ece_15_right": ("ECE, 15 bins, right", -1, "the same with 15 narrower bins, right edge"),
        "ece_15_left": ("ECE, 15 bins, left", -1, "the same with 15 narrower bins, left edge"),
        "adaptive_ece": ("adaptive ECE", -1, "the same with bins of equally many pairs"),
        "smece": ("smECE", -1, "calibration error smoothed over all confidences, without bins"),
        "mce": ("MCE", -1, "the largest gap of a bin, however few pairs it holds"),
        "signed_error": ("signed error", 0, "mean confidence minus share right; best at 0, above it too sure"),
        "overconfidence": ("overconfidence", -1, "the part of the ECE that comes from bins that are too sure"),
        "underconfidence": ("underconfidence", -1, "the part of the ECE from bins that are not sure enough"),
    },
    "Answering only where it is sure": {
        "aurc": ("AURC", -1, "mean share of wrong answers when the surest questions are answered first"),
        "accuracy_at_80": ("accuracy at 80 %", +1, "accuracy on the 80 % of the questions with most confidence"),
    },
}  # fmt: skip
"""Group -> measure -> name, +1 if higher is better, -1 if lower is, 0 if neither, and what it is in a line."""


@for_paper
def risk_coverage(curves: pd.DataFrame, split: str) -> Figure:
    """The risk of the most confident share of the questions, by variant, one panel per model.

    A model that knows what it does not know has a curve that is low on the left. A level curve says that its confidence
    does not tell right answers from wrong ones.

    Args:
        curves: table of :func:`csp_utils.measures.metrics.risk_coverage_table`.
    """
    part = curves[curves["split"] == split]
    models = list(dict.fromkeys(part["model"]))
    figure, axes = plt.subplots(1, len(models), figsize=(COLUMN * len(models), 3.1), sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    for axis, model in zip(axes[0], models, strict=True):
        panel = part[part["model"] == model]
        variants = set(panel["variant"])
        for position, variant in enumerate([v for v in NAMES if v in variants] + sorted(variants - set(NAMES))):
            rows, name = panel[panel["variant"] == variant], NAMES.get(variant, variant)
            if rows["risk"].isna().all():
                axis.plot([], [], " ", label=f"{name}: no question with two parsed confidences")
                continue
            color, line, marker, _ = style(variant, position)
            axis.plot(rows["coverage"], rows["risk"], color=color, linestyle=line, linewidth=1.8, marker=marker,
                      markevery=(9 + 3 * position, 20), markersize=5, markeredgecolor="black", markeredgewidth=0.5,
                      clip_on=False, zorder=above(position),
                      label=f"{name}: AURC {rows['aurc'].iloc[0]:.2f}")  # fmt: skip
        axis.set(title=f"{model}, {NAMES.get(split, split)}", xlim=(0, 1.01), ylim=(0, None))
        axis.set_xlabel("coverage (share of the questions, the surest first)")
        axis.margins(y=0.15)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), frameon=False)  # above, where no curve is
    axes[0, 0].set_ylabel("risk (share of wrong answers)")
    return figure
