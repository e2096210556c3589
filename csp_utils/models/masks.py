"""Find the key object's mask for every row (paper, section 3.2: GroundingDINO on the keyword, SAM on its boxes).

Stage 02 reads keywords.parquet and the images of RLAIF-V. The long part finds all boxes, also weak ones, with a mask
each, and is kept. The short part decides which of them make a row's mask, and writes masks.parquet and funnel.parquet:
other thresholds are a second look of seconds. A row without a usable mask stays in the table with its drop reason, and
the funnel counts the reasons.
"""

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
from csp_utils.data import rle
from csp_utils.data.images import image_key, load_image, too_thin
from csp_utils.data.rlaif_v import RlaifV
from csp_utils.models.grounding_dino import Detector, caption_of, detect, load_grounding_dino
from csp_utils.models.sam import load_sam, segment
from csp_utils.results.stage import WHOLE, Shard
from csp_utils.words.keyword import KEYWORD_REASONS

if TYPE_CHECKING:
    from segment_anything import SamPredictor

TOO_THIN = "image_too_thin"
REASONS = ("benchmark_image", "media_tag", *KEYWORD_REASONS, "image_unreadable", TOO_THIN, "no_box", "empty_mask",
           "mask_too_large")  # fmt: skip
"""Drop reasons, in the order of the checks."""

CHECKED_ROWS = 200
"""Rows from which on the commonest keyword says something about the model."""

_FIRST = [(name, pa.string()) for name in ("row_id", "image_path", "question", "answer", "keyword", "image_sha1")]
_FOUND = [("width", pa.int32()), ("height", pa.int32()), ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
          ("scores", pa.list_(pa.float32())), ("phrases", pa.list_(pa.string()))]  # fmt: skip
BOXES_SCHEMA = pa.schema([*_FIRST, *_FOUND, ("rle_counts", pa.list_(pa.string())), ("drop_reason", pa.string())])
"""Columns of boxes/table.parquet: every box that scores at least ``least_score``, and its mask. ``image_sha1``: SHA-1
of the encoded image. ``width``, ``height``: size of the upright image in pixels, null if it was not opened. ``boxes``:
highest score first, x0, y0, x1, y1 in these pixels. ``rle_counts``: for each box, its mask as COCO's compressed run
lengths. ``drop_reason``: why nothing was looked for, or the image could not be used."""

SCHEMA = pa.schema(
    [*_FIRST, *_FOUND, ("rle_counts", pa.string()), ("area_fraction", pa.float64()), ("drop_reason", pa.string())]
)
"""Columns of masks.parquet. As :data:`BOXES_SCHEMA`, but ``boxes`` are those behind the mask. ``rle_counts``: the mask,
null for a dropped row. ``area_fraction``: share of the image that the mask covers, 0..1, null without a mask."""


@dataclass(frozen=True)
class Models:
    """GroundingDINO and SAM."""

    detector: Detector
    predictor: "SamPredictor"


@dataclass
class Found:
    """All boxes found for one (image, keyword), with a mask each: the columns of boxes/table.parquet that depend on
    the pixels."""

    width: int | None = None
    height: int | None = None
    boxes: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    phrases: list[str] = field(default_factory=list)
    rle_counts: list[str] = field(default_factory=list)
    drop_reason: str | None = None


@dataclass
class MaskResult:
    """The mask of one (image, keyword): the columns of masks.parquet that are decided."""

    width: int | None = None
    height: int | None = None
    boxes: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    phrases: list[str] = field(default_factory=list)
    rle_counts: str | None = None
    area_fraction: float | None = None
    drop_reason: str | None = None


LOOKED_AT = [field.name for field in fields(Found)]
DECIDED = [field.name for field in fields(MaskResult)]


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


