"""ms-swift plugin: compute the perturbed images that have no file when ms-swift reads a sample.

If the folder of a path holds RECIPE.json in place of the images, :mod:`csp_utils.noise.rendered` computes the image:
the pixels are those that the file would hold. ms-swift reads every other path as usual. Training loads this plugin
(``--external_plugins``).
"""

import sys
from pathlib import Path

from swift.template import vision_utils

sys.path.append(str(Path(__file__).resolve().parents[3]))  # torchrun starts ms-swift without the project's folder

from csp_utils.noise.rendered import is_rendered, open_image  # noqa: E402

_load_file = vision_utils.load_file


def load_file(path):
    """Replace vision_utils.load_file: return a rendered image (PIL), or what the original function returns."""
    rendered = isinstance(path, str) and len(path) < 2000 and is_rendered(path)
    return open_image(path) if rendered else _load_file(path)


if _load_file.__module__ != __name__:  # once, however often this file is loaded
    vision_utils.load_file = load_file
