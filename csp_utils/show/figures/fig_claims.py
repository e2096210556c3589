"""Figures of the claims: all eight at a glance, and how much of the effect each further arm keeps, with captions."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from csp_utils.base.wording import SPLITS, counted, metric, name_of, with_interval
from csp_utils.measures.arms import FULL
from csp_utils.measures.over_seeds import LEAST_SEEDS, UNTRAINED
from csp_utils.measures.verdicts import ABLATIONS, ADVERSARIAL, DOWN, NEARLY_NOTHING
from csp_utils.show import style

OUTCOMES = {"kept": "#0b2f5b", "open": "#8c8c8c", "broken": "#c4501b"}
MARKERS = dict(zip(SPLITS, "osD^v", strict=True))
VERDICTS = {"holds": "✓", "holds in part": "◐", "does not hold": "✗", "open": "?", "not tested": "–"}
ARMS = {"base": "base", "base/token_probability": "base: token probability", "base/p_true": "base: P(True)",
        f"{FULL}/sft": "SFT alone", "simpo_only": "SimPO alone", "global_noise": "global noise",
        "original_data": "original RLAIF-V", FULL: "SFT + SimPO"}  # fmt: skip
"""The arms of the paper, in the order in which they are shown."""
_RIGHT = "#e3efe3"  # where a criterion wants a point to be


def arm_name(arm: str) -> str:
    """Return the reader's name of an arm."""
    return ARMS.get(arm, arm.replace("_", " "))


@style.for_paper
def claims(verdicts: pd.DataFrame, checks: pd.DataFrame, differences: pd.DataFrame) -> Figure:
    """Draw eight panels, one a claim: its checks as points with their intervals.

    Claims 1 to 5 show their checks; the side that a criterion asks for is shaded. Better is always to the right, so
    gains of Brier score and ECE are drawn with the opposite sign (except in claim 1, which is about the base itself).
    Claims 6 to 8 show what the arm gains on POPE adversarial, beside the gain of the whole method.

    Args:
        verdicts, checks: of :func:`csp_utils.measures.verdicts.judge`.
        differences: of :func:`csp_utils.measures.over_seeds.differences`; arms minus the base.
    """
    figure, axes = plt.subplots(4, 2, figsize=(style.PAGE, 9.0), layout="constrained")
    for axis, claim in zip(axes.flat, verdicts.itertuples(), strict=True):
        n = claim.kept + claim.open + claim.broken
        verdict = f"{VERDICTS[claim.verdict]} {claim.verdict}" + (f": {claim.kept} of {n} checks" if n else "")
        axis.set_title(f"{claim.number}  {claim.title}\n{verdict}", loc="left", fontsize=8.5)
        own = checks[checks["number"] == claim.number]
        if own.empty:
            axis.text(0.5, 0.5, "not tested: an arm was not trained", ha="center", va="center",
                      transform=axis.transAxes)  # fmt: skip
            axis.set(xticks=[], yticks=[])
        elif claim.number == 1:
            _by_metric(axis, own, flip=False)
            low, high = axis.get_xlim()
            axis.set_xlim(min(-0.05, low), max(1.05, high))
        elif claim.number == 3:
            _by_split(axis, own)
        elif claim.number <= 5:
            _by_metric(axis, own, flip=True)
        else:
            _beside_full(axis, own, differences, ABLATIONS[claim.number])
    labels = ("value", "gain over the base", "change of accuracy", "gain over the base", "gain over SFT alone",
              *["gain over the base, POPE adversarial"] * 3)  # fmt: skip
    for axis, label in zip(axes.flat, labels, strict=True):
        axis.set_xlabel(label)
    figure.legend(handles=_legend(set(checks["split"])), loc="outside lower center", ncols=5, frameon=False)
    return figure


def _legend(splits: set[str]) -> list[Line2D | Patch]:
    black = {"color": "black", "linestyle": ""}
    shapes = [Line2D([], [], **black, marker=marker, markersize=4, label=name_of(split))
              for split, marker in MARKERS.items() if split in splits]  # fmt: skip
    full = Line2D([], [], **black, marker="D", markersize=6, markerfacecolor="none", label="SFT + SimPO (in 6 to 8)")
    colours = [Patch(color=colour, label=name) for name, colour in OUTCOMES.items()]
    return [*shapes, full, *colours, Patch(color=_RIGHT, label="where the claim wants it")]


