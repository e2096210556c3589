"""Find the key object's mask for every row (paper, section 3.2: GroundingDINO on the keyword, SAM on its boxes).

Stage 02 reads keywords.parquet and the images of RLAIF-V, and writes masks.parquet and funnel.parquet. A row without a
usable mask stays in the table with its drop reason, and the funnel counts the reasons.
"""

import hashlib
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from csp_utils.base.devices import pick_device
from csp_utils.base.errors import UserError
from csp_utils.base.memory import loads_once
from csp_utils.base.progress import Progress
from csp_utils.data.images import load_image
from csp_utils.data.rlaif_v import RlaifV
from csp_utils.data.rle import encode_mask
from csp_utils.models.grounding_dino import Detection, Detector, caption_of, detect, load_grounding_dino
from csp_utils.models.sam import load_sam, segment, union
from csp_utils.results.stage import WHOLE, Shard
from csp_utils.words.keyword import KEYWORD_REASONS

if TYPE_CHECKING:
    from segment_anything import SamPredictor

REASONS = ("benchmark_image", "media_tag", *KEYWORD_REASONS, "image_unreadable", "no_box", "empty_mask",
           "mask_too_large")  # fmt: skip
"""Drop reasons, in the order of the checks."""

CHECKED_ROWS = 200
"""Rows from which on the commonest keyword says something about the model."""

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("row_id", "image_path", "question", "answer", "keyword")]
    + [("width", pa.int32()), ("height", pa.int32())]
    + [("boxes", pa.list_(pa.list_(pa.float32(), 4))), ("scores", pa.list_(pa.float32()))]
    + [("phrases", pa.list_(pa.string())), ("rle_counts", pa.string())]
    + [("area_fraction", pa.float64()), ("drop_reason", pa.string())]
)
"""Columns of masks.parquet. ``width``, ``height``: size of the upright image in pixels, null if it was not opened.
``boxes``: the boxes behind the mask, highest score first: x0, y0, x1, y1 in these pixels. ``rle_counts``: the mask as
COCO's compressed run lengths, null for a dropped row. ``area_fraction``: share of the image that the mask covers, 0..1,
null without a mask."""


@dataclass(frozen=True)
class Models:
    """GroundingDINO and SAM."""

    detector: Detector
    predictor: "SamPredictor"


@dataclass
class MaskResult:
    """The columns of masks.parquet that depend on the pixels, for one (image, keyword)."""

    width: int | None = None
    height: int | None = None
    boxes: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    phrases: list[str] = field(default_factory=list)
    rle_counts: str | None = None
    area_fraction: float | None = None
    drop_reason: str | None = None


COMPUTED = [field.name for field in fields(MaskResult)]


def load_models(p: Any) -> Models:
    """Load both models onto the device of the parameters.

    ``p.torch_dtype`` is the precision of SAM's image encoder, which is most of the work (benchmarks/README.md).
    GroundingDINO always runs in float32: a threshold selects its boxes, and its queries are chosen by the rank of
    scores, so rounding could change both.
    """
    return _load(p.grounding_dino, p.sam, pick_device(p.device), p.torch_dtype)


@loads_once
def _load(grounding_dino: str, sam: str, device: str, dtype: str) -> Models:
    return Models(load_grounding_dino(grounding_dino, device), load_sam(sam, device, dtype))


def boxes_of_mask(found: Detection, boxes: str) -> Detection:
    """Select the boxes for the mask: all of them (``union``) or the one with the highest score (``top1``)."""
    n = 1 if boxes == "top1" else len(found.boxes)
    return Detection(found.boxes[:n], found.scores[:n], found.phrases[:n])


def judge(found: Detection, mask: np.ndarray, max_area_fraction: float) -> MaskResult:
    """Build the result of a keyword, and its drop reason if the mask cannot be used.

    Args:
        found: the selected boxes.
        mask: their mask, bool (height, width).
        max_area_fraction: a mask that covers a larger share of the image is dropped, 0..1.
    """
    height, width = mask.shape
    area = float(mask.mean())
    result = MaskResult(width, height, found.boxes.tolist(), found.scores.tolist(), list(found.phrases))
    if not len(found.boxes):
        result.drop_reason = "no_box"
        return result
    result.area_fraction = area
    if area == 0:
        result.drop_reason = "empty_mask"
    elif area > max_area_fraction:
        result.drop_reason = "mask_too_large"
    else:
        result.rle_counts = encode_mask(mask)
    return result


def mask_images(
    models: Models, images: list[Image.Image], keywords: list[list[str]], p: Any
) -> list[list[MaskResult]]:
    """Find boxes and masks in several images. SAM's encoder runs once for each image.

    Args:
        models: GroundingDINO and SAM.
        images: RGB, any size.
        keywords: for each image, the keywords to find in it.
        p: parameters of notebook 02.

    Returns:
        for each image, the results of its keywords, in their order.
    """
    pairs = [(image, keyword) for image, words in zip(images, keywords, strict=True) for keyword in words]
    found = iter(
        detect(models.detector, [i for i, _ in pairs], [k for _, k in pairs], p.box_threshold, p.text_threshold,
               p.batch_size)
    )  # fmt: skip
    results = []
    for image, words in zip(images, keywords, strict=True):
        used = [boxes_of_mask(next(found), p.boxes) for _ in words]
        boxes = np.concatenate([one.boxes for one in used])
        masks = segment(models.predictor, image, boxes)[0] if len(boxes) else []
        row = []
        for one in used:
            mine, masks = masks[: len(one.boxes)], masks[len(one.boxes) :]
            row.append(judge(one, union(mine, image.size[::-1]), p.max_area_fraction))
        results.append(row)
    return results


