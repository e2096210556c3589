"""What a model is shown of an image file: the file as it is, a changed view of it, or nothing at all.

A view is a small immutable value that names its file and can draw itself, so that changed images need not be written:
the same view is the same pixels on every machine.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image, ImageFilter

from csp_utils.data.images import load_image


class View(Protocol):
    """An image that is made of a file. Hashable; its text (``str``) names it among all views."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    def load(self) -> Image.Image:
        """The picture, RGB, of the file's size."""
        ...


Shown = Path | View | None
"""An image file, a view of one, or no image."""


class Blurred(NamedTuple):
    """A Gaussian blur of the whole image, as Zhang et al. 2024 (VL-Uncertainty, arXiv 2411.11919) perturb images."""

    path: Path
    sigma: float
    """Standard deviation in percent of the image's shorter side, so that one number suits images of all sizes."""

    def load(self) -> Image.Image:
        """The blurred picture."""
        image = load_image(self.path)
        return image.filter(ImageFilter.GaussianBlur(self.sigma / 100 * min(image.size)))


def open_shown(shown: Shown) -> Image.Image | None:
    """The picture, RGB; None for no image. Raises UserError as :func:`csp_utils.data.images.load_image`."""
    return None if shown is None else load_image(shown) if isinstance(shown, Path) else shown.load()


def shown_area(shown: Shown) -> int:
    """Pixels, from the file's header alone; -1 for no image, 0 if the file cannot be read (open_shown says why)."""
    if shown is None:
        return -1
    try:
        with Image.open(shown if isinstance(shown, Path) else shown.path) as image:
            return image.width * image.height
    except OSError:
        return 0
