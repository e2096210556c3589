"""Render a perturbed image whenever it is opened, from its row, its level and the seed; no file holds it.

83,132 images of noise are large (docs/scale.md). Each is a function of the original image, its mask, the level and the
seed. With ``images: drawn`` notebook 03 writes RECIPE.json into the folder of the images, and no image. Where the file
of an image is not there, :func:`csp_utils.data.images.load_image`, and ms-swift through a plugin, look for the recipe
beside it and render the image. The pixels are those that the file would have.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.base.files import portable, read_parquet, write_json
from csp_utils.base.run import RunPaths

RECIPE = "RECIPE.json"


def image_name(row_id: str, c: int) -> str:
    """Return the file name of the image of a row at a level."""
    return f"{row_id}_c{c:03d}.png"


def write_recipe(folder: Path, paths: RunPaths, p: Any) -> None:
    """Write the recipe of the images of ``folder``: the parameters, with the files that they mean."""
    files = {"rlaif_v": portable(p.rlaif_v or paths["data/rlaif_v/train.parquet"]),
             "masks_file": portable(p.masks_file or paths["masks.parquet"])}  # fmt: skip
    write_json(p.model_dump(mode="json") | files, folder / RECIPE)


def is_drawn(path: Path | str) -> bool:
    """Say whether an image is not there, but can be rendered."""
    path = Path(path)
    return path.suffix == ".png" and not path.is_file() and (path.parent / RECIPE).is_file()


class _Source(NamedTuple):
    """The parameters, data and masks that a recipe names, opened."""

    p: SimpleNamespace
    data: Any
    masks: Any


@lru_cache(maxsize=2)
def _opened(folder: Path, changed: int) -> _Source:
    """Open the data of the recipe in ``folder``. ``changed``, the time of its last change, keeps the cache fresh."""
    from csp_utils.data.rlaif_v import read_rlaif_v

    p = SimpleNamespace(**json.loads((folder / RECIPE).read_text(encoding="utf-8")))
    masks = read_parquet(p.masks_file, ["row_id", "width", "height", "rle_counts"])
    return _Source(p, read_rlaif_v(p.rlaif_v), masks.set_index("row_id", drop=False))


def draw(path: Path | str) -> Image.Image:
    """Render the image of the path ``path``: RGB, 8 bits.

    Raises UserError if the recipe knows no image of this name, or if the data behind it have changed.
    """
    from csp_utils.noise.diffusion import row_at

    path = Path(path)
    source = _opened(path.parent, (path.parent / RECIPE).stat().st_mtime_ns)
    found = re.fullmatch(r"(\d+)_c(\d{3})\.png", path.name)
    if found is None or found[1] not in source.masks.index:
        raise UserError(f"{path} is no image that {path.parent / RECIPE} can draw; run notebook 03_perturb again.")
    return Image.fromarray(row_at(source.masks.loc[found[1]], source.data, int(found[2]), source.p))
