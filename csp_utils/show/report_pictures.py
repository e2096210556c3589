"""Pictures that only the report shows: what changed, what the variants say, example rows, and the README's picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_parquet
from csp_utils.base.run import RunPaths
from csp_utils.data.benchmarks import SPLITS
from csp_utils.data.rlaif_v import RlaifV
from csp_utils.measures.calibration import ece, reliability
from csp_utils.noise import diffusion
from csp_utils.noise.rendered import open_image
from csp_utils.show import pictures, plots
from csp_utils.show.report_tables import HEADLINE, VARIANTS, in_order, name_of, split_name, verdicts

VERDICT = {"better": ("#0f5c2e", "o"), "worse": ("#8a1c13", "X"), "unclear": ("#6e7781", "d")}
"""Colour and marker of a difference, so that it is readable in grey as well."""


def _closed(figure: Figure) -> Figure:
    plt.close(figure)  # shown where a notebook cell ends in it, and not a second time
    return figure


def differences(table: pd.DataFrame, model: str, a: str = "base", b: str = "csp") -> Figure:
    """What ``b`` changes against ``a``: one panel a metric, one line a split, the dot in its 95 % interval."""
    judged = verdicts(table[table["model"] == model], a, b)
    splits = in_order(judged["split"], SPLITS)
    figure, axes = plt.subplots(1, len(HEADLINE), figsize=(2.05 * len(HEADLINE) + 0.8, 0.42 * len(splits) + 1.4),
                                sharey=True, layout="constrained")  # fmt: skip
    for axis, (metric, (short, _, sign)) in zip(axes, HEADLINE.items(), strict=True):
        axis.axvline(0, color="black", linewidth=0.8)
        for row in judged[judged["metric"] == metric].itertuples():
            y = splits.index(row.split)
            if row.verdict == "undefined":
                axis.text(0, y, "undefined", fontsize=8, ha="center", va="center", backgroundcolor="white")
                continue
            color, marker = VERDICT[row.verdict]
            axis.plot([row.ci_low, row.ci_high], [y, y], color=color, linewidth=2)
            axis.plot(row.diff, y, marker, color=color, markersize=7)
        reach = max(0.05, *np.abs(axis.get_xlim()))
        axis.set(xlim=(-reach, reach), xlabel=f"better {'→' if sign > 0 else '←'}")
        axis.set_title(short, fontsize=11)
        axis.grid(axis="x", color="#e5e8eb", linewidth=0.6)
        axis.xaxis.set_major_locator(MaxNLocator(3, symmetric=True, prune="both"))
        axis.tick_params(axis="x", labelsize=8)
    axes[0].set_yticks(range(len(splits)), [split_name(split) for split in splits])
    axes[0].set_ylim(len(splits) - 0.5, -0.5)
    return _closed(figure)


def spoken_numbers(responses: pd.DataFrame, model: str) -> Figure:
    """How often each variant says which number about right and about wrong answers, over all splits."""
    part = responses[responses["model"] == model].dropna(subset="verbalized")
    variants = in_order(part["variant"], VARIANTS)
    figure, axes = plt.subplots(1, len(variants), figsize=(3.7 * len(variants), 3), sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    for axis, variant in zip(axes[0], variants, strict=True):
        rows = part[part["variant"] == variant]
        for label, color, hatch, name in ((1, "#4aa3c7", "", "right answer"), (0, "#d98c3f", "//", "wrong answer")):
            percent = rows.loc[rows["label"] == label, "verbalized"].to_numpy(float)
            share = np.histogram(percent, bins=np.arange(-2.5, 103, 5))[0] / max(1, len(percent))
            shift = -1.05 if label else 1.05
            axis.bar(np.arange(0, 101, 5) + shift, share, width=2.1, color=color, hatch=hatch, edgecolor="black",
                     linewidth=0.4, label=name)  # fmt: skip
        axis.set(title=name_of(variant), xlabel="spoken confidence (%)", xlim=(-5, 105), ylim=(0, 1.02))
    axes[0, 0].set_ylabel("share of the replies")
    axes[0, 0].legend(fontsize=8, loc="upper left")
    return _closed(figure)


def reliability_guide(responses: pd.DataFrame, model: str, split: str) -> Figure:
    """Reliability diagrams of base and the last variant side by side, with the gaps drawn: how to read one."""
    part = responses[(responses["model"] == model) & (responses["split"] == split)]
    variants = in_order(part["variant"], VARIANTS)
    chosen = list(dict.fromkeys([variants[0], variants[-1]]))
    figure, axes = plt.subplots(1, len(chosen), figsize=(4.6 * len(chosen), 4.6), squeeze=False, layout="constrained")
    for axis, variant in zip(axes[0], chosen, strict=True):
        counts = plots.pair_counts(part[part["variant"] == variant])
        bins = reliability(counts).query("n > 0")
        axis.plot([0, 1], [0, 1], color="black", linewidth=0.9)
        axis.text(0.17, 0.21, "perfectly calibrated", rotation=45, fontsize=9, rotation_mode="anchor")
        axis.text(0.97, 0.03, "too sure", ha="right", fontsize=11, color="#8a1c13")
        axis.text(0.03, 0.94, "not sure enough", fontsize=11, color="#0b2f5b")
        for row in bins.itertuples():
            axis.plot([row.confidence] * 2, [row.confidence, row.accuracy], color="#8a1c13", linewidth=1.6, alpha=0.75)
        axis.scatter(bins["confidence"], bins["accuracy"], s=40 + 420 * bins["n"] / bins["n"].sum(), color="#4aa3c7",
                     edgecolor="black", zorder=3)  # fmt: skip
        axis.set_title(f"{name_of(variant)}, {split_name(split)}: ECE {float(ece(counts)):.2f}")
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="said: mean spoken confidence of the bin")
    axes[0, 0].set_ylabel("true: share of right answers in the bin")
    return _closed(figure)


# -------------------------------------------------------------------------------------------------------- example rows


@dataclass(frozen=True)
class Example:
    """A row of the data on its way: the picture, the boxes, the mask, the noise; ``row`` joins masks and rows."""

    row: Any
    image: Image.Image
    boxes: Image.Image
    mask: Image.Image
    perturbed: Image.Image


def examples(paths: RunPaths, data: RlaifV, n: int) -> Iterator[Example]:
    """``n`` rows whose levels c are spread from high to low, of different images; the same at every call."""
    masks = read_parquet(paths["masks.parquet"])
    table = read_parquet(paths["perturbed/rows.parquet"]).rename(columns={"image": "perturbed"})
    table = masks[masks["drop_reason"].isna()].merge(table, on="row_id")
    seen: set[str] = set()
    for level in np.linspace(90, 10, n):
        left = table[~table["image_path"].isin(seen)]
        if left.empty:
            return
        row = left.loc[(left["c"] - level).abs().idxmin()]
        seen.add(row["image_path"])
        yield example(row, paths, data)


def example(row: Any, paths: RunPaths, data: RlaifV) -> Example:
    """The pictures of one row. Raises UserError if the row's image is missing or not the one that was masked."""
    pixels, mask = diffusion.image_and_mask(row, data)
    image = Image.fromarray(pixels)
    labels = [f"{phrase} {score:.2f}" for phrase, score in zip(row["phrases"], row["scores"], strict=True)]
    boxes = np.stack([np.asarray(box, float) for box in row["boxes"]])
    return Example(row, image, pictures.with_boxes(image, boxes, labels), pictures.with_mask(image, mask),
                   open_image(paths["perturbed/images"] / Path(row["perturbed"]).name))


