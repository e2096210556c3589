"""Perturbed pictures that are drawn whenever they are opened, from (row, level, seed), instead of lying on the disk.

83,132 pictures of noise are large (docs/scale.md), and each is a function of the original picture, its mask, the level
and the seed. With ``images: drawn`` notebook 03 writes RECIPE.json where the pictures would be;
:func:`csp_utils.data.images.load_image`, and ms-swift through a plugin, find it beside the path of a picture that is not
there, and draw it: the same pixels as in the file.
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


def picture_name(row_id: str, c: int) -> str:
    """File name of the picture of a row at a level."""
    return f"{row_id}_c{c:03d}.png"


def write_recipe(folder: Path, paths: RunPaths, p: Any) -> None:
    """Writes how the pictures of ``folder`` are drawn: the parameters, with the files that they mean."""
    files = {"rlaif_v": portable(p.rlaif_v or paths["data/rlaif_v/train.parquet"]), "masks_file": portable(p.masks_file or paths["masks.parquet"])}
    write_json(p.model_dump(mode="json") | files, folder / RECIPE)


def is_drawn(path: Path | str) -> bool:
    """Whether a picture is not there, but can be drawn."""
    path = Path(path)
    return path.suffix == ".png" and not path.is_file() and (path.parent / RECIPE).is_file()


class _Source(NamedTuple):
    """What a recipe draws from, opened."""

    p: SimpleNamespace
    data: Any
    masks: Any


@lru_cache(maxsize=2)
def _opened(folder: Path, changed: int) -> _Source:
    """``changed``: time of the recipe's last change, so that another one is read anew."""
    from csp_utils.data.rlaif_v import read_rlaif_v

    p = SimpleNamespace(**json.loads((folder / RECIPE).read_text(encoding="utf-8")))
    masks = read_parquet(p.masks_file, ["row_id", "width", "height", "rle_counts"])
    return _Source(p, read_rlaif_v(p.rlaif_v), masks.set_index("row_id", drop=False))


def draw(path: Path | str) -> Image.Image:
    """The picture that would lie at ``path``: RGB, 8 bits.

    Raises UserError if the name is no picture's of this recipe, or if the data it is drawn from have changed.
    """
    from csp_utils.noise.diffusion import row_at

    path = Path(path)
    source = _opened(path.parent, (path.parent / RECIPE).stat().st_mtime_ns)
    found = re.fullmatch(r"(\d+)_c(\d{3})\.png", path.name)
    if found is None or found[1] not in source.masks.index:
        raise UserError(f"{path} is no picture that {path.parent / RECIPE} can draw; run notebook 03_perturb again.")
    return Image.fromarray(row_at(source.masks.loc[found[1]], source.data, int(found[2]), source.p))
