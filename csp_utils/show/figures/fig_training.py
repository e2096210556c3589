"""Figures of the perturbation, the two trainings and the tiny models, for notebooks and the report."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from csp_utils.base.files import whole_file
from csp_utils.noise.diffusion import alpha_bar, noise_steps
from csp_utils.noise.rendered import open_image


def save(figure: Figure, path: Path) -> Figure:
    """Write the figure to ``path`` (PNG), whole, and return it."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return figure


def show_images(images: Mapping[str, np.ndarray], columns: int = 6, side: float = 2) -> Figure:
    """Draw images side by side under their titles.

    Args:
        images: title -> uint8 (H, W, 3), or bool (H, W) for a mask.
        columns: images in a row of the figure.
        side: width of an image, inches.
    """
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    size = (side * columns, (side + 0.25) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, image) in zip(axes.flat, images.items(), strict=False):
        axis.imshow(image, cmap="gray", interpolation="nearest")
        axis.set_title(title, fontsize=9 if side >= 2 else 7, parse_math=False)  # it may hold a question
    return figure


def plot_schedule(t_max: int, gamma: float) -> Figure:
    """Draw the noise steps T_c, and what they leave of signal and noise, against the confidence level c."""
    levels = np.arange(101)
    steps = np.array([noise_steps(int(c), t_max) for c in levels])
    left = np.array([alpha_bar(int(t), gamma) for t in steps])
    figure, (first, second) = plt.subplots(1, 2, figsize=(8.5, 3), layout="constrained")
    first.plot(levels, steps, color="tab:gray")
    first.set(xlabel="confidence c (%)", ylabel="diffusion steps $T_c$", title="The lower c, the more steps")
    second.plot(levels, np.sqrt(left), label=r"image, $\sqrt{\bar\alpha}$")
    second.plot(levels, np.sqrt(1 - left), label=r"noise, $\sqrt{1-\bar\alpha}$")
    second.plot(levels, left, "--", color="tab:blue", alpha=0.5, label=r"$\bar\alpha$")
    second.set(xlabel="confidence c (%)", ylabel="weight", title=f"$T_{{max}}$ = {t_max}, $\\gamma$ = {gamma}")
    second.legend(fontsize=8)
    return figure


def plot_fitted(curve: pd.DataFrame, by_level: Mapping[str, np.ndarray], even: np.ndarray) -> Figure:
    """Draw how often the base sees an object, against the remaining signal and against c under several schedules.

    Args:
        curve: of :func:`csp_utils.noise.schedule.curve`.
        by_level: name of a schedule -> (101,) shares at c = 0 .. 100.
        even: (101,) the straight line that the fit aims at.
    """
    figure, (first, second) = plt.subplots(1, 2, figsize=(8.5, 3.2), sharey=True, layout="constrained")
    first.semilogx(curve["signal"], 100 * curve["seen"], "o", color="black", markersize=4, label="measured")
    first.semilogx(curve["signal"], 100 * curve["fitted"], color="tab:blue", label="monotone fit")
    first.set(xlabel=r"what is left of the signal, $\bar\alpha$", ylabel="objects seen (%)", ylim=(-3, 103))
    second.plot(100 * even, color="black", linewidth=0.8, linestyle=(0, (1, 2)), label="even")
    for (name, seen), line in zip(by_level.items(), ("--", "-"), strict=False):
        second.plot(100 * seen, line, label=name)
    second.set(xlabel="confidence label c (%)")
    for axis in (first, second):
        axis.legend(fontsize=8)
    return figure


def plot_levels(table: pd.DataFrame) -> Figure:
    """Draw how often each tenth of the confidence scale occurs (100 belongs to the last). ``table``: rows.parquet."""
    figure, axis = plt.subplots(figsize=(6, 2.6), layout="constrained")
    sns.histplot(x=table["c"], bins=[*np.arange(0, 100, 10) - 0.5, 100.5], color="tab:blue", edgecolor="white",
                 alpha=1, ax=axis)  # fmt: skip
    axis.axhline(len(table) * 10 / 101, color="tab:gray", ls="--", lw=1, label="uniform")
    axis.set(xlabel="confidence c (%)", ylabel="images", title=f"{len(table)} images, {table['row_id'].nunique()} rows")
    axis.legend(fontsize=8)
    return figure


