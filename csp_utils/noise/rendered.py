"""Perturbed images that are computed whenever they are opened, instead of being stored as files.

83,132 images of noise need much disk space (docs/scale.md), and each is a function of the original image, its mask, the
level c and the seed. With ``images: drawn`` notebook 03 writes a recipe into the folder of the images: RECIPE.json, the
masks, and the originals as RLAIF-V encodes them. :func:`open_image`, and ms-swift through a plugin, find the recipe
beside the path of an image that has no file, and compute the image: the pixels are the same as in the file that
``images: files`` writes.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_parquet, write_json, write_parquet
from csp_utils.base.progress import Progress, silent
from csp_utils.data.image_store import ImageStore, write_images
from csp_utils.data.images import load_image
from csp_utils.data.rlaif_v import RlaifV
from csp_utils.noise.diffusion import check_image, row_at

RECIPE, MASKS, ORIGINALS = "RECIPE.json", "MASKS.parquet", "ORIGINALS.arrow"
MASK_COLUMNS = ["row_id", "width", "height", "rle_counts", "boxes", "image_sha1"]


def image_name(row_id: str, c: int) -> str:
    """Return the file name of the image of a row at level c."""
    return f"{row_id}_c{c:03d}.png"


def write_recipe(folder: Path, rows: pd.DataFrame, data: RlaifV, p: Any, progress: Progress = silent) -> None:
    """Write what :func:`open_image` needs: the parameters, the masks and the original images.

    The folder depends on no other file. The originals are stored once each, for random access.

    Args:
        rows: rows of masks.parquet with a mask.
        data: the rows that the masks were found in.
        p: parameters of notebook 03, with the schedule that counts.
    """
    def files() -> Iterator[tuple[str, bytes]]:
        for row in progress(list(rows.itertuples()), "store the originals"):
            file = data.image_bytes(row.row_id)
            check_image(row, file)
            yield row.image_sha1, file

    write_images(files(), folder / ORIGINALS)
    write_parquet(rows[MASK_COLUMNS], folder / MASKS)
    write_json(p.model_dump(mode="json", exclude={"rlaif_v", "masks_file", "shards", "run"}), folder / RECIPE)


def is_rendered(path: Path | str) -> bool:
    """Return True if the image has no file and a RECIPE.json in its folder tells how to compute it."""
    path = Path(path)
    return path.suffix == ".png" and not path.is_file() and (path.parent / RECIPE).is_file()


def open_image(path: Path | str) -> Image.Image:
    """Open an image of notebook 03, whether it is a file or has to be rendered: RGB, 8 bits a channel.

    Raises UserError if there is neither a file nor a recipe, or if the recipe has no row of that name.
    """
    path = Path(path)
    if not is_rendered(path):
        return load_image(path)
    source = _source(path.parent, (path.parent / RECIPE).stat().st_mtime_ns)
    found = re.fullmatch(r"(\d+)_c(\d{3})\.png", path.name)
    if found is None or found[1] not in source.masks.index:
        raise UserError(f"{path} is no image that {path.parent / RECIPE} can draw; run notebook 03_perturb again.")
    row = source.masks.loc[found[1]]
    return Image.fromarray(row_at(row, source.originals[row.image_sha1], int(found[2]), source.p))


class _Source(NamedTuple):
    """The opened files of a recipe."""

    p: SimpleNamespace
    originals: ImageStore
    masks: pd.DataFrame


@lru_cache(maxsize=2)
def _source(folder: Path, changed: int) -> _Source:
    """Open the files of a recipe. ``changed`` is its time of change: part of the key, so that a new one is read."""
    p = SimpleNamespace(**json.loads((folder / RECIPE).read_text(encoding="utf-8")))
    masks = read_parquet(folder / MASKS).set_index("row_id", drop=False)
    return _Source(p, ImageStore(folder / ORIGINALS), masks)