def decide(found: Found, p: Any) -> MaskResult:
    """Make the mask of a keyword from its boxes, and its drop reason if it cannot be used.

    Args:
        p: parameters of notebook 02 or 08: box_threshold, boxes (``union`` of all boxes above it, or ``top1``), and
            max_area_fraction.
    """
    if found.drop_reason is not None:
        return MaskResult(found.width, found.height, drop_reason=found.drop_reason)
    assert found.width is not None and found.height is not None
    n = sum(score > p.box_threshold for score in found.scores)  # the highest come first
    n = min(n, 1) if p.boxes == "top1" else n
    result = MaskResult(found.width, found.height, found.boxes[:n], found.scores[:n], found.phrases[:n])
    if n == 0:
        result.drop_reason = "no_box"
        return result
    mask = rle.union(found.rle_counts[:n], found.width, found.height)
    result.area_fraction = rle.area_fraction(mask, found.width, found.height)
    if result.area_fraction == 0:
        result.drop_reason = "empty_mask"
    elif result.area_fraction > p.max_area_fraction:
        result.drop_reason = "mask_too_large"
    else:
        result.rle_counts = mask
    return result


def decide_rows(boxes: pd.DataFrame, p: Any) -> pd.DataFrame:
    """Return the table masks.parquet for the table of all boxes; takes seconds for the rows of RLAIF-V."""
    results = []
    for row in boxes[LOOKED_AT].itertuples(index=False):
        size = (None, None) if pd.isna(row.width) else (int(row.width), int(row.height))
        lists = (list(row.boxes), list(row.scores), list(row.phrases), list(row.rle_counts))
        reason = None if pd.isna(row.drop_reason) else row.drop_reason
        results.append(decide(Found(*size, *lists, reason), p))
    return pd.concat([boxes[[name for name, _ in _FIRST]], _columns(results, DECIDED, boxes.index)], axis=1)


def _columns(results: list[Any], names: list[str], index: pd.Index) -> pd.DataFrame:
    table = pd.DataFrame([vars(result) for result in results], index, names)
    return table.astype({"width": "Int32", "height": "Int32"})


def look(
    models: Models, images: list[Image.Image], keywords: list[list[str]], p: Any, least_score: float
) -> list[list[Found]]:
    """Find boxes, and a mask for each, in several images. SAM's encoder runs once for each image.

    Args:
        models: GroundingDINO and SAM.
        images: RGB, any size.
        keywords: for each image, the keywords to find in it.
        p: parameters of notebook 02 or 08: text_threshold, batch_size.
        least_score: lowest score of a box, 0..1.

    Returns:
        for each image, what was found for its keywords, in their order.
    """
    pairs = [(image, keyword) for image, words in zip(images, keywords, strict=True) for keyword in words]
    detections = iter(
        detect(models.detector, [i for i, _ in pairs], [k for _, k in pairs], least_score, p.text_threshold,
               p.batch_size)
    )  # fmt: skip
    results = []
    for image, words in zip(images, keywords, strict=True):
        found = [next(detections) for _ in words]
        boxes = np.concatenate([one.boxes for one in found])
        masks = [rle.encode_mask(mask) for mask in segment(models.predictor, image, boxes)[0]] if len(boxes) else []
        row = []
        for one in found:
            mine, masks = masks[: len(one.boxes)], masks[len(one.boxes) :]
            row.append(Found(*image.size, one.boxes.tolist(), one.scores.tolist(), list(one.phrases), mine))
        results.append(row)
    return results


def check_rows(keywords: pd.DataFrame, data: RlaifV) -> None:
    """Check that the rows of keywords.parquet are those of the data.

    Raises:
        UserError: the data do not hold a row, or hold another question or answer in its place.
    """
    texts = data.rows.set_index("row_id")[["question", "answer"]]
    unknown = set(keywords["row_id"]) - set(texts.index)
    if unknown:
        raise UserError(f"keywords.parquet names row {min(unknown)}, which the RLAIF-V data does not hold; give "
                        "rlaif_v the data that notebook 01_extract read, or run that notebook again.")  # fmt: skip
    now = texts.loc[keywords["row_id"]]
    other = (now.to_numpy() != keywords[["question", "answer"]].to_numpy()).any(axis=1)
    if other.any():
        raise UserError(f"Row {keywords['row_id'][other].iloc[0]} has another question or answer in the RLAIF-V data "
                        f"than in keywords.parquet ({other.sum()} rows do); give rlaif_v the data that notebook "
                        "01_extract read, or run that notebook again.")  # fmt: skip