def show_rows(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw training rows in ms-swift's format: the image, the target as its title, the prompt below it."""
    figure, axes = plt.subplots(1, len(rows), figsize=(3.1 * len(rows), 4.3), squeeze=False, layout="constrained")
    for axis, row in zip(axes.flat, rows, strict=True):
        axis.imshow(open_image(row["images"][0]), interpolation="nearest")
        target = f"target: {row['messages'][1]['content']}"
        rejected = row.get("rejected_response")
        axis.set_title(target + (f"   rejected: {rejected}" if rejected else ""), fontsize=10, parse_math=False)
        prompt = row["messages"][0]["content"].removeprefix("<image>")
        axis.set_xlabel(textwrap.fill(textwrap.shorten(prompt, 320, placeholder=" ..."), 42), fontsize=8, loc="left",
                        parse_math=False)
        axis.set(xticks=[], yticks=[])
    return figure


def plot_loss(log: pd.DataFrame, title: str) -> Figure:
    """Draw loss and learning rate of each update, the loss's running mean, and a validation loss if there is one.

    ``log``: log.parquet.
    """
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    _with_mean(axis, log, "loss", "tab:blue", "loss")
    if "eval_loss" in log:
        held_out = log.dropna(subset="eval_loss")
        axis.plot(held_out["step"], held_out["eval_loss"], "D-", color="tab:red", ms=4, label="held-out rows")
    axis.legend(fontsize=8)
    rate = axis.twinx()
    sns.lineplot(log, x="step", y="learning_rate", color="tab:orange", lw=1, estimator=None, ax=rate)
    rate.set_ylabel("learning rate", color="tab:orange")
    axis.set(xlabel="update", ylabel="loss", title=title)
    return figure


def plot_rewards(log: pd.DataFrame) -> Figure:
    """Draw SimPO's rewards (beta times the mean log-likelihood of a token), their margin and how often it is positive.

    ``log``: log.parquet of the SimPO training.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
    for name, colour in (("chosen", "tab:green"), ("rejected", "tab:red")):
        _with_mean(axes[0], log, f"rewards/{name}", colour, name)
    _with_mean(axes[1], log, "rewards/margins", "tab:blue", "margin")
    _with_mean(axes[2], log, "rewards/accuracies", "tab:purple", "accuracy")
    axes[0].legend(fontsize=8)
    axes[1].axhline(0, color="tab:gray", lw=0.8)
    axes[2].set_ylim(-0.03, 1.03)
    for axis, title in zip(axes, ("rewards", "reward margin", "pairs ranked right"), strict=True):
        axis.set(xlabel="update", ylabel="", title=title)
    return figure


def _with_mean(axis: Axes, log: pd.DataFrame, column: str, colour: str, label: str) -> None:
    """Draw each value faintly, and a running mean over a twentieth of the updates."""
    mean = log[column].rolling(max(1, len(log) // 20), min_periods=1).mean()
    how = {"estimator": None, "color": colour, "legend": False, "ax": axis}
    sns.lineplot(log, x="step", y=column, alpha=0.3, lw=1, marker="." if len(log) < 40 else None,
                 markeredgecolor=colour, **how)  # fmt: skip
    sns.lineplot(x=log["step"], y=mean, label=label, **how)


def plot_quality(table: pd.DataFrame) -> Figure:
    """Draw each measure of the tiny models that has an aim as a dot, beside the range of the aim.

    Args:
        table: tiny_world_quality.parquet (:func:`csp_utils.tiny_world.quality.quality_table`).
    """
    shown = table[table["aim"] != ""].iloc[::-1].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(7.5, 0.45 * len(shown) + 1), layout="constrained")
    for y, row in shown.iterrows():
        aim = dict(re.findall(r"([<>]=) ([\d.]+)", row["aim"]))  # such as ">= 0.75 and <= 0.92"
        low, high = float(aim.get(">=", 0)), float(aim.get("<=", 1))
        axis.barh(y, high - low, left=low, color="0.85", height=0.7)
        if not pd.isna(row["value"]):
            axis.plot(row["value"], y, "o", color="black" if row["met"] else "tab:red")
            place = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
            axis.annotate(f"{row['value']:.3f}", (row["value"], y), fontsize=8, **place)
    axis.set(xlim=(-0.03, 1.05), xlabel="measured (dot) and aim (bar); red: aim missed")
    axis.set_yticks(range(len(shown)), [f"{m}: {q}" for m, q in zip(shown["model"], shown["measure"], strict=True)])
    return figure
