"""Figures of the tiny world's scenes, for notebook 00."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from csp_utils.tiny_world.world.questions import cooccurrence
from csp_utils.tiny_world.world.scenes import NOUNS, Scene


def show_truth(scene: Scene) -> Figure:
    """Draw a scene, its true boxes, and its visible masks side by side."""
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
    """Draw scenes in a grid, each under its name."""
    rows = -(-len(scenes) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 2.4 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, scene in zip(axes.flat, scenes, strict=False):
        axis.imshow(scene.image)
        axis.set_title(scene.name, fontsize=8)
    return figure


def plot_cooccurrence(scenes: Sequence[Scene]) -> Figure:
    """Draw how often two nouns share a scene, as a share of the row noun's scenes."""
    pairs = cooccurrence(scenes).astype(float)
    share = pairs / np.maximum(np.diag(pairs)[:, None], 1)
    figure, axis = plt.subplots(figsize=(5.6, 4.8), layout="constrained")
    sns.heatmap(pd.DataFrame(share, NOUNS, NOUNS), mask=np.eye(len(NOUNS), dtype=bool), cmap="viridis", vmin=0,
                square=True, xticklabels=True, yticklabels=True, cbar_kws={"shrink": 0.8}, ax=axis)  # fmt: skip
    axis.set_title("Share of the scenes with (row) that also show (column)", fontsize=10)
    return figure
