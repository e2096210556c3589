"""How large perturbed images are, and what it takes to write one or to draw it anew.

    python benchmarks/image_size.py FOLDER_OF_PHOTOGRAPHS

Each photograph is brought to RLAIF-V's usual size (its longer side 640 pixels), and gets the noise of eleven levels in
an ellipse that covers a sixth of it.
"""

import io
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from csp_utils.data.images import load_image  # noqa: E402
from csp_utils.noise.diffusion import perturb_row  # noqa: E402

LEVELS = range(0, 101, 10)


def ellipse(height: int, width: int, area: float) -> np.ndarray:
    """A mask, bool (height, width), in the middle: an ellipse of the image's shape that covers ``area`` of it."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return x**2 + y**2 <= 4 * area / np.pi


def main(folder: str) -> None:
    files = sorted(file for file in Path(folder).iterdir() if file.suffix in (".jpg", ".jpeg", ".png"))
    rows = []
    for file in files:
        image = load_image(file)
        image.thumbnail((640, 640))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        original, pixels = buffer.getvalue(), image.width * image.height
        mask = ellipse(image.height, image.width, 1 / 6)
        for c in LEVELS:
            start = time.process_time()
            opened = np.asarray(Image.open(io.BytesIO(original)).convert("RGB"))
            noised = perturb_row(opened, mask, c, "000000", 0)
            drawn = time.process_time() - start
            out = io.BytesIO()
            Image.fromarray(noised).save(out, "PNG", compress_level=1)
            rows.append((len(out.getvalue()) / pixels, len(original) / pixels, drawn, time.process_time() - start))
    size, jpeg, drawn, written = np.mean(rows, axis=0)
    print(f"{len(files)} photographs, {len(LEVELS)} levels each, 640 pixels wide at most")
    print(f"PNG {size:.2f} bytes a pixel, {size / jpeg:.1f} times the JPEG (quality 90) that it is made from")
    print(f"drawing one takes {drawn / written:.2f} of the time of drawing and writing it ({1000 * written:.0f} ms)")


if __name__ == "__main__":
    main(sys.argv[1])