def _images_of(rows: pd.DataFrame, data: RlaifV) -> dict[str, list[str]]:
    """Group row_ids by their image: SHA-1 of the file -> row_ids. Rows without an image have the key ""."""
    same: dict[str, list[str]] = {}
    for row_id in rows["row_id"]:
        try:
            key = hashlib.sha1(data.image_bytes(row_id)).hexdigest()
        except UserError:
            key = ""
        same.setdefault(key, []).append(row_id)
    return same


def mask_rows(
    keywords: pd.DataFrame, data: RlaifV, models: Models, p: Any, progress: Progress, shard: Shard = WHOLE
) -> pd.DataFrame:
    """Return the table masks.parquet, or a shard of it: one row for each row of keywords.parquet, in its order.

    Each distinct (image, keyword) is looked at once, however many rows ask for it. Images come in batches of
    ``p.batch_size``, and a shard takes whole batches. Rows without a keyword or an image belong to the first shard. An
    image that cannot be decoded drops its rows ("image_unreadable").

    Raises:
        UserError: keywords.parquet names rows that the data set does not hold.
    """
    unknown = set(keywords["row_id"]) - set(data.rows["row_id"])
    if unknown:
        raise UserError(f"keywords.parquet names row {min(unknown)}, which the RLAIF-V data does not hold; give "
                        "rlaif_v the data that notebook 01_extract read, or run that notebook again.")  # fmt: skip
    named = keywords[keywords["keyword"].notna()]
    caption = dict(zip(named["row_id"], named["keyword"].map(caption_of), strict=True))
    same = _images_of(named, data)
    done = {row_id: MaskResult(drop_reason="image_unreadable") for row_id in same.pop("", [])}
    for row_id, reason in zip(keywords["row_id"], keywords["drop_reason"].fillna("no_keyword"), strict=True):
        if row_id not in caption:
            done[row_id] = MaskResult(drop_reason=reason)
    if shard.index > 0:
        done = {}
    groups = list(same.values())
    batches = shard.share([groups[start : start + p.batch_size] for start in range(0, len(groups), p.batch_size)])
    bar = iter(progress([group for batch in batches for group in batch], "boxes and masks", unit="image"))
    for batch in batches:
        images, wanted, opened = [], [], []
        for row_ids in islice(bar, len(batch)):
            try:
                images.append(load_image(data.image_bytes(row_ids[0]), name=f"of row {row_ids[0]}"))
            except UserError:
                done.update({row_id: MaskResult(drop_reason="image_unreadable") for row_id in row_ids})
                continue
            opened.append(row_ids)
            wanted.append(list(dict.fromkeys(caption[row_id] for row_id in row_ids)))
        for row_ids, words, results in zip(opened, wanted, mask_images(models, images, wanted, p), strict=True):
            by_word = dict(zip(words, results, strict=True))
            done.update({row_id: by_word[caption[row_id]] for row_id in row_ids})
    next(bar, None)  # so that the bar ends
    mine = keywords.reset_index(drop=True).loc[lambda table: table["row_id"].isin(done)]
    results = pd.DataFrame([vars(done[row_id]) for row_id in mine["row_id"]], mine.index, COMPUTED)
    results = results.astype({"width": "Int32", "height": "Int32"})
    return pd.concat([mine[["row_id", "image_path", "question", "answer", "keyword"]], results], axis=1)


def check_shares(keywords: pd.DataFrame, most_share: float) -> None:
    """Check that no keyword has more than ``most_share`` of the rows; fewer than 200 rows are not checked.

    A model that gives "answer" or "image" for half of the rows would cost hours of boxes for a word that names nothing.

    Raises:
        UserError: a keyword has a larger share.
    """
    counts = keywords["keyword"].value_counts()
    if len(keywords) >= CHECKED_ROWS and len(counts) and counts.iloc[0] > most_share * len(keywords):
        raise UserError(f"The keyword {counts.index[0]!r} has {counts.iloc[0] / len(keywords):.0%} of the rows of "
                        f"keywords.parquet, and at most {most_share:.0%} is expected; look at its raw replies in "
                        "notebook 01_extract, take another keyword_model, or raise most_share.")  # fmt: skip


def funnel(masks: pd.DataFrame) -> pd.DataFrame:
    """Count the rows that came in, were dropped for each reason, and are left: columns step, reason, n."""
    dropped = masks["drop_reason"].value_counts()
    rows = [("rows in", None, len(masks))]
    rows += [("dropped", reason, int(dropped.get(reason, 0))) for reason in REASONS]
    rows += [("kept", None, int(masks["drop_reason"].isna().sum()))]
    return pd.DataFrame(rows, columns=["step", "reason", "n"])
