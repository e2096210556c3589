"""Figures of the metrics: bars, paired differences, risk and coverage, and other confidences, with their captions."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from csp_utils.base.wording import ARROWS, SPLITS, in_order, listed, metric, name_of, number, value_of
from csp_utils.measures.methods import METHODS
from csp_utils.show import style

BARS = ("acc", "f1", "auc", "brier", "ece", "tie_rate")
PLAIN = ("accuracy", "precision", "recall", "f1")
METHOD_METRICS = ("acc", "auc", "ece", "aurc")
VERDICTS = {"better": (style.BETTER, "o"), "worse": (style.WORSE, "X"), "unclear": (style.UNCLEAR, "d")}
"""Colour and marker of a difference, so that it is readable in grey as well."""
_PAIRS = {"auc", "brier", "ece", "parse_failure_rate", "spearman", "kendall"}  # over pairs, not over questions


# -------------------------------------------------------------------------------------------------------------- bars


@style.for_paper
def bars(metrics: pd.DataFrame, split: str, names: tuple[str, ...] = BARS) -> Figure:
    """Draw figure 4 of the paper: the variants of one split, one group of bars a metric, with 95 % intervals.

    Args:
        metrics: table of :func:`csp_utils.measures.metrics.compute`, one model.
        names: metrics to show.
    """
    part = metrics[metrics["split"] == split]
    figure, axis = plt.subplots(figsize=(style.PAGE, 2.6), layout="constrained")
    _grouped(axis, part, names)
    axis.set_title(f"{part['model'].iloc[0]}, {name_of(split)}", parse_math=False)  # a name may hold dollar signs
    axis.set(ylim=(0, 1.02))
    _bar_legend(figure, axis)
    return figure


@style.for_paper
def plain_answers(plain: pd.DataFrame) -> Figure:
    """Draw figure 5 of the paper: accuracy, precision, recall and F1 of the plain answers, one panel a split."""
    splits = list(dict.fromkeys(plain["split"]))
    figure, axes = plt.subplots(1, len(splits), figsize=(style.PAGE, 2.4), sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    for axis, split in zip(axes[0], splits, strict=True):
        _grouped(axis, plain[plain["split"] == split], PLAIN)
        axis.set(title=name_of(split), ylim=(0, 1.02))
        plt.setp(axis.get_xticklabels(), rotation=60, ha="right", rotation_mode="anchor")
    _bar_legend(figure, axes[0, 0])
    return figure


def _grouped(axis: Axes, table: pd.DataFrame, names: tuple[str, ...]) -> None:
    """Draw bars by metric and variant with intervals; an undefined value is written, not drawn as zero."""
    variants = style.variants_of(table)
    table = table.assign(value=table["value"].astype(float))
    sns.barplot(table, x="metric", y="value", hue="variant", order=names, hue_order=variants, errorbar=None, width=0.8,
                palette=[style.of(v, i)[0] for i, v in enumerate(variants)], saturation=1, edgecolor="black",
                linewidth=0.5, legend=False, ax=axis)  # fmt: skip
    for container, (position, variant) in zip(axis.containers, enumerate(variants), strict=True):
        plt.setp(container.patches, hatch=style.of(variant, position)[3])
        container.set_label(name_of(variant))
        rows = table[table["variant"] == variant].set_index("metric").reindex(names)
        at = np.arange(len(names)) + (position - (len(variants) - 1) / 2) * 0.8 / len(variants)
        style.error_bars(axis, at, rows)
        axis.plot([at, at], rows[["ci_low", "ci_high"]].to_numpy(float).T, "_", color="black", markersize=3)  # caps
        for x in at[rows["value"].isna()]:
            axis.text(x, 0.02, "undefined", rotation=90, fontsize=7, ha="center", va="bottom")
    axis.set_xticks(range(len(names)), [name_of(name) for name in names])
    axis.set(xlabel="", ylabel="")


def _bar_legend(figure: Figure, axis: Axes) -> None:
    """Draw one legend for all panels, above them, where no bar can be."""
    entries, labels = axis.get_legend_handles_labels()
    figure.legend(entries, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def bars_caption(metrics: pd.DataFrame, split: str, names: tuple[str, ...] = BARS) -> str:
    """Write the caption of :func:`bars`, with every value that is drawn."""
    rows = metrics[(metrics["split"] == split) & metrics["metric"].isin(names)]
    found, parts = style.cells(rows), []
    for name in names:
        values = [f"{text} {value_of(found.get((*key, split, name)))}" for key, text in style.who(rows).items()]
        parts.append(f"{name_of(name)} (n = {style.counts_of(rows, name)}): {', '.join(values)}")
    sides = {word: [name_of(n) for n in names if metric(n).better == sign]
             for word, sign in (("higher", 1), ("lower", -1))}  # fmt: skip
    better = ", and ".join(f"{word} is better for {listed(of)}" for word, of in sides.items() if of)
    pairs = [name_of(name) for name in names if name in _PAIRS]
    return (
        f"The variants of {style.models_of(rows)} on {name_of(split)}, as figure 4 of {style.PAPER}: {better}. n "
        f"counts questions{f' (of {listed(pairs)}: question and candidate pairs)' if pairs else ''}."
        f"{' Ties are questions whose two candidates got the same confidence.' if 'tie_rate' in names else ''}"
        f"{style.brackets(rows)} {'; '.join(parts)}."
    )


def plain_answers_caption(plain: pd.DataFrame) -> str:
    """Write the caption of :func:`plain_answers`: accuracy with intervals, the rest without."""
    rows = plain[plain["metric"].isin(PLAIN)]
    found, parts, neither = style.cells(plain), [], []
    for split in dict.fromkeys(rows["split"]):
        values = []
        for model, variant in style.who(rows):
            unread = found.get((model, variant, split, "parse_failure_rate"))
            if unread is not None and unread.value > 0:
                neither.append(f"{name_of(variant)} on {name_of(split)} {100 * unread.value:.1f} %")
            first, *others = (found.get((model, variant, split, name)) for name in PLAIN)
            rest = " / ".join(number(row.value if row is not None else None) for row in others)
            values.append(f"{name_of(variant)} {value_of(first)} / {rest}")
        count = style.counts_of(rows[rows["split"] == split], "accuracy")
        parts.append(f"{name_of(split)} (n = {count}): {', '.join(values)}")
    return (
        f"The plain answers, to the question without a word about confidence, as figure 5 of {style.PAPER}: "
        "calibration should not cost answers, so no variant should fall below the base."
        f"{' Error bars: 95 % bootstrap intervals over images.' if style.brackets(rows) else ''} Numbers: accuracy"
        f"{' [its interval]' if style.brackets(rows) else ''} / precision / recall / F1, over n questions. "
        f"{'Neither Yes nor No, which counts as wrong: ' + ', '.join(neither) + '. ' if neither else ''}"
        f"{'; '.join(parts)}."
    )


# ------------------------------------------------------------------------------------------------------- differences


def differences(judged: pd.DataFrame, names: tuple[str, ...]) -> Figure:
    """Draw what one variant changes against another: one panel a metric, one line a split, each with its interval.

    Args:
        judged: table of :func:`csp_utils.show.tables.verdicts`, one model.
        names: metrics to show.
    """
    splits = in_order(judged["split"], SPLITS)
    judged = judged.assign(y=judged["split"].map(splits.index), diff=judged["diff"].astype(float))
    figure, axes = plt.subplots(1, len(names), figsize=(2.05 * len(names) + 0.8, 0.42 * len(splits) + 1.4),
                                sharey=True, layout="constrained")  # fmt: skip
    for axis, name in zip(axes, names, strict=True):
        axis.axvline(0, color="black", linewidth=0.8)
        rows = judged[judged["metric"] == name]
        known = rows[rows["verdict"] != "undefined"]
        for y in rows.loc[rows["verdict"] == "undefined", "y"]:
            axis.text(0, y, "undefined", fontsize=8, ha="center", va="center", backgroundcolor="white")
        colours = {verdict: colour for verdict, (colour, _) in VERDICTS.items()}
        style.error_bars(axis, known["y"], known, vertical=False, color=known["verdict"].map(colours), linewidth=2)
        sns.scatterplot(known, x="diff", y="y", hue="verdict", style="verdict", palette=colours, s=60, linewidth=0,
                        markers={verdict: marker for verdict, (_, marker) in VERDICTS.items()}, legend=False, zorder=3,
                        ax=axis)  # fmt: skip
        reach = max(0.05, *np.abs(axis.get_xlim()))
        axis.set(xlim=(-reach, reach), xlabel=f"better {'→' if metric(name).better > 0 else '←'}", ylabel="")
        axis.set_title(metric(name).heading or metric(name).name, fontsize=11)
        axis.grid(axis="x", color="#e5e8eb", linewidth=0.6)
        axis.xaxis.set_major_locator(MaxNLocator(3, symmetric=True, prune="both"))
        axis.tick_params(axis="x", labelsize=8)
    axes[0].set_yticks(range(len(splits)), [name_of(split) for split in splits])
    axes[0].set_ylim(len(splits) - 0.5, -0.5)
    plt.close(figure)
    return figure


def differences_caption(a: str, b: str) -> str:
    """Write the caption of :func:`differences` of ``b`` minus ``a``."""
    return (f"{name_of(b)} minus {name_of(a)}. Green dots: better; red crosses: worse; grey diamonds: not clear. "
            "Bars: 95 % intervals.")  # fmt: skip


# ------------------------------------------------------------------------------------------------- risk and coverage


@style.for_paper
def risk_coverage(curves: pd.DataFrame, split: str) -> Figure:
    """Draw the share of wrong answers among the surest questions, by variant, one panel a model.

    A model that is surest where it is right has a curve that is low on the left. A level curve means that confidence
    does not separate right from wrong answers.

    Args:
        curves: table of :func:`csp_utils.measures.selective.risk_coverage_table`.
    """
    part = curves[curves["split"] == split]
    models = list(dict.fromkeys(part["model"]))
    figure, axes = plt.subplots(1, len(models), figsize=(style.COLUMN * len(models), 3.1), sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    for axis, model in zip(axes[0], models, strict=True):
        panel = part[part["model"] == model]
        variants, areas = style.variants_of(panel), panel.groupby("variant")["aurc"].first()
        style.lines(axis, panel.dropna(subset="risk"), "coverage", "risk", variants, linewidth=1.8, markersize=5,
              markevery=(9, 20), clip_on=False)  # fmt: skip
        labels = {v: f"{name_of(v)}: no question with two parsed confidences" if np.isnan(areas[v])
                  else f"{name_of(v)}: AURC {areas[v]:.2f}" for v in variants}  # fmt: skip
        axis.set_title(f"{model}, {name_of(split)}", parse_math=False)
        axis.set(xlim=(0, 1.01), ylim=(0, None))
        axis.set(xlabel="coverage (share of the questions, the surest first)", ylabel="risk (share of wrong answers)")
        axis.margins(y=0.15)
        axis.legend(handles=style.handles(labels, variants), loc="lower center", bbox_to_anchor=(0.5, 1.08),
                    frameon=False)  # fmt: skip
    return figure


def risk_coverage_caption(curves: pd.DataFrame, measures: pd.DataFrame, split: str) -> str:
    """Write the caption of :func:`risk_coverage`.

    Args:
        measures: table of :func:`csp_utils.measures.metrics.compute_measures`, of the same responses: intervals and n.
    """
    rows = measures[(measures["split"] == split) & measures["metric"].isin(["aurc", "accuracy_at_80"])]
    last = curves[(curves["split"] == split) & (curves["coverage"] == 1)].set_index(["model", "variant"])["risk"]
    risks = [f"{name} {number(last.get(key))}" for key, name in style.who(rows).items()]
    return (
        f"Risk and coverage of {style.models_of(rows)} on {name_of(split)}; not a figure of {style.PAPER}. "
        "Coverage is the share of the questions that are answered, those with the highest confidence first; risk is "
        "the share of wrong answers among them. An answer is the candidate with the higher verbalized confidence, and "
        "this number is its confidence. A curve that is low on the left belongs to a model that is surest where it is "
        "right; a level curve, to a model whose confidence does not separate right from wrong. AURC is the area under "
        f"the curve, lower is better. n = {style.counts_of(rows, 'aurc')} questions with two parsed confidences. Risk "
        f"where all of them are answered: {', '.join(risks)}.{style.brackets(rows)} "
        + style.values_of(rows, (("aurc", "AURC"), ("accuracy_at_80", "accuracy on the surest 80 %")))
    )


# ------------------------------------------------------------------------------------------------ other confidences


def _methods_of(table: pd.DataFrame) -> list[str]:
    return [name for name in METHODS if (table["method"] == name).any()]


@style.for_paper
def methods(table: pd.DataFrame, split: str) -> Figure:
    """Draw several ways to get a confidence: one panel a metric, one line a method, one marker a variant.

    Args:
        table: values of :func:`csp_utils.measures.metrics.compute_methods`, one model.
    """
    part = table[table["split"] == split]
    names, variants = _methods_of(part), style.variants_of(part)
    part = part.assign(y=part["method"].map(names.index), value=part["value"].astype(float))
    figure, axes = plt.subplots(1, len(METHOD_METRICS), figsize=(style.PAGE, 0.34 * len(names) + 1.0), sharey=True,
                                layout="constrained")  # fmt: skip
    for axis, name in zip(axes, METHOD_METRICS, strict=True):
        rows = part[part["metric"] == name]
        for position, variant in enumerate(variants):
            colour, _, marker, _ = style.of(variant, position)
            own = rows[(rows["variant"] == variant) & rows["value"].notna()]
            at = own["y"] + 0.24 * (position - (len(variants) - 1) / 2)
            style.error_bars(axis, at, own, vertical=False, color=colour, linewidth=1.2)
            sns.scatterplot(x=own["value"], y=at, marker=marker, color=colour, s=20, edgecolor="black", linewidth=0.4,
                            clip_on=False, zorder=3, ax=axis)  # fmt: skip
        for y in range(1, len(names)):
            axis.axhline(y - 0.5, color="#dddddd", linewidth=0.5)
        for y in set(range(len(names))) - set(rows.loc[rows["value"].notna(), "y"]):
            axis.text(0.5, y, "undefined", fontsize=7, ha="center", va="center")
        axis.set(title=metric(name).name + ARROWS[metric(name).better], xlim=(-0.02, 1.02), xlabel="", ylabel="")
        axis.set_xticks([0, 0.5, 1])
    axes[0].set_yticks(range(len(names)), [METHODS[name].name for name in names])
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    style.variant_legend(figure, variants)
    return figure


def methods_caption(table: pd.DataFrame, split: str) -> str:
    """Write the caption of :func:`methods`, with the values that are drawn (the table has their intervals)."""
    part = table[table["split"] == split]
    found = part.set_index(["method", "metric", "variant"])["value"].sort_index()
    variants, parts = style.variants_of(part), []
    for method in _methods_of(part):
        values = []
        for name in METHOD_METRICS:
            own = [number(found.get((method, name, variant)), decimals=2) for variant in variants]
            values.append(f"{metric(name).name} {' / '.join(own) if set(own) != {'undefined'} else 'undefined'}")
        parts.append(f"{METHODS[method].name}: {', '.join(values)}")
    questions = int(part.loc[part["metric"] == "acc", "n"].max())
    return (
        f"Several ways to get a confidence from {part['model'].iloc[0]}, on the same {questions} questions of "
        f"{name_of(split)}; ↑ higher, ↓ lower is better. Recalibrated confidences of one half of the images are fitted "
        f"on the other half. Bars: 95 % bootstrap intervals over images. {' / '.join(map(name_of, variants))}, by "
        f"method: {'. '.join(parts)}."
    )
