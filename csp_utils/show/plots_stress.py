"""The curves of the stress test, drawn from its saved table, and their caption (as :mod:`csp_utils.show.plots`)."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from csp_utils.show.captions import interval, number
from csp_utils.show.plots import PAGE, above, for_paper, named, style, variants_of

QUANTITIES = {
    "right": "said of the right\nanswer (%)",
    "wrong": "said of the wrong\nanswer (%)",
    "plain_yes": "plain answers that\nare Yes (%)",
}
REGIONS = {"object": "noise on the object", "elsewhere": "the same noise elsewhere", "everywhere": "noise everywhere"}
CONTROLS = {"swapped": "other\nimage", "removed": "no\nimage"}


@for_paper
def curves(table: pd.DataFrame) -> Figure:
    """Spoken confidence against the level c of the noise: one column a region, one row a quantity, one line a variant.

    The last column has the two controls without a level. A dotted diagonal is what CSP teaches about the right answer.

    Args:
        table: of :func:`csp_utils.measures.stress_curves.curves`, one model.
    """
    regions = [region for region in REGIONS if ((table["condition"] == region) & (table["c"] < 100)).any()]
    figure, axes = plt.subplots(
        len(QUANTITIES), len(regions) + 1, figsize=(PAGE, 1.55 * len(QUANTITIES) + 0.75), sharey=True, squeeze=False,
        width_ratios=[3] * len(regions) + [1.4 if len(regions) < 3 else 2], layout="constrained",
    )  # fmt: skip
    variants = variants_of(table)
    for row, (quantity, label) in zip(axes, QUANTITIES.items(), strict=True):
        part = table[table["quantity"] == quantity]
        row[0].set_ylabel(label)
        for axis, region in zip(row, regions, strict=False):
            if quantity == "right" and region == "object":
                axis.plot([0, 100], [0, 100], color="black", linewidth=0.7, linestyle=(0, (1, 2)))
            for position, variant in enumerate(variants):
                _line(axis, part[(part["condition"] == region) & (part["variant"] == variant)], variant, position)
            axis.set(xlim=(-4, 104), ylim=(-3, 103), xticks=range(0, 101, 25))
        _controls(row[-1], part, variants)
    for axis, region in zip(axes[0], regions, strict=False):
        axis.set_title(REGIONS[region])
    for axis in axes[-1, :-1]:
        axis.set_xlabel("what is left, level c (%)")
    for axis in axes[:-1].flat:
        axis.tick_params(labelbottom=False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def _line(axis: Axes, rows: pd.DataFrame, variant: str, position: int) -> None:
    color, line, marker, _ = style(variant, position)
    rows = rows.sort_values("c").dropna(subset="value")
    c, value = rows["c"].to_numpy(float), 100 * rows["value"].to_numpy(float)
    low, high = (100 * rows[name].astype(float).fillna(rows["value"]).to_numpy() for name in ("ci_low", "ci_high"))
    axis.fill_between(c, low, high, color=color, alpha=0.2, linewidth=0)
    axis.plot(c, value, color=color, linestyle=line, marker=marker, markersize=4, markeredgecolor="black",
              markeredgewidth=0.4, linewidth=1.4, label=named(variant), zorder=above(position))  # fmt: skip


def _controls(axis: Axes, part: pd.DataFrame, variants: list[str]) -> None:
    for x, condition in enumerate(CONTROLS):
        rows = part[part["condition"] == condition].set_index("variant")
        for position, variant in enumerate(variants):
            if variant not in rows.index or pd.isna(rows.loc[variant, "value"]):
                continue
            color, _, marker, _ = style(variant, position)
            own = rows.loc[variant, ["value", "ci_low", "ci_high"]].astype(float)
            value, low, high = 100 * own.fillna(own["value"])
            at = x + 0.22 * (position - (len(variants) - 1) / 2)
            axis.plot([at, at], [low, high], color=color, linewidth=1.2)
            axis.plot(at, value, marker, color=color, markersize=4, markeredgecolor="black", markeredgewidth=0.4)
    axis.set(xlim=(-0.6, len(CONTROLS) - 0.4))
    axis.set_xticks(range(len(CONTROLS)), CONTROLS.values())


def caption(curves: pd.DataFrame, correlations: pd.DataFrame) -> str:
    """The caption of :func:`curves`, with the correlation of c with what is said, and what is said at both ends.

    Args:
        curves, correlations: of :mod:`csp_utils.measures.stress_curves`, one model.
    """
    n = int(curves.loc[(curves["c"] == 100) & (curves["quantity"] == "right"), "n"].max())
    unread = int(curves.loc[curves["quantity"].isin(["right", "wrong"]), "unread"].sum())
    said = []
    for variant in variants_of(curves):
        part = correlations[(correlations["variant"] == variant) & (correlations["metric"] == "spearman")]
        rho = [f"{_region(row.region)}, {row.answer} answer {_rho(row)}" for row in part.itertuples()]
        own = curves[(curves["variant"] == variant) & (curves["quantity"] == "right")]
        own = own[own["condition"].isin(["object", "swapped", "removed"])]
        places = {"unchanged": own["c"] == own["c"].max(), "hidden most": own["c"] == own["c"].min(),
                  "other image": own["condition"] == "swapped", "no image": own["condition"] == "removed"}  # fmt: skip
        ends = [_end(own[place], text) for text, place in places.items()]
        said.append(f"{named(variant)}: ρ {'; '.join(rho)}; mean confidence in the right answer: {', '.join(ends)}")
    return (
        f"What {curves['model'].iloc[0]} says of its certainty while the evidence is taken away, on {n} images with "
        "one question each about an object that is there, so that Yes is right and No is wrong. Left to right: noise "
        f"of level c in the object's mask{_others(curves)}; another image that lacks the object (there No is right) "
        "and no image at all. Dotted: what CSP teaches about the right answer. Bands and bars: 95 % bootstrap "
        f"intervals over images. {unread} replies could not be read. Spearman's ρ of c with the spoken confidence: "
        f"{'. '.join(said)}."
    )


def _others(curves: pd.DataFrame) -> str:
    texts = {"elsewhere": ", the same noise where the object is not", "everywhere": ", noise everywhere"}
    return "".join(text for region, text in texts.items() if (curves["condition"] == region).any())


def _region(region: str) -> str:
    return {"object": "on the object", "elsewhere": "elsewhere", "everywhere": "everywhere"}[region]


def _rho(row) -> str:
    if pd.isna(row.value):
        return "undefined (always the same number)"
    return f"{number(row.value, signed=True, decimals=2)} {interval(row.ci_low, row.ci_high, signed=True)}".rstrip()


def _end(rows: pd.DataFrame, text: str) -> str:
    value = None if rows.empty or pd.isna(rows["value"].iloc[0]) else rows["value"].iloc[0]
    return f"{text} {'–' if value is None else f'{100 * value:.0f} %'}"
