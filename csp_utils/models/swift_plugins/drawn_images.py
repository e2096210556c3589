"""ms-swift plugin: pictures of notebook 03 that do not lie on the disk are drawn when a sample is read.

A path whose folder holds a RECIPE.json in place of the pictures (:mod:`csp_utils.noise.rendered`) gives the same pixels that
its file would hold. Every other path is read by ms-swift as ever. Used by training (``--external_plugins``).
"""

import sys
from pathlib import Path

from swift.template import vision_utils

sys.path.append(str(Path(__file__).resolve().parents[3]))  # torchrun starts ms-swift without the project's folder

from csp_utils.noise.rendered import draw, is_drawn  # noqa: E402

_load_file = vision_utils.load_file


def load_file(path):
    """vision_utils.load_file, or the drawn picture (PIL)."""
    return draw(path) if isinstance(path, str) and len(path) < 2000 and is_drawn(path) else _load_file(path)


if _load_file.__module__ != __name__:  # once, however often this file is loaded
    vision_utils.load_file = load_file
