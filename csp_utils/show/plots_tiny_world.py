"""Pictures of the tiny world for notebook 00 and the report."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from csp_utils.tiny_world.world.questions import cooccurrence
from csp_utils.tiny_world.world.scenes import NOUNS, Scene


def show_truth(scene: Scene) -> Figure:
    """The scene, its boxes, and its visible masks side by side."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
    for axis, title in zip(axes, ("image", "true boxes", "true masks"), strict=True):
        axis.imshow(scene.image)
        axis.set(title=title, xticks=[], yticks=[])
    for k, thing in enumerate(scene.things):
        x0, y0, x1, y1 = thing.box
        axes[1].add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="white", lw=1.5))
        axes[1].text(x0, max(y0 - 2, 7), thing.noun, color="white", fontsize=8, backgroundcolor="#00000080")
        axes[2].imshow(np.ma.masked_equal(thing.mask * (k + 1), 0), cmap="tab10", vmin=1, vmax=10, alpha=0.85)
    return figure


def contact_sheet(scenes: Sequence[Scene], columns: int = 4) -> Figure:
    """Scenes in a grid, each under its name."""
    rows = -(-len(scenes) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 2.4 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, scene in zip(axes.flat, scenes, strict=False):
        axis.imshow(scene.image)
        axis.set_title(scene.name, fontsize=8)
    return figure


def plot_cooccurrence(scenes: Sequence[Scene]) -> Figure:
    """How often two nouns share a scene, as a share of the row noun's scenes."""
    pairs = cooccurrence(scenes).astype(float)
    share = pairs / np.maximum(np.diag(pairs)[:, None], 1)
    np.fill_diagonal(share, np.nan)
    figure, axis = plt.subplots(figsize=(5.6, 4.8), layout="constrained")
    image = axis.imshow(share, cmap="viridis", vmin=0)
    axis.set_xticks(range(len(NOUNS)), NOUNS, rotation=90)
    axis.set_yticks(range(len(NOUNS)), NOUNS)
    axis.set_title("Share of the scenes with (row) that also show (column)", fontsize=10)
    figure.colorbar(image, ax=axis, shrink=0.8)
    return figure


def plot_quality(table: pd.DataFrame) -> Figure:
    """Each measure with an aim as a dot, beside the span that is aimed at.

    Args:
        table: as :func:`csp_utils.tiny_world.models.quality.quality_table` returns it.
    """
    from csp_utils.tiny_world.models.quality import AIMS

    shown = table[table["aim"] != ""].iloc[::-1].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(7.5, 0.45 * len(shown) + 1), layout="constrained")
    for y, row in shown.iterrows():
        low, high = AIMS[row["model"], row["measure"]]
        start, end = low or 0, 1 if high is None else high
        axis.barh(y, end - start, left=start, color="0.85", height=0.7)
        if row["value"] is not None and not pd.isna(row["value"]):
            axis.plot(row["value"], y, "o", color="black" if row["met"] else "tab:red")
            place = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
            axis.annotate(f"{row['value']:.3f}", (row["value"], y), fontsize=8, **place)
    axis.set(xlim=(-0.03, 1.05), xlabel="measured (dot) and aimed at (bar); red: aim missed")
    axis.set_yticks(range(len(shown)), [f"{m}: {q}" for m, q in zip(shown["model"], shown["measure"], strict=True)])
    return figure