# ------------------------------------------------------------------------------------------------- the README's picture


def overview(paths: RunPaths, data: RlaifV, model: str | None = None, split: str = "pope_adversarial") -> Figure:
    """One example from picture to noise above, what the variants say and their reliability below.

    Raises UserError if the run holds no such split.
    """
    responses = read_parquet(paths["responses.parquet"])
    model = model or str(responses["model"].iloc[0])
    part = responses[(responses["model"] == model) & (responses["split"] == split)]
    if part.empty:
        raise UserError(f"{paths['responses.parquet']} holds no {split} of {model}; evaluate it with notebook 06_eval.")
    # An object that is easy to see, with noise that can be seen; c = 50 has no opposite for SimPO.
    fit = {c for c in range(30, 71) if c != 50}
    shown = max(examples(paths, data, 15), key=lambda e: (int(e.row["c"]) in fit, e.row["area_fraction"]))
    figure = plt.figure(figsize=(12, 7.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    row = shown.row
    titles = {
        "a picture, a question, an answer": shown.image,
        f"1  key object: “{row['keyword']}”": shown.boxes,
        "2  its mask": shown.mask,
        f"3  noise for c = {row['c']} %": shown.perturbed,
    }
    for axis, (title, image) in zip(above.subplots(1, 4), titles.items(), strict=True):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(title, fontsize=12)
        axis.set(xticks=[], yticks=[])
    above.supxlabel(f"“{row['question']}”  “{row['answer']}”     4  teach the model to say: {row['r_c']}  (SFT, then "
                    "SimPO against its opposite)", fontsize=11)  # fmt: skip
    variants = in_order(part["variant"], VARIANTS)
    for axis, variant in zip(np.atleast_1d(below.subplots(1, len(variants))), variants, strict=True):
        _diagram(axis, plots.pair_counts(part[part["variant"] == variant]), variant)
    below.suptitle(f"What the model then says about answers on unseen pictures ({split_name(split)})", fontsize=12)
    return _closed(figure)


def _diagram(axis: Any, counts: np.ndarray, variant: str) -> None:
    """A small reliability diagram."""
    bins = reliability(counts).query("n > 0")
    color, line, marker, _ = plots.style(variant)
    axis.plot([0, 100], [0, 100], color="black", linewidth=0.8)
    axis.plot(100 * bins["confidence"], 100 * bins["accuracy"], color=color, linestyle=line, linewidth=1.3)
    axis.scatter(100 * bins["confidence"], 100 * bins["accuracy"], s=30 + 300 * bins["n"] / bins["n"].sum(),
                 color=color, marker=marker, edgecolor="black", zorder=3)  # fmt: skip
    axis.set(xlim=(-3, 103), ylim=(-3, 103), xlabel="said (%)", ylabel="right (%)",
             title=f"{name_of(variant)}: ECE {float(ece(counts)):.2f}")  # fmt: skip
    axis.set_aspect("equal")
