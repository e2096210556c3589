"""The look of all figures, how they are saved, and the sentences that captions share.

Variants differ in lightness, line and marker, so that figures are readable in grey. A figure is as wide as a column or
as the text of a paper, and its letters are as large as a caption's: it goes into a paper without being scaled.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from csp_utils.base.files import whole_file, write_text
from csp_utils.base.wording import VARIANTS, counted, in_order, listed, name_of, value_of
from csp_utils.measures.calibration import histogram

COLUMN, PAGE = 3.4, 7.0  # widths of a paper's column and of its text, in inches
LETTERS = {"font.size": 8, "axes.titlesize": 9, "legend.fontsize": 7.5, "hatch.linewidth": 0.6}
STYLE = {  # variant: colour (light to dark), dashes, marker, hatch
    "base": ("#a6a6a6", (1, 1.65), "o", ""),
    "sft": ("#3587ad", (3.7, 1.6), "s", "////"),
    "csp": ("#0b2f5b", "", "^", ""),
}
_OTHERS = (("#d98c3f", (6, 2, 1, 2), "D", "xx"), ("#7a5195", (1, 1), "v", ".."), ("#3b7a57", (5, 1), "P", "\\\\"))
RIGHT, WRONG = "#8cc9e4", "#c4661f"  # colours of right and of wrong answers, light and dark
BETTER, WORSE, UNCLEAR = "#0f5c2e", "#8a1c13", "#6e7781"
PAPER = "the paper (arXiv 2504.14848)"
INTERVALS = " In brackets: 95 % bootstrap intervals over images."
_Arguments = ParamSpec("_Arguments")


def for_paper(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Make a drawing function use a paper's letters, compute the layout once, and close its figure.

    If each saving computed the layout anew, the figure would move by parts of a point and its file would never be the
    same twice. A closed figure is shown where a notebook cell ends in it, and not a second time.
    """

    @wraps(draw)
    def paper_figure(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        with plt.rc_context(LETTERS):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # computes the layout, and the ticks in these letters
        figure.set_layout_engine("none")
        plt.close(figure)
        return figure

    return paper_figure


def of(variant: str, position: int = 0) -> tuple:
    """Return (colour, dashes, marker, hatch) of a variant; ``position`` chooses among the styles of ablation arms."""
    return STYLE.get(variant, _OTHERS[position % len(_OTHERS)])


def variants_of(table: pd.DataFrame) -> list[str]:
    """Return the variants of a table in the order in which they are shown."""
    return in_order(table["variant"], VARIANTS)


def pair_counts(responses: pd.DataFrame) -> np.ndarray:
    """Count the candidate pairs with a parsed confidence: (2, 101) by label and percent."""
    parsed = responses.dropna(subset="verbalized")
    return histogram(parsed["verbalized"].to_numpy(int), parsed["label"].to_numpy(int))


def save(figure: Figure, folder: Path, name: str, caption: str) -> list[Path]:
    """Write ``<name>.png`` (150 dpi), ``<name>.pdf`` and ``<name>.md`` (the caption) into a folder, each whole.

    The PDF is vector graphics with its letters embedded as TrueType, because publishers refuse matplotlib's default,
    Type 3. The caption is its Subject. It holds no date, so that the same figure gives the same bytes.

    Returns:
        the three paths.
    """
    png, pdf, text = (Path(folder) / f"{name}.{suffix}" for suffix in ("png", "pdf", "md"))
    for path, metadata in ((png, {}), (pdf, {"Subject": caption, "CreationDate": None})):
        with whole_file(path) as temporary, plt.rc_context({"pdf.fonttype": 42}):
            figure.savefig(temporary, dpi=150, metadata=metadata)
    write_text(caption + "\n", text)
    return [png, pdf, text]


# -------------------------------------------------------------------------------------------------------- drawing


def lines(axis: Axes, table: pd.DataFrame, x: str, y: str, variants: list[str], markers: bool = True,
          **how: Any) -> None:  # fmt: skip
    """Draw one line a variant with seaborn, each in its own style.

    The first variant is drawn last: where lines coincide, its dots lie on dashes and these on a full line.
    """
    styles = {variant: of(variant, position) for position, variant in enumerate(variants)}
    if table.empty:
        return
    sns.lineplot(
        table, x=x, y=y, hue="variant", style="variant", hue_order=variants[::-1], style_order=variants[::-1],
        palette={v: colour for v, (colour, *_) in styles.items()}, dashes={v: own[1] for v, own in styles.items()},
        markers={v: own[2] for v, own in styles.items()} if markers else False, estimator=None, errorbar=None,
        sort=False, legend=False, ax=axis, **{"markeredgecolor": "black", "markeredgewidth": 0.4, **how},
    )  # fmt: skip


def handles(labels: Mapping[str, str], variants: list[str], markers: bool = True) -> list[Line2D]:
    """Return a legend's entries: variant -> label, each with the line and the marker of its variant."""
    found = []
    for variant, label in labels.items():
        colour, dashes, marker, _ = of(variant, variants.index(variant))
        found.append(Line2D([], [], color=colour, linestyle=(0, dashes) if dashes else "-", markersize=5,
                            marker=marker if markers else "", markeredgecolor="black", markeredgewidth=0.5,
                            label=label))  # fmt: skip
    return found


def variant_legend(figure: Figure, variants: list[str]) -> None:
    """Draw one legend for all panels, above them, where nothing is drawn."""
    figure.legend(handles=handles({v: name_of(v) for v in variants}, variants), loc="outside upper center",
                  ncols=len(variants), frameon=False)  # fmt: skip


# ------------------------------------------------------------------------------------------------ parts of captions


def cells(rows: pd.DataFrame) -> dict[tuple[str, str, str, str], Any]:
    """Return the rows of a table of metrics by (model, variant, split, metric)."""
    return {(row.model, row.variant, row.split, row.metric): row for row in rows.itertuples()}


def who(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Return (model, variant) -> its name, in order; the model is named only where a table has several."""
    models = list(dict.fromkeys(rows["model"]))
    return {(model, variant): f"{model}, {name_of(variant)}" if len(models) > 1 else name_of(variant)
            for model in models for variant in variants_of(rows[rows["model"] == model])}  # fmt: skip


def values_of(rows: pd.DataFrame, names: Iterable[tuple[str, str]]) -> str:
    """List the rows of one split: "base: AUC 0.5 [0.4, 0.6], ECE ...; SFT: ..."."""
    found, names = {(model, variant, m): row for (model, variant, _, m), row in cells(rows).items()}, list(names)
    return "; ".join(f"{name}: " + ", ".join(f"{text} {value_of(found.get((*key, m)))}" for m, text in names)
                     for key, name in who(rows).items()) + "."  # fmt: skip


def counts_of(rows: pd.DataFrame, metric: str) -> str:
    """Say what a metric is computed from: "470", or "base 470, SFT 468" where the variants differ."""
    found = rows[rows["metric"] == metric].set_index(["model", "variant"])["n"]
    if found.nunique() == 1:
        return str(found.iloc[0])
    return ", ".join(f"{name} {found[key]}" for key, name in who(rows).items() if key in found.index) or "0"


def brackets(rows: pd.DataFrame) -> str:
    """Return the sentence about intervals; "" if the table has none."""
    return INTERVALS if rows["ci_low"].notna().any() else ""


def models_of(rows: pd.DataFrame) -> str:
    """Name the models of a table."""
    return listed(dict.fromkeys(rows["model"]))


def questions_of(part: pd.DataFrame) -> str:
    """Count questions and images: "40 questions about 10 images"."""
    return f"{counted(part['question_id'].nunique(), 'question')} about {counted(part['image'].nunique(), 'image')}"


def error_bars(axis: Axes, at: Any, rows: pd.DataFrame, vertical: bool = True, **how: Any) -> None:
    """Draw the intervals of a table's rows at the positions ``at``; a row without an interval gets none."""
    low, high = rows["ci_low"].to_numpy(float), rows["ci_high"].to_numpy(float)
    draw, known = axis.vlines if vertical else axis.hlines, ~np.isnan(low)
    draw(np.asarray(at)[known], low[known], high[known], **{"color": "black", "linewidth": 0.8} | how)