def _point(axis: Axes, y: float, row, sign: int = 1) -> None:
    """Draw a check: its value and its interval."""
    if pd.isna(row.value):
        return
    colour = OUTCOMES[row.outcome]
    if not pd.isna(row.ci_low):
        axis.plot([sign * row.ci_low, sign * row.ci_high], [y, y], color=colour, linewidth=1.2, zorder=3)
    axis.plot(sign * row.value, y, MARKERS.get(row.split, "o"), color=colour, markersize=3.5, zorder=4)


def _rows(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.axvline(0, color="black", linewidth=0.5, zorder=2)


def _shade(axis: Axes, y: float, low: float, high: float) -> None:
    axis.fill_betweenx([y - 0.42, y + 0.42], low, high, color=_RIGHT, zorder=0, linewidth=0)


def _by_metric(axis: Axes, checks: pd.DataFrame, flip: bool) -> None:
    """Draw a row a metric, in it a point a split; the two aims of claim 2 have rows of their own."""
    groups = list(checks.groupby(["metric", "than"], sort=False))
    names = {("acc", 0.4): "accuracy ≥ 0.4", ("auc", 0.75): "AUC itself ≥ 0.75"}
    _rows(axis, [names.get(key, name_of(key[0])) if flip else name_of(key[0]) for key, _ in groups])
    for y, ((name, than), rows) in enumerate(groups):
        sign = -1 if flip and name in DOWN else 1
        better = sign * rows["sign"].iloc[0]
        _shade(axis, y, *((sign * than, 2) if better > 0 else (-2, sign * than)))
        for offset, row in zip(_offsets(len(rows)), rows.itertuples(), strict=True):
            _point(axis, y + offset, row, sign)
    _limits(axis, checks, flip)


def _by_split(axis: Axes, checks: pd.DataFrame) -> None:
    _rows(axis, [name_of(row.split) for row in checks.itertuples()])
    for y, row in enumerate(checks.itertuples()):
        _shade(axis, y, row.than, 2)
        _point(axis, y, row)
    _limits(axis, checks, False)


def _beside_full(axis: Axes, checks: pd.DataFrame, differences: pd.DataFrame, arm: str) -> None:
    """Draw what an arm gains over the base, and what the whole method gains."""
    against = differences[(differences["versus"] == "base") & (differences["split"] == ADVERSARIAL)]
    found = {(row.arm, row.metric): row for row in against.itertuples(index=False)}
    _rows(axis, [name_of(metric) for metric in checks["metric"]])
    ends = []
    for y, check in enumerate(checks.itertuples()):
        sign = -1 if check.metric in DOWN else 1
        own, full = found[arm, check.metric], found[FULL, check.metric]
        _shade(axis, y, -2, NEARLY_NOTHING * sign * full.value)
        axis.plot(sign * full.value, y, "D", color="black", markersize=6, markerfacecolor="none", zorder=4)
        if not pd.isna(full.ci_low):
            axis.plot([sign * full.ci_low, sign * full.ci_high], [y, y], color="black", linewidth=0.8, zorder=3)
        _point(axis, y, pd.Series(own._asdict() | {"outcome": check.outcome}), sign)
        ends += [sign * end for row in (own, full) for end in (row.value, row.ci_low, row.ci_high)]
    reached = pd.Series(ends, dtype=float)  # -0.25 to 1 at least, so that the three panels can be compared
    axis.set_xlim(min(-0.25, reached.min() - 0.02), max(1.0, reached.max() + 0.02))


def _offsets(n: int) -> list[float]:
    return [0.0] if n == 1 else [0.6 * (i / (n - 1) - 0.5) for i in range(n)]


def _limits(axis: Axes, checks: pd.DataFrame, flip: bool) -> None:
    """Make the axis as wide as the intervals and the limits of the criteria."""
    signs = checks["metric"].map(lambda metric: -1 if flip and metric in DOWN else 1)
    ends = pd.concat([signs * checks[name] for name in ("value", "ci_low", "ci_high", "than")] + [pd.Series([0.0])])
    low, high = ends.min(), ends.max()
    margin = 0.06 * (high - low) + 0.005
    axis.set_xlim(low - margin, high + margin)


def claims_caption(verdicts: pd.DataFrame, seeds: int, n_images: int) -> str:
    """Write the caption of :func:`claims`.

    Args:
        seeds: number of training seeds.
        n_images: number of test images.
    """
    held = "; ".join(f"{row.number} {row.verdict}" for row in verdicts.itertuples())
    bars = "bars are 95 % intervals over test images and trainings (claim 1: over test images only, since the base is "
    bars += "not trained)"
    if seeds < LEAST_SEEDS:
        bars = ("bars, of claim 1 alone, are 95 % intervals over test images only; an interval over trainings needs "
                f"{LEAST_SEEDS} seeds, so that the other claims stay open")  # fmt: skip
    return (
        f"The paper's eight claims, tested with {counted(seeds, 'training seed')} and {n_images} test "
        f"images: {held}. A point is a check, its shape the split; {bars}; green is where the claim wants the whole "
        "interval. The colour is a check's outcome, after Holm's correction unless the claim holds. Better is to the "
        "right, except in claim 1, which is about how bad the base is. Claims 6 to 8 want an arm to gain less than "
        f"{100 * NEARLY_NOTHING:.0f} % of what SFT + SimPO gains (open diamonds)."
    )


@style.for_paper
def arms(values: pd.DataFrame, names: Sequence[str], split: str = ADVERSARIAL,
         metrics: Sequence[str] = ("acc", "auc", "ece", "plain_acc")) -> Figure:  # fmt: skip
    """Draw every arm's metrics on one split: a column a metric, a row an arm, with lines through the base and CSP.

    Args:
        values: of :func:`csp_utils.measures.arms.table`.
        names: the arms, from top to bottom.
    """
    own = values[values["split"] == split].set_index(["arm", "metric"])
    figure, axes = plt.subplots(1, len(metrics), figsize=(style.PAGE, 0.24 * len(names) + 0.9), sharey=True,
                                layout="constrained")  # fmt: skip
    for axis, name in zip(axes, metrics, strict=True):
        for arm, line in (("base", ":"), (FULL, "-")):
            if (arm, name) in own.index:
                axis.axvline(own.loc[(arm, name), "value"], color="#a6a6a6", linestyle=line, linewidth=0.9)
        rows = own.loc[[(arm, name) for arm in names]]
        style.error_bars(axis, range(len(names)), rows, vertical=False, color=OUTCOMES["kept"], linewidth=1.2)
        sns.scatterplot(x=rows["value"].to_numpy(float), y=range(len(names)), color=OUTCOMES["kept"], s=20,
                        linewidth=0, zorder=3, ax=axis)  # fmt: skip
        axis.set_title(f"{name_of(name)} {'↑' if metric(name).better > 0 else '↓'}")
    axes[0].set_yticks(range(len(names)), [textwrap.shorten(arm_name(name), 30) for name in names])
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def arms_caption(values: pd.DataFrame, names: Sequence[str], split: str = ADVERSARIAL) -> str:
    """Write the caption of :func:`arms`, with AUC and ECE of every arm."""
    own = values[values["split"] == split].set_index(["arm", "metric"])

    def text(arm: str, name: str) -> str:
        return f"{name_of(name)} {with_interval(*own.loc[(arm, name), ['value', 'ci_low', 'ci_high']])}"

    seeds = {arm: "none" if arm == UNTRAINED else f"{own.loc[(arm, 'auc'), 'n_seeds']:.0f}" for arm in names}
    parts = [f"{arm_name(arm)} ({seeds[arm]}): {text(arm, 'auc')}, {text(arm, 'ece')}" for arm in names]
    return (f"{name_of(split)}, every arm (in brackets: its training seeds). Bars: 95 % intervals over images and "
            f"trainings, of the base over test images only; an arm with fewer than {LEAST_SEEDS} seeds has none. "
            f"Dotted line: the base; full line: SFT + SimPO. {'; '.join(parts)}.")  # fmt: skip
