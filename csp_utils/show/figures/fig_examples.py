"""Images with boxes and masks drawn on them, example rows of the training data, and the README's overview."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_parquet
from csp_utils.base.run import RunPaths
from csp_utils.base.wording import name_of
from csp_utils.data.images import load_image
from csp_utils.data.rlaif_v import RlaifV
from csp_utils.noise import diffusion
from csp_utils.show import style
from csp_utils.show.figures.fig_calibration import small_diagram

ORANGE = (255, 140, 0)


def enlarge(image: Image.Image, side: int = 336) -> tuple[Image.Image, float]:
    """Scale an image so that its longer side has ``side`` pixels; return it and the factor."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.NEAREST if scale > 1 else Image.LANCZOS), scale


def with_boxes(image: Image.Image, boxes: np.ndarray, labels: Sequence[str], side: int = 336) -> Image.Image:
    """Return a copy, ``side`` pixels long, with boxes and a line of text in each.

    Args:
        image: RGB.
        boxes: (n, 4), x0, y0, x1, y1 in pixels of ``image``.
        labels: n texts.
    """
    out, scale = enlarge(image, side)
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(size=14)
    for box, label in zip(np.asarray(boxes).reshape(-1, 4) * scale, labels, strict=True):
        draw.rectangle(box.tolist(), outline=ORANGE, width=2)
        width = draw.textlength(label, font=font)
        place = (max(0, min(box[0], out.width - width - 1)), max(0, box[1] - 18))
        draw.rectangle(draw.textbbox(place, label, font=font), fill="black")
        draw.text(place, label, fill="white", font=font)
    return out


def with_mask(image: Image.Image, mask: np.ndarray, side: int = 336) -> Image.Image:
    """Return a copy, ``side`` pixels long, dark outside the mask (bool, height x width) and orange on its edge."""
    from scipy import ndimage

    pixels = np.asarray(image).astype(np.float32)
    pixels[~mask] *= 0.35
    out, scale = enlarge(Image.fromarray(pixels.astype(np.uint8)), side)
    big = np.asarray(Image.fromarray(mask).resize(out.size, Image.NEAREST))
    edged = np.asarray(out).copy()
    edged[big ^ ndimage.binary_dilation(big, iterations=2)] = ORANGE
    return Image.fromarray(edged)


def side_by_side(images: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Put images into a row, on white."""
    out = Image.new("RGB", (sum(i.width + gap for i in images) - gap, max(i.height for i in images)), "white")
    x = 0
    for image in images:
        out.paste(image, (x, 0))
        x += image.width + gap
    return out


# ------------------------------------------------------------------------------------------------------ example rows


@dataclass(frozen=True)
class Example:
    """A training row on its way: the image, its boxes, its mask and its noise; ``row`` joins masks and rows."""

    row: Any
    image: Image.Image
    boxes: Image.Image
    mask: Image.Image
    perturbed: Image.Image


def examples(paths: RunPaths, data: RlaifV, n: int) -> Iterator[Example]:
    """Yield ``n`` rows of different images whose levels c go from high to low; the same rows at every call."""
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
    """Load the images of one row. Raises UserError if the row's image is missing or is not the masked one."""
    pixels, mask = diffusion.image_and_mask(row, data.image_bytes(row.row_id))
    image = Image.fromarray(pixels)
    labels = [f"{phrase} {score:.2f}" for phrase, score in zip(row["phrases"], row["scores"], strict=True)]
    boxes = np.stack([np.asarray(box, float) for box in row["boxes"]])
    return Example(row, image, with_boxes(image, boxes, labels), with_mask(image, mask),
                   load_image(paths["perturbed/images"] / Path(row["perturbed"]).name))


def overview(paths: RunPaths, data: RlaifV, responses: pd.DataFrame, split: str = "pope_adversarial") -> Figure:
    """Draw the README's overview: one example from image to noise above, each variant's reliability below.

    Raises UserError if the first model of the responses was not asked about this split.
    """
    model = str(responses["model"].iloc[0])
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
        "an image, a question, an answer": shown.image,
        f"1  key object: “{row['keyword']}”": shown.boxes,
        "2  its mask": shown.mask,
        f"3  noise for c = {row['c']} %": shown.perturbed,
    }
    for axis, (title, image) in zip(above.subplots(1, 4), titles.items(), strict=True):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(title, fontsize=12, parse_math=False)
        axis.set(xticks=[], yticks=[])
    above.supxlabel(f"“{row['question']}”  “{row['answer']}”     4  teach the model to say: {row['r_c']}  (SFT, then "
                    "SimPO against its opposite)", fontsize=11, parse_math=False)  # fmt: skip
    variants = style.variants_of(part)
    for axis, variant in zip(np.atleast_1d(below.subplots(1, len(variants))), variants, strict=True):
        small_diagram(axis, part[part["variant"] == variant], variant)
    below.suptitle(f"The confidence that the model then gives about unseen images ({name_of(split)})", fontsize=12)
    plt.close(figure)
    return figure
