"""Find training images that are also benchmark images: RLAIF-V and POPE both take images from COCO.

Images are compared by content. Each is scaled to 16 x 16 RGB values, which stay nearly the same when a file is encoded
again, as JPEG or PNG, or resized. Two images are the same if all these values are nearly equal. The mean colours of 4 x
4 squares of that small image serve as a perceptual hash (block means: Yang, Gu and Niu 2006) that is compared with all
benchmark images at once. It loses no match, because a mean of differences is never larger than the largest of them.

A hash of bits (DCT or average hash) would be worse: the bits of an even surface are chance, so up to 31 of 63 change
when such an image is encoded again, while those of two different scenes of the tiny world can differ in 8 alone.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.data.benchmarks import find_images
from csp_utils.data.images import load_small

SIDE, SQUARES = 16, 4
"""Sides of the small image and of its hash."""

LARGEST, MEAN = 32.0, 4.0
"""Limits of the largest and of the mean difference of two equal images, of 255.

Measured with the images of tests/data/test_overlap.py: JPEG of quality 30 to 95, WebP, PNG and sizes of 256 to 768
pixels change one value by at most 12 and the mean by at most 2.1. Different scenes of the tiny world differ by at least
58 and 7.8, and a photograph without 5 % of its width differs from the whole by at least 70 and 10.
"""


class BenchmarkImages:
    """The images of a benchmark, which training rows may not show.

    Args:
        folder: the benchmark's folder.
        questions: its table (:mod:`csp_utils.data.benchmarks`).

    Raises UserError if a benchmark image is missing or damaged.
    """

    def __init__(self, folder: str | Path, questions: pd.DataFrame) -> None:
        paths = find_images(folder, questions)
        self._small = np.stack([load_small(path, SIDE) for path in paths.values()]).astype(np.float32)
        self._hashes = _hash(self._small)
        self._numbers = {number for name in paths if re.search(r"\d{12}", name) and (number := coco_number(name))}

    def __len__(self) -> int:
        return len(self._small)

    def shows(self, content: bytes | None, image_path: str | None = None) -> bool | None:
        """Tell whether a training image is one of the benchmark's.

        The content decides wherever it can be decoded, because a number in a file name proves nothing: other data sets
        number their images too, and RLAIF-V's rows may be named anew. COCO's number in ``image_path`` decides for an
        image that cannot be decoded.

        Args:
            content: the encoded image; None if there is none.
            image_path: its file name, of any form; None if it has none.

        Returns:
            True or False; None if it cannot be told: there is no image that can be decoded, and either the name holds
            no number or the benchmark's names hold none of COCO.
        """
        try:
            small = load_small(content or b"", SIDE).astype(np.float32)
        except UserError:
            number = coco_number(image_path)
            return None if number is None or not self._numbers else number in self._numbers
        near = np.abs(self._hashes - _hash(small)).max(axis=-1) <= LARGEST
        difference = np.abs(self._small[near] - small)
        same = (difference.max(axis=(1, 2, 3), initial=0) <= LARGEST) & (difference.mean(axis=(1, 2, 3)) <= MEAN)
        return bool(same.any())


def _hash(small: np.ndarray) -> np.ndarray:
    """Return the mean colours of the squares of small images: (..., SIDE, SIDE, 3) -> (..., SQUARES * SQUARES * 3)."""
    *front, side, _, _ = small.shape
    squares = small.reshape(*front, SQUARES, side // SQUARES, SQUARES, side // SQUARES, 3)
    return squares.mean(axis=(-4, -2)).reshape(*front, -1)


def coco_number(image_path: object) -> int | None:
    """Return COCO's number in a file name or address, or None.

    COCO_val2014_000000310196.jpg, coco_310196 and 310196.jpg?download=true all give 310196. The 12 digits
    count if there are so many, else the last number of the name; the year of val2014 is none.
    """
    if not isinstance(image_path, str):
        return None
    name = re.split(r"[?#]", image_path)[0].replace("\\", "/").rstrip("/").rpartition("/")[2]
    name = re.sub(r"(train|val|test)20\d\d", "", name, flags=re.IGNORECASE)
    stem = name.partition(".")[0]
    digits = re.findall(r"(?<![0-9])[0-9]{12}(?![0-9])", stem) or re.findall(r"(?<![0-9])[0-9]{1,12}(?![0-9])", stem)
    return int(digits[-1]) if digits else None
