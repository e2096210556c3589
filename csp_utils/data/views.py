"""What a model is shown for one prompt: an image file, a changed view of a file, or no image.

A view is a small immutable value that names its file and computes its pixels when it is loaded. Changed images are
therefore never written to disk, and equal views have equal pixels on every machine.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image, ImageFilter

from csp_utils.data.images import load_image


class View(Protocol):
    """An image computed from a file. Hashable; its text (``str``) differs from that of every other view."""

    @property
    def path(self) -> Path:
        """The image file."""
        ...

    def load(self) -> Image.Image:
        """Compute the image: RGB, with the size of the file's image."""
        ...


Shown = Path | View | None
"""An image file, a view of one, or no image."""


class Blurred(NamedTuple):
    """A Gaussian blur of the whole image, as Zhang et al. 2024 (VL-Uncertainty, arXiv 2411.11919) perturb images."""

    path: Path
    sigma: float
    """Standard deviation in percent of the image's shorter side, so that one number suits images of all sizes."""

    def load(self) -> Image.Image:
        """Blur the image of the file."""
        image = load_image(self.path)
        return image.filter(ImageFilter.GaussianBlur(self.sigma / 100 * min(image.size)))


def open_shown(shown: Shown) -> Image.Image | None:
    """Load an image or a view as RGB; return None for no image.

    Raises UserError as :func:`csp_utils.data.images.load_image` does.
    """
    return None if shown is None else load_image(shown) if isinstance(shown, Path) else shown.load()


def shown_areas(shown: Iterable[Shown]) -> dict[Shown, int]:
    """Return :func:`shown_area` of each image or view; the header of a file is read once, however many views it has."""
    area = lru_cache(maxsize=None)(shown_area)
    return {one: area(one if one is None or isinstance(one, Path) else one.path) for one in dict.fromkeys(shown)}


def shown_area(shown: Shown) -> int:
    """Return width x height in pixels from the file's header alone; -1 for no image.

    A file that cannot be read gives 0: :func:`open_shown` raises the error when the image is needed.
    """
    if shown is None:
        return -1
    try:
        with Image.open(shown if isinstance(shown, Path) else shown.path) as image:
            return image.width * image.height
    except OSError:
        return 0
