"""The curves of the stress test, with their captions."""

from io import BytesIO

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from csp_utils.base.wording import CONDITIONS, interval, is_missing, name_of, number, percent
from csp_utils.show import style

QUANTITIES = {
    "right": "confidence in the\nright answer (%)",
    "wrong": "confidence in the\nwrong answer (%)",
    "plain_yes": "plain answers that\nare Yes (%)",
}
REGIONS = {name: CONDITIONS[name] for name in ("object", "box", "elsewhere", "everywhere")}
"""Where the noise goes."""
CONTROLS = ("swapped", "removed")
"""The conditions without a level."""


@style.for_paper
def curves(table: pd.DataFrame) -> Figure:
    """Draw verbalized confidence against the level c: one column a region, one row a quantity, one line a variant.

    The last column has the two controls without a level. The dotted diagonal is what CSP teaches about the right
    answer.

    Args:
        table: of :func:`csp_utils.measures.stress_curves.curves`, one model.
    """
    regions = [region for region in REGIONS if ((table["condition"] == region) & (table["c"] < 100)).any()]
    figure, axes = plt.subplots(
        len(QUANTITIES), len(regions) + 1, figsize=(style.PAGE, 1.55 * len(QUANTITIES) + 0.75), sharey=True,
        squeeze=False, width_ratios=[3] * len(regions) + [1.4 if len(regions) < 3 else 2], layout="constrained",
    )  # fmt: skip
    variants, numbers = style.variants_of(table), ["value", "ci_low", "ci_high"]
    table = table.assign(**{name: 100 * table[name].astype(float) for name in numbers}).dropna(subset="value")
    table = table.fillna({"ci_low": table["value"], "ci_high": table["value"]})
    for row, (quantity, label) in zip(axes, QUANTITIES.items(), strict=True):
        part = table[table["quantity"] == quantity]
        for axis, region in zip(row, regions, strict=False):
            if quantity == "right" and region == "object":
                axis.plot([0, 100], [0, 100], color="black", linewidth=0.7, linestyle=(0, (1, 2)))
            _curves(axis, part[part["condition"] == region].sort_values("c"), variants)
            axis.set(xlim=(-4, 104), ylim=(-3, 103), xticks=range(0, 101, 25), xlabel="")
        _controls(row[-1], part, variants)
        row[0].set_ylabel(label)
    for axis, region in zip(axes[0], regions, strict=False):
        axis.set_title(REGIONS[region])
    for axis in axes[-1, :-1]:
        axis.set_xlabel("what is left, level c (%)")
    for axis in axes[:-1].flat:
        axis.tick_params(labelbottom=False)
    style.variant_legend(figure, variants)
    return figure