def find_boxes(
    keywords: pd.DataFrame, data: RlaifV, models: Models, p: Any, progress: Progress, shard: Shard = WHOLE
) -> pd.DataFrame:
    """Return the table of all boxes, or a shard of it: one row for each row of keywords.parquet, in its order.

    Each distinct (image, keyword) is looked at once, however many rows ask for it. Images come in batches of
    ``p.batch_size``, in the order of their first rows. A shard takes whole batches that follow each other, so that it
    reads its own part of the data. Rows without a keyword or an image belong to the first shard. An image that cannot
    be decoded ("image_unreadable"), or is too thin for the models ("image_too_thin"), drops its rows.

    Args:
        p: parameters of notebook 02.

    Raises:
        UserError: as :func:`check_rows`, or an image is not the one that notebook 01 saw.
    """
    check_rows(keywords, data)
    named = keywords[keywords["keyword"].notna()]
    caption = dict(zip(named["row_id"], named["keyword"].map(caption_of), strict=True))
    groups = [list(rows) for _, rows in named.groupby("image_sha1", sort=False)["row_id"]]
    without = named["row_id"][named["image_sha1"].isna()]
    done = {row_id: Found(drop_reason="image_unreadable") for row_id in without}
    for row_id, reason in zip(keywords["row_id"], keywords["drop_reason"].fillna("no_keyword"), strict=True):
        if row_id not in caption:
            done[row_id] = Found(drop_reason=reason)
    if shard.index > 0:
        done = {}
    keys = dict(zip(named["row_id"], named["image_sha1"], strict=True))
    batches = shard.block([groups[start : start + p.batch_size] for start in range(0, len(groups), p.batch_size)])
    bar = iter(progress([group for batch in batches for group in batch], "boxes and masks", unit="image"))
    for batch in batches:
        images, wanted, opened = [], [], []
        for row_ids in islice(bar, len(batch)):
            image = _open(data, row_ids[0], keys[row_ids[0]])
            if isinstance(image, Found):
                done.update(dict.fromkeys(row_ids, image))
                continue
            images.append(image)
            opened.append(row_ids)
            wanted.append(list(dict.fromkeys(caption[row_id] for row_id in row_ids)))
        for row_ids, words, found in zip(opened, wanted, look(models, images, wanted, p, p.least_score), strict=True):
            by_word = dict(zip(words, found, strict=True))
            done.update({row_id: by_word[caption[row_id]] for row_id in row_ids})
    next(bar, None)  # so that the bar ends
    mine = keywords.reset_index(drop=True).loc[lambda table: table["row_id"].isin(done)]
    found = _columns([done[row_id] for row_id in mine["row_id"]], LOOKED_AT, mine.index)
    return pd.concat([mine[[name for name, _ in _FIRST]], found], axis=1)


def _open(data: RlaifV, row_id: str, key: str) -> Image.Image | Found:
    """Open a row's image, or say why it is dropped. Raises UserError if it is another image than before."""
    file = data.image_bytes(row_id)
    if image_key(file) != key:
        raise UserError(f"The image of row {row_id} is not the one that notebook 01_extract read (its SHA-1 differs); "
                        "give rlaif_v the same data, or run that notebook again.")  # fmt: skip
    try:
        image = load_image(file, name=f"of row {row_id}")
    except UserError:
        return Found(drop_reason="image_unreadable")
    return Found(*image.size, drop_reason=TOO_THIN) if too_thin(image.size) else image


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


def commonest(masks: pd.DataFrame, n: int = 5) -> pd.DataFrame:
    """Return the commonest keywords of each drop reason, and of the kept rows: reason, n, keywords with counts."""
    rows = []
    for reason, part in masks.groupby(masks["drop_reason"].fillna("kept"), sort=False):
        counts = part["keyword"].value_counts().head(n)
        rows.append((reason, len(part), ", ".join(f"{keyword} ({count})" for keyword, count in counts.items())))
    table = pd.DataFrame(rows, columns=["reason", "rows", "commonest keywords"])
    return table.sort_values("rows", ascending=False, ignore_index=True)
