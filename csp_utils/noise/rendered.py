"""Perturbed images that are computed whenever they are opened, instead of being stored as files.

83,132 images of noise need much disk space (docs/scale.md), and each is a function of the original image, its mask, the
level c and the seed. With ``images: drawn`` notebook 03 writes only RECIPE.json into the folder of the images.
:func:`open_image`, and ms-swift through a plugin, find the recipe beside the path of an image that has no file, and
compute the image: the pixels are the same as in the file that ``images: files`` writes.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.base.files import portable, read_parquet, write_json
from csp_utils.base.run import RunPaths
from csp_utils.data.images import load_image
from csp_utils.data.rlaif_v import RlaifV, read_rlaif_v
from csp_utils.noise.diffusion import row_at

RECIPE = "RECIPE.json"


def image_name(row_id: str, c: int) -> str:
    """Return the file name of the image of a row at level c."""
    return f"{row_id}_c{c:03d}.png"


def write_recipe(folder: Path, paths: RunPaths, p: Any) -> None:
    """Write RECIPE.json: the parameters of notebook 03, with the paths of the data and of the masks filled in."""
    files = {"rlaif_v": portable(p.rlaif_v or paths["data/rlaif_v/train.parquet"]),
             "masks_file": portable(p.masks_file or paths["masks.parquet"])}  # fmt: skip
    write_json(p.model_dump(mode="json") | files, folder / RECIPE)


def is_rendered(path: Path | str) -> bool:
    """Return True if the image has no file and a RECIPE.json in its folder tells how to compute it."""
    path = Path(path)
    return path.suffix == ".png" and not path.is_file() and (path.parent / RECIPE).is_file()


def open_image(path: Path | str) -> Image.Image:
    """Open an image of notebook 03, whether it is a file or has to be rendered: RGB, 8 bits a channel.

    Raises UserError if there is neither a file nor a recipe, if the recipe has no row of that name, or if the data of
    the recipe have changed.
    """
    path = Path(path)
    if not is_rendered(path):
        return load_image(path)
    source = _source(path.parent, (path.parent / RECIPE).stat().st_mtime_ns)
    found = re.fullmatch(r"(\d+)_c(\d{3})\.png", path.name)
    if found is None or found[1] not in source.masks.index:
        raise UserError(f"{path} is no image that {path.parent / RECIPE} can draw; run notebook 03_perturb again.")
    return Image.fromarray(row_at(source.masks.loc[found[1]], source.data, int(found[2]), source.p))


class _Source(NamedTuple):
    """The opened inputs of a recipe."""

    p: SimpleNamespace
    data: RlaifV
    masks: pd.DataFrame


@lru_cache(maxsize=2)
def _source(folder: Path, changed: int) -> _Source:
    """Open the inputs of a recipe. ``changed`` is its time of change: part of the key, so that a new one is read."""
    p = SimpleNamespace(**json.loads((folder / RECIPE).read_text(encoding="utf-8")))
    masks = read_parquet(p.masks_file, ["row_id", "width", "height", "rle_counts"])
    return _Source(p, read_rlaif_v(p.rlaif_v), masks.set_index("row_id", drop=False))