@style.for_paper
def strip(example: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Draw one object under the noise of every level, with what each variant says under each image.

    Args:
        example: stress_example.parquet of notebook 08.
        table: stress.parquet of one model.
    """
    regions, levels = list(dict.fromkeys(example["condition"])), list(dict.fromkeys(example["c"]))
    variants = style.variants_of(table)
    width = style.PAGE / len(levels)
    figure, axes = plt.subplots(
        len(regions), len(levels), figsize=(style.PAGE, (width + 0.18 * len(variants) + 0.3) * len(regions)),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    said = _said(example, table)
    for row, region in zip(axes, regions, strict=True):
        row[0].set_ylabel(REGIONS[region])
        for axis, c in zip(row, levels, strict=True):
            png = example.loc[(example["condition"] == region) & (example["c"] == c), "png"].iloc[0]
            axis.imshow(plt.imread(BytesIO(png)), interpolation="nearest")
            axis.set(xticks=[], yticks=[], title=f"c = {c} %")
            lines = [f"{name_of(variant)}: {said.get((variant, region, c), '–')}" for variant in variants]
            axis.set_xlabel("\n".join(lines))
    return figure


def _said(example: pd.DataFrame, table: pd.DataFrame) -> dict[tuple[str, str, int], str]:
    """Return the confidence in Yes, as text, by (variant, region, level); what could not be read is left out."""
    first = example.iloc[0]
    own = table[(table["image"] == first["image"]) & (table["question"] == first["question"])]
    own = own[(own["candidate"] == "Yes") & own["verbalized"].notna()]
    own = own.dropna(subset="c")
    found = {(row.variant, row.condition, int(row.c)): f"{row.verbalized} %" for row in own.itertuples()}
    whole = {variant: text for (variant, region, c), text in found.items() if (region, c) == ("object", 100)}
    return found | {(variant, region, 100): text for variant, text in whole.items() for region in REGIONS}


def strip_caption(example: pd.DataFrame, table: pd.DataFrame) -> str:
    """Write the caption of :func:`strip`."""
    question = example["question"].iloc[0]
    places = " and ".join(REGIONS[region] for region in dict.fromkeys(example["condition"]))
    return (
        f"One object of a test image under the noise of each level: {places}. Under each image: the confidence that "
        f"every variant states in Yes, the right answer to “{question}” (–: the reply could not be read). It is the "
        f"object of which {name_of(style.variants_of(table)[0])} is surest before the noise."
    )


def _curves(axis: Axes, rows: pd.DataFrame, variants: list[str]) -> None:
    rows = rows.assign(c=rows["c"].astype(float))
    for position, variant in enumerate(variants):
        own = rows[rows["variant"] == variant]
        axis.fill_between(own["c"], own["ci_low"], own["ci_high"], color=style.of(variant, position)[0], alpha=0.2,
                          linewidth=0)  # fmt: skip
    style.lines(axis, rows, "c", "value", variants, linewidth=1.4, markersize=4)


def _controls(axis: Axes, part: pd.DataFrame, variants: list[str]) -> None:
    for x, condition in enumerate(CONTROLS):
        for position, variant in enumerate(variants):
            own = part[(part["condition"] == condition) & (part["variant"] == variant)]
            colour, _, marker, _ = style.of(variant, position)
            at = [x + 0.22 * (position - (len(variants) - 1) / 2)] * len(own)
            style.error_bars(axis, at, own, color=colour, linewidth=1.2)
            axis.plot(at, own["value"], marker, color=colour, markersize=4, markeredgecolor="black",
                      markeredgewidth=0.4)  # fmt: skip
    axis.set(xlim=(-0.6, len(CONTROLS) - 0.4))
    axis.set_xticks(range(len(CONTROLS)), [CONDITIONS[name].replace(" ", "\n") for name in CONTROLS])


def caption(curves: pd.DataFrame, correlations: pd.DataFrame) -> str:
    """Write the caption of :func:`curves`, with the correlation of c with confidence, and the confidence at both ends.

    Args:
        curves, correlations: of :mod:`csp_utils.measures.stress_curves`, one model.
    """
    n = int(curves.loc[(curves["c"] == 100) & (curves["quantity"] == "right"), "n"].max())
    parts = []
    for variant in style.variants_of(curves):
        part = correlations[(correlations["variant"] == variant) & (correlations["metric"] == "spearman")]
        rho = [f"{_place(row.region)}, {row.answer} answer {_rho(row)}" for row in part.itertuples()]
        own = curves[(curves["variant"] == variant) & (curves["quantity"] == "right")]
        own = own[own["condition"].isin(["object", *CONTROLS])]
        ends = {"unchanged": own["c"] == own["c"].max(), "hidden most": own["c"] == own["c"].min(),
                CONDITIONS["swapped"]: own["condition"] == "swapped",
                CONDITIONS["removed"]: own["condition"] == "removed"}  # fmt: skip
        means = [_end(own[place], text) for text, place in ends.items()]
        parts.append(f"{name_of(variant)}: ρ {'; '.join(rho)}; mean confidence in the right answer: {', '.join(means)}")
    return (
        f"What {curves['model'].iloc[0]} says about its certainty while the evidence is taken away, on {n} images with "
        "one question each about an object that is present, so that Yes is right and No is wrong. Left to right: noise "
        f"of level c in the object's mask{_others(curves)}; another image that lacks the object (there No is right) "
        "and no image at all. Dotted: what CSP teaches about the right answer. Bands and bars: 95 % bootstrap "
        f"intervals over images. {_unread(curves)} replies could not be read. Spearman's ρ of c with the verbalized "
        f"confidence: {'. '.join(parts)}."
    )


def seeds_caption(curves: pd.DataFrame) -> str:
    """Write the caption of :func:`curves` over several training seeds (notebook 11)."""
    own = curves[(curves["quantity"] == "right") & (curves["condition"] == "object")]
    ends = []
    for variant, rows in own.groupby("variant", sort=False):
        rows = rows.sort_values("c")
        low, high = (percent(100 * row["value"]) for _, row in rows.iloc[[0, -1]].iterrows())
        ends.append(f"{name_of(variant)} {high} unchanged, {low} hidden most")
    return ("Means over images and training seeds; bands: 95 % bootstrap intervals over test images only. "
            f"Right answer, noise on the object: {'; '.join(ends)}. "
            f"{_unread(curves)} replies could not be read.")  # fmt: skip


def _unread(curves: pd.DataFrame) -> int:
    return int(curves.loc[curves["quantity"].isin(["right", "wrong"]), "unread"].sum())


def _others(curves: pd.DataFrame) -> str:
    texts = {"box": ", in the box around it, which hides its outline too",
             "elsewhere": ", the same noise where the object is not", "everywhere": ", noise everywhere"}  # fmt: skip
    return "".join(text for region, text in texts.items() if (curves["condition"] == region).any())


def _place(region: str) -> str:
    return {"object": "on the object", "box": "in its box"}.get(region, region)


def _rho(row) -> str:
    if is_missing(row.value):
        return "undefined (always the same number)"
    return f"{number(row.value, True, 2)} {interval(row.ci_low, row.ci_high, True)}".rstrip()


def _end(rows: pd.DataFrame, text: str) -> str:
    missing = rows.empty or is_missing(rows["value"].iloc[0])
    return f"{text} {'–' if missing else percent(100 * rows['value'].iloc[0])}"
